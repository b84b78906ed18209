"""Experiment + options -> Plan: which stages, how often split, with how many GPUs.

A Plan is all that an engine needs. It is stored in run.json, printed by `rvk8s plan`, and the same
for every engine; nothing here knows processes, pods or storage.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rvk8s.contract import RUN_ID, STAGES, RunLayout, now
from rvk8s.errors import InputError, InputErrors
from rvk8s.names import check_root
from rvk8s.run_options import ALL_STAGES, RunOptions
from rvk8s.values import arguments, cluster_values, deep_merged

if TYPE_CHECKING:
    from rvk8s.project.experiment import Experiment


@dataclass(frozen=True)
class Stage:
    """One stage of a plan.

    Attributes:
        name: one of contract.STAGES.
        splits: how many processes or pods do it, each its part of the scenes; 1 where not split.
        gpus: for train the total over all nodes; for predict those of each split. 0: CPU only.
        nodes: machines or pods that train together.
        ranks: processes that train together, over all nodes.
        retries: how often it is started again after an exit code of 128 or more; None: as often as
            the engine does by itself, which is never on this machine.
        deadline_seconds: it is stopped after this time; None: never.
        pool: of the nodes that it runs on, as the chart chose it; None on one machine.
    """

    name: str
    splits: int = 1
    gpus: int = 0
    nodes: int = 1
    ranks: int = 1
    retries: int | None = None
    deadline_seconds: int | None = None
    pool: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "splits": self.splits,
            "gpus": self.gpus,
            "nodes": self.nodes,
            "ranks": self.ranks,
            "retries": self.retries,
            "deadlineSeconds": self.deadline_seconds,
            "pool": self.pool,
        }

    def to_values(self) -> dict[str, Any]:
        """What the chart is told of it; its shape (nodes, ranks) is the chart's to find."""
        values = {
            "splits": self.splits if self.splits > 1 else None,
            "gpus": self.gpus or None,
            "retries": self.retries,
            "deadlineSeconds": self.deadline_seconds,
        }
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Stage:
        return cls(
            name=value["name"],
            splits=value["splits"],
            gpus=value["gpus"],
            nodes=value["nodes"],
            ranks=value["ranks"],
            retries=value["retries"],
            deadline_seconds=value["deadlineSeconds"],
            pool=value.get("pool"),
        )


@dataclass(frozen=True)
class Plan:
    """What one run does.

    Attributes:
        run_id: DNS-1035 label; the run's folder below root_uri and the name of its objects.
        experiment: the experiment's name, or experiment-variant.
        module: as written in rvk8s.yaml: a .py file relative to project_dir, or a dotted name.
        project_dir: absolute path of the folder of rvk8s.yaml. Stages run with it as their working
            directory: relative paths in args are relative to it. configure imports from it.
        args: what get_config takes beside the runner; JSON types only.
        root_uri: absolute local path or s3://bucket/prefix, without a slash at the end.
        stages: all of contract.STAGES in order; the driver skips those that the pipeline lacks.
        image: the container image; None where none is named (a run on this machine needs none).
        rerun: the stages that do their work even where their done-marker says that it is done.
        from_stage: start here; it is an error where an earlier stage is not done.
        created: UTC, to the second.
        go_on: the shell command that goes on with this run.
        values: values of the chart beside those that the plan itself becomes; empty on one machine.
    """

    run_id: str
    experiment: str
    module: str
    project_dir: str
    args: Mapping[str, Any]
    root_uri: str
    stages: tuple[Stage, ...]
    image: str | None = None
    rerun: tuple[str, ...] = ()
    from_stage: str | None = None
    created: str = field(default_factory=now)
    go_on: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def run_uri(self) -> str:
        return f"{self.root_uri.rstrip('/')}/{self.run_id}"

    @property
    def layout(self) -> RunLayout:
        return RunLayout(self.run_uri)

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def to_dict(self) -> dict[str, Any]:
        """JSON types and camelCase keys; from_dict gives back an equal plan."""
        return {
            "runId": self.run_id,
            "experiment": self.experiment,
            "module": self.module,
            "projectDir": self.project_dir,
            "args": dict(self.args),
            "rootUri": self.root_uri,
            "stages": [stage.to_dict() for stage in self.stages],
            "image": self.image,
            "rerun": list(self.rerun),
            "fromStage": self.from_stage,
            "created": self.created,
            "goOn": self.go_on,
            "values": dict(self.values),
        }

    def to_values(self, source: Mapping[str, str]) -> dict[str, Any]:
        """The values of the chart helm/rvk8s: what the plan does not say is left to its own.

        Args:
            source: path below the project's folder -> content of the files that configure imports.
        """
        stages = {stage.name: stage.to_values() for stage in self.stages}
        mine: dict[str, Any] = {
            "run": {
                "id": self.run_id,
                "created": self.created,
                "rerun": list(self.rerun),
                "fromStage": self.from_stage,
                "goOn": self.go_on,
            },
            "experiment": {
                "name": self.experiment,
                "module": self.module,
                **arguments(self.args),
                "source": dict(source),
            },
            "rootUri": self.root_uri,
            "image": {"stage": self.image},
            "stages": {name: values for name, values in stages.items() if values},
        }
        return deep_merged(self.values, mine)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Plan:
        """The plan of a to_dict().

        Raises:
            InputError: a key is missing: the file is not a plan, or one of another version.
        """
        try:
            return cls(
                run_id=value["runId"],
                experiment=value["experiment"],
                module=value["module"],
                project_dir=value["projectDir"],
                args=dict(value["args"]),
                root_uri=value["rootUri"],
                stages=tuple(Stage.from_dict(stage) for stage in value["stages"]),
                image=value["image"],
                rerun=tuple(value["rerun"]),
                from_stage=value["fromStage"],
                created=value["created"],
                go_on=value["goOn"],
                values=dict(value.get("values") or {}),
            )
        except KeyError as error:
            raise InputError(
                f"the stored plan has no {error.args[0]}",
                where="run.json",
                fix="it was written by another version of rvk8s; start a new run",
            ) from None


def make_plan(experiment: Experiment, options: RunOptions | None = None) -> Plan:
    """The plan of one run of an experiment.

    Raises:
        InputErrors: arguments that get_config does not take or misses, options that contradict
            each other, no root URI: all of them at once.
    """
    options = options or RunOptions()
    errors: list[InputError] = []
    args = _merged_args(experiment, options, errors)
    root_uri = _root_uri(experiment, options, errors)
    stages = _stages(experiment, options, errors)
    _check_run_id(options, errors)
    values, image = cluster_values(experiment, options, root_uri, errors)
    if errors:
        raise InputErrors(errors)
    run_id = options.run_id or new_run_id(experiment.name)
    return Plan(
        run_id=run_id,
        experiment=experiment.name,
        module=experiment.module,
        project_dir=experiment.project_dir,
        args=args,
        root_uri=root_uri,
        stages=stages,
        image=image,
        rerun=_rerun(options.rerun),
        from_stage=options.from_stage,
        created=created_in(run_id) or now(),
        go_on=_go_on(experiment, options, run_id, root_uri),
        values=values,
    )


def new_run_id(experiment: str) -> str:
    """A name such as potsdam-20261123-131501-7f3a: sortable by time (UTC), DNS-1035, unique."""
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    return f"{experiment}-{stamp}-{secrets.token_hex(2)}"


def created_in(run_id: str) -> str | None:
    """When a run was first asked for, as its id says; None where it is named otherwise."""
    stamp = re.search(r"-(\d{8}-\d{6})-[0-9a-f]{4}$", run_id)
    try:
        time = datetime.strptime(stamp[1] if stamp else "", "%Y%m%d-%H%M%S")
    except ValueError:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def absolute_root(root_uri: str, folder: str, where: str) -> str:
    """A root URI with its relative path made absolute from folder, no slash at its end.

    Raises:
        InputError: it is empty, too long, or another scheme than s3://; no bucket, or parts that
            nothing can be called.
    """
    if not root_uri.strip():
        # An unset variable of the shell; runs would lie in the working folder itself.
        raise InputError("is empty", where=where, fix="give a folder or s3://bucket/prefix")
    scheme, separator, rest = root_uri.partition("://")
    if not separator and re.match(r"s3:|[a-z][a-z0-9+.-]*:/", root_uri, re.IGNORECASE):
        fix = "give s3://bucket/prefix, or a folder (./ before a name with a colon)"
        raise InputError(f"{root_uri} is half of a URI", where=where, fix=fix)
    if separator:
        if scheme != "s3":
            fix = "give a folder or s3://bucket/prefix"
            raise InputError(f"{scheme}:// is not supported", where=where, fix=fix)
        if not rest.strip("/"):
            raise InputError(f"{root_uri} names no bucket", where=where, fix="give s3://bucket")
        root = root_uri.rstrip("/")
    else:
        root = os.path.normpath(os.path.join(folder, os.path.expanduser(root_uri)))
    check_root(root, where)
    return root


def _merged_args(
    experiment: Experiment, options: RunOptions, errors: list[InputError]
) -> dict[str, Any]:
    booleans = {"true": True, "false": False}
    given = {key: booleans.get(value.lower(), value) for key, value in options.args.items()}
    if options.test:
        given["test"] = True
    signature = experiment.signature
    for key in given:
        flag = "--test" if key == "test" and options.test else f"-a {key}"
        errors.extend(signature.refusals([key], {key: flag}))
    merged = {**experiment.args, **given}
    missing = signature.missing(merged)
    if missing:
        fix = f"add {'it' if len(missing) == 1 else 'them'} to args, or give -a {missing[0]} VALUE"
        what = f"{signature.function} needs the argument{'s' * (len(missing) > 1)} "
        errors.append(InputError(what + ", ".join(missing), where=experiment.where, fix=fix))
    return merged


def _root_uri(experiment: Experiment, options: RunOptions, errors: list[InputError]) -> str:
    if options.root_uri is None:
        if experiment.root_uri is None:
            fix = "add rootUri to rvk8s.yaml or give --root-uri: a folder or s3://bucket/prefix"
            errors.append(InputError("no root URI says where runs are written", fix=fix))
        return experiment.root_uri or ""
    try:
        return absolute_root(options.root_uri, os.getcwd(), "--root-uri")
    except InputError as error:
        errors.append(error)
        return ""


def _stages(
    experiment: Experiment, options: RunOptions, errors: list[InputError]
) -> tuple[Stage, ...]:
    gpus = _gpus(experiment, options, errors)
    splits = {**experiment.splits, **options.splits}
    # A split of predict is one process, which uses one GPU.
    stage_gpus = {"train": gpus, "predict": min(gpus, 1)}
    ranks = max(gpus, 1) if options.ranks is None else options.ranks
    return tuple(
        Stage(
            name=name,
            splits=splits.get(name, 1),
            gpus=stage_gpus.get(name, 0),
            ranks=ranks if name == "train" else 1,
            retries=experiment.retries.get(name),
            deadline_seconds=experiment.deadline_seconds.get(name),
        )
        for name in STAGES
    )


def _gpus(experiment: Experiment, options: RunOptions, errors: list[InputError]) -> int:
    here = options.machine_gpus
    if options.gpus is not None:
        if here is not None and options.gpus > here:
            fix = f"give at most {here}" if here else "leave --gpus out to train on the CPU"
            fix += "; on a cluster: `rvk8s submit`, or `rvk8s plan -n NAMESPACE`"
            what = f"{options.gpus} asked for, this machine has {here or 'none'}"
            errors.append(InputError(what, where="--gpus", fix=fix))
        return options.gpus
    if here is None:
        return experiment.gpus or 0
    # What the file asks of a cluster, as far as this machine has it; one rank trains here.
    return min(here, 1 if experiment.gpus is None else experiment.gpus)


def _check_run_id(options: RunOptions, errors: list[InputError]) -> None:
    if options.run_id is None:
        for flag, value in (("--from", options.from_stage), ("--rerun", options.rerun)):
            if value is not None:
                fix = "name it with --run-id; `rvk8s list` shows them"
                errors.append(InputError("is for a run that exists", where=flag, fix=fix))
    elif not RUN_ID.fullmatch(options.run_id):
        fix = "give lower case letters, digits and '-', starting with a letter, at most 63"
        what = f"{options.run_id!r} is not the name of a run"
        errors.append(InputError(what, where="--run-id", fix=fix))


def _rerun(stage: str | None) -> tuple[str, ...]:
    if stage is None:
        return ()
    return STAGES if stage == ALL_STAGES else STAGES[STAGES.index(stage) :]


def _go_on(experiment: Experiment, options: RunOptions, run_id: str, root_uri: str) -> str:
    cluster = options.cluster
    words = ["rvk8s", "submit" if cluster else "run", experiment.name]
    if options.file:
        words += ["-f", options.file]
    for key, value in options.args.items():
        words += ["-a", key, value]
    if options.test:
        words.append("--test")
    if options.splits:
        words += ["--splits", ",".join(f"{k}={v}" for k, v in options.splits.items())]
    if options.gpus is not None:
        words += ["--gpus", str(options.gpus)]
    if options.ranks is not None:
        words += ["--ranks", str(options.ranks)]
    if options.root_uri:
        words += ["--root-uri", root_uri]
    words += cluster.words if cluster else ()
    return shlex.join([*words, "--run-id", run_id])
