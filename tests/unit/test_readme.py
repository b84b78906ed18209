"""The README's commands work: each is run, or where it would take minutes, planned."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from rvk8s import chart, cli, yaml_loader
from rvk8s.project import load

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
#: What boto3 is called for -> the actions that a policy has to allow.
_RIGHTS = {
    "abort_multipart_upload": ("AbortMultipartUpload",),
    "complete_multipart_upload": ("PutObject",),
    "copy": ("GetObject", "PutObject"),
    "create_multipart_upload": ("PutObject",),
    "delete_object": ("DeleteObject",),
    "get_object": ("GetObject",),
    "head_object": ("GetObject",),
    "list_multipart_uploads": ("ListBucketMultipartUploads",),
    "list_objects_v2": ("ListBucket",),
    "list_parts": ("ListMultipartUploadParts",),
    "put_object": ("PutObject",),
    "upload_part": ("PutObject",),
}


def commands_in(page: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    texts = [block.replace("\\\n", " ") for block in blocks]
    lines = [line.split(" #")[0].strip() for text in texts for line in text.splitlines()]
    return [line for line in lines if line]


def readme_commands() -> list[str]:
    return commands_in("README.md")


def rvk8s_commands() -> list[str]:
    """Of the README and of the guide to clusters."""
    found = [*readme_commands(), *commands_in("docs/guide/cluster.md")]
    return [command for command in dict.fromkeys(found) if command.startswith("rvk8s ")]


def run(command: str, folder: Path) -> str:
    environ = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        shlex.split(command), cwd=folder, env=environ, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("my-project")
    run("rvk8s init", folder)
    return folder


@pytest.mark.parametrize("command", [c for c in readme_commands() if c.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    assert run(f"{command} --dry-run", ROOT)


@pytest.mark.parametrize("real", [True, False])
def test_the_demo(
    real: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its commands are ones that this repository's file accepts; it says what imagery it takes."""
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    ran: list[list[str]] = []
    monkeypatch.setattr(demo, "run", lambda *words: ran.append([str(word) for word in words]))
    monkeypatch.setenv("RVK8S_DATA", str(tmp_path))
    if real:
        (tmp_path / "dubai").mkdir()
        (tmp_path / "dubai" / "tile1_image.tif").touch()
    demo.main()
    program = ran[-1][0]
    assert Path(program) == BIN / "rvk8s"
    said = capsys.readouterr().err
    if real:
        folder = str(tmp_path / "dubai")
        assert ran == [[program, "run", "dubai-quick", "-a", "raw_uri", folder]]
        assert said.startswith(f"real imagery: {folder}\n")
    else:
        draw, words = ran
        folder = str(ROOT / ".rvk8s-demo" / "potsdam")
        assert words == [program, "run", "potsdam-synthetic", "-a", "raw_uri", folder]
        assert draw[:3] == [sys.executable, str(ROOT / "examples" / "synthetic.py"), folder]
        args = load(ROOT / "rvk8s.yaml").select("potsdam-synthetic")[0].args
        used = {*args["train_ids"].split(","), *args["val_ids"].split(",")}
        assert used == {word for word in draw if re.fullmatch(r"\d_\d+", word)}
        assert "SYNTHETIC" in said
    assert ran[-1][2] in run(shlex.join([*ran[-1], "--dry-run"]), ROOT)


@pytest.mark.parametrize("command", rvk8s_commands())
def test_commands_work_in_a_new_project(command: str, project: Path) -> None:
    if command == "rvk8s init":
        assert (project / "experiments" / "segmentation.py").exists()
    elif command.startswith("rvk8s run"):
        assert "segmentation" in run(f"{command} --dry-run", project)
    elif command.startswith(("rvk8s submit", "rvk8s render")) and " RUN" not in command:
        # A new project's root is a folder of this machine, and it names no image.
        options = "--root-uri s3://bucket/runs --image registry.example.com/rvk8s:1"
        more = "--dry-run" * ("submit" in command and "--dry-run" not in command)
        command = command.replace("--dry-run=server", "--dry-run=client").replace(" --follow", "")
        assert "kind: Job" in run(f"{command} {options} {more}", project)
    elif " RUN" in command or command.startswith("rvk8s list -n"):
        # Of a run or a cluster that isn't there: only its words can be checked.
        name, *words = shlex.split(command)[1:]
        found = cli.rvk8s.get_command(click.Context(cli.rvk8s), name)
        assert found is not None
        found.make_context(name, words)
    elif command.startswith("rvk8s plan segmentation --gpus"):
        options = "--root-uri s3://bucket/runs --image registry.example.com/rvk8s:1"
        assert "4" in run(f"{command} {options}", project)
    else:
        run(command, project)


def test_nothing_else_is_in_the_readme() -> None:
    starts = {command.split()[0] for command in readme_commands()}
    assert starts == {"make", "rvk8s", "rastervision", ".", "mkdir"}


def test_files_of_the_guide_to_clusters_exist() -> None:
    text = (ROOT / "docs/guide/cluster.md").read_text()
    named = set(re.findall(r"(?:helm|manifests|docker)/[-a-z0-9/]+[a-z0-9]", text))
    assert {"docker/build", "docker/publish", "helm/rvk8s-platform"} <= named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_guide_s_diff_is_with_the_options_of_its_submit() -> None:
    commands = [command.split() for command in commands_in("docs/guide/cluster.md")]
    (diff,) = [words[3:] for words in commands if words[:2] == ["rvk8s", "diff"]]
    (again,) = [words[3:] for words in commands if words[-2:] == ["--run-id", "RUN"]]
    assert diff == again[:-2] != []


def test_what_the_guide_says_of_raster_vision_s_runner() -> None:
    text = (ROOT / "docs/guide/cluster.md").read_text()
    settings, file = text.partition("The settings ")[2].split("Of an `rvk8s.yaml`")
    names = set(re.findall(r"`(\w+)`", settings))
    source = (ROOT / "plugin/rastervision/kubernetes/runner.py").read_text()
    known = source.partition("SETTINGS = {")[2].partition("}")[0]
    assert names == set(re.findall(r'"(\w+)":', known))
    schema = json.loads((ROOT / "rvk8s/project/project.schema.json").read_text())
    keys = set(re.findall(r"`(\w+)`", file))
    assert keys == {"image", "namespace", "preset", "values"}
    assert keys <= set(schema["properties"])


def test_the_guide_names_the_rights_of_the_buckets_role() -> None:
    rows = (ROOT / "docs/guide/cluster.md").read_text().splitlines()
    (row,) = [row for row in rows if row.startswith("| EKS")]
    named = re.findall(r"`(?:s3:)?([A-Z]\w+)`", row.partition("`kms:")[0])
    files = (ROOT / "rvk8s/storage").glob("s3*.py")
    calls = re.compile(r"\bs3\.(?:get_paginator\(\"(\w+)\"|(?!get_paginator)(\w+)\()")
    asked = {"".join(call) for file in files for call in calls.findall(file.read_text())}
    assert sorted(named) == sorted({right for call in asked for right in _RIGHTS[call]})


@pytest.mark.parametrize("page", ["docs/guide/helm-and-kubectl.md", "helm/rvk8s/README.md"])
def test_values_for_helm_are_written_by_the_page_s_command(page: str) -> None:
    (command,) = [c for c in commands_in(page) if c.endswith(" > run.yaml")]
    values = yaml_loader.load(run(command.removesuffix(" > run.yaml"), ROOT))
    assert values["stages"]["train"]["gpus"] == 4
    rendered = chart.render(values, "potsdam", "rvk8s")
    assert rendered.manifests[-1]["kind"] == "Job"


def test_extras_that_are_installed_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = set(extras["optional-dependencies"])
    pages = [ROOT / "README.md", *(ROOT / "docs/guide").glob("*.md")]
    named = {one for page in pages for one in re.findall(r"'\.\[(\w+)\]'", page.read_text())}
    assert named == {"s3", "stage"}
    assert named <= known


def test_links_of_the_readme_exist() -> None:
    links = re.findall(r"\]\(([^)h][^)]*)\)", (ROOT / "README.md").read_text())
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing
