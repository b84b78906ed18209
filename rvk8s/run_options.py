"""What the command line adds to an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rvk8s.contract import SPLITTABLE
from rvk8s.errors import InputError

#: What `--rerun` without a stage means.
ALL_STAGES = "all"


@dataclass(frozen=True)
class ClusterOptions:
    """What `rvk8s submit` adds.

    Attributes:
        image: instead of the file's image.
        nodes, gpus_per_node: the shape of the training; None: the pool's GPUs per node decide.
        pool: of the training; None: the chart's.
        launcher: pytorchjob or job; None: the chart's.
        values: values of the chart, stronger than those of rvk8s.yaml.
        words: words of the go_on command that only a cluster has, such as -n NAMESPACE.
    """

    image: str | None = None
    nodes: int | None = None
    gpus_per_node: int | None = None
    pool: str | None = None
    launcher: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunOptions:
    """What the command line adds to an experiment.

    Attributes:
        args: from -a: stronger than those of rvk8s.yaml; "true" and "false" become booleans, other
            values stay strings, as in `rastervision run`.
        test: pass test=True to get_config.
        splits: stage -> number of splits.
        gpus: for training, in total; None: what the experiment says, else machine_gpus, at most 1.
        machine_gpus: GPUs of the machine that runs the plan; None where a cluster does.
        root_uri: instead of the file's rootUri; a relative path is relative to the working folder.
        from_stage: start with this stage; needs run_id.
        rerun: forget that this stage and those after it are done; ALL_STAGES; needs run_id.
        run_id: go on with this run.
        file: the rvk8s.yaml given with -f; only for the go_on command.
        ranks: processes that train together; None: one for each GPU, at least one.
        cluster: the options of a run on a cluster; None for a run on this machine.
    """

    args: Mapping[str, str] = field(default_factory=dict)
    test: bool = False
    splits: Mapping[str, int] = field(default_factory=dict)
    gpus: int | None = None
    machine_gpus: int | None = None
    root_uri: str | None = None
    from_stage: str | None = None
    rerun: str | None = None
    run_id: str | None = None
    file: str | None = None
    ranks: int | None = None
    cluster: ClusterOptions | None = None


def parse_splits(values: Sequence[str]) -> dict[str, int]:
    """The --splits options: "4" (every stage that can be split), "chip=4,predict=2", repeatable.

    Raises:
        InputError: another stage, or a number that is not a positive integer.
    """
    splits: dict[str, int] = {}
    for part in ",".join(values).split(",") if values else ():
        stage, equals, number = part.strip().rpartition("=")
        if equals and stage not in SPLITTABLE:
            fix = f"only {' and '.join(SPLITTABLE)} can be split: --splits chip=4,predict=2"
            raise InputError(f"{stage or part} is no such stage", where="--splits", fix=fix)
        if not number.isdecimal() or int(number) < 1:
            fix = "give a number of at least 1: --splits 4 or --splits chip=4,predict=2"
            raise InputError(f"{part!r} is not a number of splits", where="--splits", fix=fix)
        splits.update(dict.fromkeys([stage] if equals else SPLITTABLE, int(number)))
    return splits
