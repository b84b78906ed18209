"""What other programs say of the charts: Helm's own, kubeconform with the schemas of each
Kubernetes version that we name, and that the files made from the charts are current."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from chart import cases, rendering, schemas
from cluster.programs import CannotBuild, program
from said import says

from rvk8s.yaml_loader import load_all

sys.path.insert(0, str(cases.ROOT / "scripts"))
import chart_readme

import manifests


def _program(name: str) -> str:
    try:
        return str(program(name))
    except CannotBuild as error:
        pytest.skip(f"{name} is not there: {error}")


def _run(*command: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("case", cases.CASES)
def test_helm_lint_is_clean(case: str, tmp_path: Path) -> None:
    chart, _, values = cases.CASES[case]
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(values))
    done = _run(_program("helm"), "lint", "--strict", cases.ROOT / "helm" / chart, "-f", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[ERROR]" not in done.stdout
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("case", cases.CASES)
def test_the_helm_program_renders_the_same_objects(case: str, tmp_path: Path) -> None:
    chart, release, values = cases.CASES[case]
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(values))
    folder = cases.ROOT / "helm" / chart
    options = ("-f", file, "-n", rendering.NAMESPACE)
    done = _run(_program("helm"), "template", release, folder, *options)
    assert done.returncode == 0, done.stderr

    def key(o: rendering.Object) -> tuple[str, str]:
        return o["kind"], o["metadata"]["name"]

    theirs = sorted(load_all(done.stdout), key=key)
    assert theirs == sorted(rendering.objects(values, release, chart), key=key)


@pytest.mark.parametrize("case", ["gpus", "schedule", "platform-all"])
def test_notes_name_what_is_there(case: str, tmp_path: Path) -> None:
    chart, release, values = cases.CASES[case]
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(values))
    options = ("--dry-run=client", "-f", file, "-n", rendering.NAMESPACE)
    done = _run(_program("helm"), "install", release, cases.ROOT / "helm" / chart, *options)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("\nNOTES:\n")[2]
    assert f"-n {rendering.NAMESPACE} " in notes
    assert "<no value>" not in notes
    if case == "gpus":
        run = cases.RUN
        assert f"rvk8s status {run} -n {rendering.NAMESPACE} -w" in notes
        assert f"kubectl -n {rendering.NAMESPACE} logs job/{run} -f" in notes
        assert "2 node(s), 2 GPU(s) each, 4 rank(s)" in notes
    if case == "schedule":
        assert "get cronjob/potsdam-nightly -o jsonpath='{.status.lastSuccessfulTime}'" in notes
        assert says(notes, "…driver that cannot start…no run…")
        assert f"rvk8s cancel RUN -n {rendering.NAMESPACE}" in notes
        assert """patch cronjob/potsdam-nightly -p '{"spec": {"suspend": true}}'""" in notes


@pytest.mark.slow
@pytest.mark.parametrize("minor", schemas.KUBERNETES)
def test_kubeconform(minor: str) -> None:
    """Everything that is applied, and that the driver makes, is valid in this Kubernetes."""
    try:
        location = schemas.folder(minor)
    except schemas.NoSchemas as error:
        pytest.skip(f"no schemas of Kubernetes {minor}: {error}")
    objects = []
    for chart, release, values in cases.CASES.values():
        objects += rendering.everything(rendering.objects(values, release, chart))
    stream = "".join("---\n" + json.dumps(o) + "\n" for o in objects)
    options = ("-strict", "-summary", "-output", "json", "-schema-location")
    done = _run(
        _program("kubeconform"), *options, f"{location}/{schemas.LOCATION}", "-", stdin=stream
    )
    report = json.loads(done.stdout)
    assert not report["resources"], report["resources"]
    assert report["summary"] == {
        "valid": len(objects),
        "invalid": 0,
        "errors": 0,
        "skipped": 0,
    }


def test_kubeconform_knows_a_wrong_field() -> None:
    """The schemas are strict: they are not all true."""
    minor = next(iter(schemas.KUBERNETES))
    try:
        location = schemas.folder(minor)
    except schemas.NoSchemas as error:
        pytest.skip(f"no schemas of Kubernetes {minor}: {error}")
    applied = rendering.everything(rendering.objects(cases.RUNS["gpus"], "r"))
    (job,) = rendering.stages(applied)["eval"]
    job["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Never"
    (training,) = rendering.stages(applied)["train"]
    training["spec"]["elasticPolicy"]["minReplica"] = 1
    stream = f"{json.dumps(job)}\n---\n{json.dumps(training)}\n"
    options = ("-strict", "-output", "json", "-schema-location")
    done = _run(
        _program("kubeconform"), *options, f"{location}/{schemas.LOCATION}", "-", stdin=stream
    )
    found = json.loads(done.stdout)["resources"]
    assert {r["kind"]: r["status"] for r in found} == {
        "Job": "statusInvalid",
        "PyTorchJob": "statusInvalid",
    }


@pytest.mark.parametrize("chart", chart_readme.HEADS)
def test_the_readme_is_current(chart: str) -> None:
    path = cases.ROOT / "helm" / chart / "README.md"
    assert path.read_text() == chart_readme.page(chart), "`make manifests` writes it anew"


@pytest.mark.parametrize("chart", chart_readme.HEADS)
def test_every_value_is_read(chart: str) -> None:
    folder = cases.ROOT / "helm" / chart / "templates"
    text = "".join(path.read_text() for path in folder.rglob("*"))
    # Sizes of a pool are read by a name that is put together: cpu, cpuPerGpu.
    made = {f"{kind}PerGpu" for kind in ("cpu", "memory", "shm")}
    for key, _, _ in chart_readme.rows_of(chart):
        above, _, name = key.rpartition(".")
        whole = above.endswith(".resources") and "toYaml .resources" in text
        assert whole or name in made or name in text, f"{key} is read by no template"


def test_manifests_are_current() -> None:
    expected = manifests.files()
    found = {
        str(path.relative_to(manifests.MANIFESTS)): path.read_text()
        for folder in manifests.RENDERED
        for path in (manifests.MANIFESTS / folder).rglob("*")
        if path.is_file()
    }
    assert found == expected, "`make manifests` writes them anew"


def test_templates_ask_neither_the_cluster_nor_the_clock() -> None:
    for path in (cases.ROOT / "helm").rglob("templates/*"):
        for word in ("lookup ", "now ", "now)", "rand", ".Capabilities", "genCA", "uuidv4", "env "):
            text = path.read_text()
            assert f"{{{{ {word}" not in text, f"{path}: {word}"
            assert f"({word}" not in text, f"{path}: {word}"
            assert not (word == ".Capabilities" and word in text), path
