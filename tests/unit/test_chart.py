"""Values -> manifests: the library and the helm program give the same text, errors are one line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cluster.programs import CannotBuild, program
from said import says

from rvk8s import chart
from rvk8s.errors import InputError, InputErrors
from rvk8s.values import deep_merged, to_yaml

BASE: dict[str, Any] = {
    "run": {"id": "one-20261124-101112-abcd", "created": "2026-11-24T10:11:12Z"},
    "experiment": {"name": "one", "module": "one.py", "source": {"one.py": "x = 1\n\n# end"}},
    "rootUri": "s3://bucket/runs",
    "image": {"stage": "registry.example.com/rvk8s:1"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "least": {},
    "gpus": {"stages": {"train": {"gpus": 4}, "predict": {"gpus": 1, "splits": 3}}},
    "job": {"launcher": "job", "stages": {"train": {"nodes": 2}}},
    "schedule": {"schedule": {"cron": "0 3 * * *"}},
    "secret": {"storage": {"secretName": "keys", "endpoint": "http://s3:9000", "pathStyle": True}},
    "queue": {"queue": "gpu", "labels": {"team": "maps"}, "networkPolicy": {"enabled": False}},
    "large": {"stages": {"train": {"deadlineSeconds": 12345678}}},
    "text": {"experiment": {"args": {"s": "---\nkind: Job\n", "n": 3, "f": 0.5, "l": [1, "a"]}}},
    "not numbers": {"experiment": {"args": {"l": ["1e3", "0o17", "y", "1:30", "2026-11-24", "~"]}}},
}
SCHEMA = json.loads((chart.chart_dir() / "values.schema.json").read_text())
ENDPOINT = SCHEMA["properties"]["storage"]["properties"]["endpoint"]


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PATH that has helm."""
    try:
        path = program("helm")
    except CannotBuild as error:
        pytest.skip(f"NOT TESTED: the helm program, because {error}")
    folder = tmp_path_factory.mktemp("bin")
    (folder / "helm").symlink_to(path)
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_library_and_program_give_the_same_text(
    variant: str, helm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = deep_merged(BASE, VARIANTS[variant])
    monkeypatch.setenv("PATH", f"{helm}:/usr/bin:/bin")
    monkeypatch.setenv("RVK8S_HELM", "sdk")
    by_library = chart.render(values, "release", "team")
    monkeypatch.setenv("RVK8S_HELM", "binary")
    assert chart.render(values, "release", "team") == by_library
    file = tmp_path / "values.yaml"
    file.write_text(to_yaml(values))
    command = [helm / "helm", "template", "release", chart.chart_dir(), "-n", "team", "-f", file]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout.decode() == by_library.text
    kinds = [manifest["kind"] for manifest in by_library.manifests]
    assert kinds[-1] == ("CronJob" if variant == "schedule" else "Job")


def test_a_program_that_was_built_with_an_older_kubernetes_renders(
    helm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "helm"
    older.write_text(f'#!/bin/bash\nexec {helm}/helm "$1" --kube-version 1.29.0 "${{@:2}}"\n')
    older.chmod(0o755)
    command = [older, "template", "r", chart.chart_dir()]
    refused = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "incompatible with Kubernetes v1.29.0" in refused
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("RVK8S_HELM", "binary")
    assert chart.render(deep_merged(BASE, VARIANTS["gpus"]), "r", "n").manifests


def test_rendering_twice_gives_the_same_bytes() -> None:
    values = deep_merged(BASE, VARIANTS["gpus"])
    assert chart.render(values, "r", "n") == chart.render(values, "r", "n")


@pytest.mark.parametrize("mode", ["sdk", "binary"])
@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        (
            {"stages": {"train": {"gpus": 5}}, "pools": {"gpu": {"gpusPerNode": 2}}},
            ["values.stages.train.gpus (--gpus): 5 GPUs…whole nodes of 2"],
        ),
        (
            {"stages": {"train": {"gpu": 1}}, "lancher": "job"},
            [
                "values.stages.train.gpu: …gpus?",
                "values.lancher: …launcher?",
            ],
        ),
        ({"stages": {"train": {"gpus": -1}}}, ["values.stages.train.gpus (--gpus): "]),
        (
            {"stages": {"train": {"gpus": -1, "retries": "many"}}},
            ["values.stages.train.gpus (--gpus): ", "values.stages.train.retries: "],
        ),
        (
            {
                "pools": {
                    "gpu": {"env": {"AWS_SECRET_ACCESS_KEY": "x", "RVK8S_GPUS": "1"}},
                    "cpu": {"env": {"wandb_api_key": "x"}},
                },
                "driver": {"env": {"RVK8S_S3_PATH_STYLE": "0"}},
            },
            [
                "values.pools.gpu.env: AWS_SECRET_ACCESS_KEY…secret",
                "values.pools.gpu.env: RVK8S_GPUS…set by rvk8s",
                "values.pools.cpu.env: wandb_api_key…secret; "
                "…values.pools.cpu.envFrom: [{secretRef: {name: ",
                "values.driver.env: RVK8S_S3_PATH_STYLE…set by rvk8s…; …values.storag",
            ],
        ),
        (
            {"experiment": {"source": {"../x.py": ""}}},
            ["values.experiment.source: ../x.py…out of the project"],
        ),
        ({"launcher": "mpi"}, ["values.launcher (--launcher): "]),
        (
            {"storage": {"endpoint": "minio:9000"}, "pools": {"gpu": {"shmPerGpu": "4 GB"}}},
            [
                "values.storage.endpoint: 'minio:9000'…"
                f"{ENDPOINT['pattern']!r}; …{ENDPOINT['description']}",
                "values.pools.gpu.shmPerGpu: '4 GB'…pattern…/dev/shm…Ki, Mi, Gi…",
            ],
        ),
        (
            {"pools": {"gpu": {"tolerations": [{"key": "a", "effct": "NoSchedule"}]}}},
            ["values.pools.gpu.tolerations.0.effct: …effect?"],
        ),
        (
            {"pools": {"GPU": {}, "gpu": {"nccl": {"NCCL_DEBUG": "INFO"}}}},
            [
                "values.pools: 'GPU'…^[a-z0-9]…",
                "values.pools.gpu.nccl: NCCL_DEBUG…NCCL_…; …DEBUG",
            ],
        ),
        (
            {"pools": {"cpu": {"envFrom": [{"secretRef": {"name": "a", "key": "b"}}, {}]}}},
            [
                "values.pools.cpu.envFrom.0.secretRef.key: …name, optional",
                "values.pools.cpu.envFrom.1: 'oneOf'…",
            ],
        ),
        ({"rootUri": ""}, ["values.rootUri (--root-uri): "]),
        (
            {"storage": None, "driver": {"patience": None, "pool": None}, "launcher": None},
            [
                "values.storage: is empty; ",
                "values.driver.patience: is empty; ",
                "values.driver.pool: is empty; ",
                "values.launcher (--launcher): is empty; ",
            ],
        ),
    ],
)
def test_mistakes_are_one_line_each(
    mode: str,
    changes: dict[str, Any],
    messages: list[str],
    helm: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", f"{helm}:/usr/bin:/bin")
    monkeypatch.setenv("RVK8S_HELM", mode)
    with pytest.raises(InputErrors) as caught:
        chart.render(deep_merged(BASE, changes), "r", "n")
    lines = str(caught.value).splitlines()
    assert len(lines) == len(messages)
    for message in messages:
        assert any(says(line, f"{message}…") for line in lines), lines


def test_no_helm_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("RVK8S_HELM", "binary")
    with pytest.raises(InputError, match=r"helm on PATH"):
        chart.render(BASE, "r", "n")
    monkeypatch.setenv("RVK8S_HELM", "both")
    with pytest.raises(InputError, match="RVK8S_HELM: 'both' "):
        chart.render(BASE, "r", "n")
