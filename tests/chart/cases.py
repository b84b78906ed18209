"""Sets of values that the charts are tested with, and what they render to: golden/NAME.yaml.

`make manifests` runs this file, which writes the golden files anew.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from rvk8s import yaml_loader

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
RUN = "potsdam-20261124-131501-7f3a"
Values = dict[str, Any]

BASE: Values = {
    "run": {"id": RUN, "created": "2026-11-24T13:15:01Z", "goOn": f"rvk8s submit --run-id {RUN}"},
    "experiment": {
        "name": "potsdam",
        "module": "experiments/potsdam.py",
        "args": {"batch_sz": 16, "lr": 0.001, "train_count": 10_000_000, "test": True},
        "source": {
            "experiments/potsdam.py": "import common\n\nNAME = '<Größe> & \"more\"'\n",
            "experiments/common.py": "",
        },
    },
    "rootUri": "s3://team-bucket/runs/",
    "image": {"stage": "registry.example.com/team/rvk8s:1.0.0"},
}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Values:
    """Values as Helm merges files: mappings key by key, anything else replaced."""
    out = deepcopy(dict(base))
    for key, value in changes.items():
        both = isinstance(out.get(key), dict) and isinstance(value, Mapping)
        out[key] = merged(out[key], value) if both else deepcopy(value)
    return out


def run(**changes: Any) -> Values:
    return merged(BASE, changes)


def train(**changes: Any) -> Values:
    return run(stages={"train": changes})


_DIGEST = "registry.example.com/team/rvk8s@sha256:" + "0123456789abcdef" * 4
_REFS = [
    {"prefix": "MLFLOW_", "secretRef": {"name": "mlflow", "optional": True}},
    {"configMapRef": {"name": "team"}},
]
#: Name -> values of helm/rvk8s.
RUNS: Mapping[str, Values] = {
    "cpu": run(),
    "gpus": merged(
        train(gpus=4),
        {
            "pools": {
                "gpu": {
                    "gpusPerNode": 2,
                    "nccl": {"DEBUG": "WARN"},
                    "envFrom": [{"secretRef": {"name": "wandb"}}],
                }
            }
        },
    ),
    "launcher-job": merged(
        train(gpus=4), {"launcher": "job", "pools": {"gpu": {"gpusPerNode": 2, "envFrom": _REFS}}}
    ),
    "schedule": merged(
        train(ranks=2),
        {
            "run": {"id": "potsdam-nightly"},
            "launcher": "job",
            "schedule": {"cron": "30 2 * * 1-5", "timeZone": "Europe/Berlin"},
        },
    ),
    "storage": run(
        image={"stage": _DIGEST, "driver": "registry.example.com/team/rvk8s-driver:1.0.0"},
        storage={
            "endpoint": "http://s3.storage.svc:7070/",
            "region": "eu-central-1",
            "pathStyle": True,
            "requesterPays": True,
            "secretName": "rvk8s-storage",
            "caSecret": "storage-ca",
        },
    ),
    "splits": run(
        stages={
            "chip": {"splits": 4, "deadlineSeconds": 3600},
            "predict": {"splits": 12, "gpus": 1, "retries": 1},
            "train": {"gpus": 1, "resources": {"limits": {"memory": "48Gi"}}},
        },
    ),
    "queue": run(
        queue="team",
        priorityClassName="rvk8s-batch",
        labels={"cost-center": "maps"},
        image={"pullSecrets": ["registry"]},
        pools={
            "cpu": {"spot": True, "spotNodeSelector": {"kind": "spot"}, "ephemeralStorage": "20Gi"},
            "fixed": {"cpu": "500m", "memory": "1Gi"},
        },
        driver={"pool": "fixed", "ttlSecondsAfterFinished": 86400},
    ),
}
#: Name -> values of helm/rvk8s-platform.
PLATFORMS: Mapping[str, Values] = {
    "platform": {},
    "platform-all": {
        "namespace": {"create": True},
        "serviceAccounts": {
            "stage": {
                "annotations": {
                    "eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/rvk8s"
                }
            }
        },
        "submitters": [
            {"kind": "Group", "name": "ml", "apiGroup": "rbac.authorization.k8s.io"},
        ],
        "networkPolicy": {"egress": {"enabled": True, "ports": [443, 6443, 7070]}},
        "quota": {"hard": {"requests.nvidia.com/gpu": 8, "pods": 100}},
        "kueue": {
            "enabled": True,
            "flavors": [
                {"name": "cpu", "quotas": {"cpu": 32, "memory": "128Gi", "nvidia.com/gpu": 0}},
                {
                    "name": "gpu",
                    "nodeLabels": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
                    "taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
                    "quotas": {"cpu": 32, "memory": "128Gi", "nvidia.com/gpu": 4},
                },
            ],
        },
        "tensorboard": {
            "enabled": True,
            "image": "registry.example.com/team/rvk8s:1.0.0",
            "rootUri": "s3://team-bucket/runs/",
            "secretName": "rvk8s-storage",
            "caSecret": "storage-ca",
            "endpoint": "https://s3.storage.svc:7070",
            "from": [{"podSelector": {"matchLabels": {"app": "ingress"}}}],
        },
        "labels": {"cost-center": "maps"},
    },
}
#: Case -> chart, release and values.
CASES: Mapping[str, tuple[str, str, Values]] = {
    **{name: ("rvk8s", "release", values) for name, values in RUNS.items()},
    **{name: ("rvk8s-platform", "platform", values) for name, values in PLATFORMS.items()},
    **{
        f"preset-{path.stem}": (
            "rvk8s",
            "release",
            merged(
                merged(yaml_loader.load(path.read_text()), BASE), {"stages": {"train": {"gpus": 8}}}
            ),
        )
        for path in sorted((ROOT / "helm/rvk8s/presets").glob("*.yaml"))
    },
}
#: Those with a golden file: a preset's differs from `gpus` in its pool alone, which is tested.
WITH_GOLDEN = [*RUNS, *PLATFORMS]


def golden(case: str) -> str:
    """What a case renders to."""
    from chart import rendering

    chart, release, values = CASES[case]
    return rendering.text(values, release, chart)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    GOLDEN.mkdir(exist_ok=True)
    for case in WITH_GOLDEN:
        (GOLDEN / f"{case}.yaml").write_text(golden(case))
