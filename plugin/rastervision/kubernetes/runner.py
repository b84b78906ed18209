"""`rastervision run kubernetes MODULE ...`: Raster Vision's command line, our cluster runs.

`rastervision run` builds the pipeline config here and writes it below its root_uri; the run that is
submitted takes it from there, and the pipeline's outputs go where it says. The run's own files
(run.json, markers, logs) lie in <root_uri>/<run id>/, where `rvk8s status` and `rvk8s logs` look.

Settings come from the section [RVK8S] of Raster Vision's configuration file or from environment
variables such as RVK8S_IMAGE, else from the rvk8s.yaml of the working folder or above it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click
from rastervision.kubernetes.given import MODULE
from rastervision.pipeline import rv_config_
from rastervision.pipeline.runner import Runner

from rvk8s.contract import SPLITTABLE, Env
from rvk8s.errors import InputError, Rvk8sError

if TYPE_CHECKING:
    from rastervision.pipeline.pipeline import Pipeline

    from rvk8s.project import Project
    from rvk8s.submit import Submission

KUBERNETES = "kubernetes"
#: Setting -> what it is, in the file without RVK8S_ and in lower case.
SETTINGS = {
    "image": "the image of the stages",
    "namespace": "of the run",
    "context": "of the kubeconfig",
    "gpus": "for training, in total",
    "nodes": "that train together",
    "gpus_per_node": "for training",
    "pool": "of the training",
    "launcher": "pytorchjob or job",
    "values": "files of values of the chart helm/rvk8s, with commas between them",
}
#: A run id adds 22 letters.
_LONGEST_NAME = 40


class Refused(click.ClickException):
    """An error of ours as Raster Vision's command line shows it: one line, our exit code."""

    def __init__(self, error: Rvk8sError):
        super().__init__(str(error))
        vars(self)["exit_code"] = int(error.exit_code)  # click declares it for the class


@dataclass(frozen=True)
class Settings:
    """What Raster Vision's configuration says; None where it says nothing."""

    image: str | None = None
    namespace: str | None = None
    context: str | None = None
    gpus: int | None = None
    nodes: int | None = None
    gpus_per_node: int | None = None
    pool: str | None = None
    launcher: str | None = None
    values: tuple[str, ...] = ()

    @classmethod
    def read(cls) -> Settings:
        """Raises InputError: a number is none."""
        found: dict[str, Any] = {}
        for name in SETTINGS:
            value = str(rv_config_.get_namespace_option("rvk8s", name, default=""))
            if value and name in ("gpus", "nodes", "gpus_per_node"):
                if not value.isdecimal():
                    where = f"RVK8S_{name.upper()}"
                    raise InputError(f"{value!r} is not a number", where=where)
                found[name] = int(value)
            elif value:
                found[name] = value
        if "values" in found:
            found["values"] = tuple(part.strip() for part in found["values"].split(","))
        if found.get("launcher") not in (None, "pytorchjob", "job"):
            what = f"{found['launcher']!r} is neither pytorchjob nor job"
            raise InputError(what, where="RVK8S_LAUNCHER")
        return cls(**found)


class KubernetesRunner(Runner):
    """Submits a pipeline as `rvk8s submit` does; returns when the cluster has accepted it."""

    def run(
        self,
        cfg_json_uri: str,
        pipeline: Pipeline,
        commands: list[str],
        num_splits: int = 1,
        pipeline_run_name: str = "raster-vision",
    ) -> None:
        from rvk8s import submit
        from rvk8s.cluster import Cluster

        try:
            settings = Settings.read()
            submission = prepare(
                settings, cfg_json_uri, pipeline, commands, num_splits, pipeline_run_name
            )
            cluster = Cluster.connect(context=settings.context, namespace=submission.namespace)
            submit.send(cluster, submission)
        except Rvk8sError as error:
            raise Refused(error) from error
        for name in submission.names:
            click.echo(f"{name} created")
        words = ["rvk8s", "status", submission.plan.run_id, "-w", "-n", submission.namespace]
        words += ["--context", settings.context] if settings.context else []
        click.echo(f"see it with: {shlex.join(words)}", err=True)

    def run_command(self, cmd: list[str]) -> None:
        raise NotImplementedError("stages run as pods: each is `rvk8s-stage NAME`")

    def get_split_ind(self) -> int | None:
        index = os.environ.get(Env.SPLIT_INDEX) or os.environ.get(Env.JOB_COMPLETION_INDEX)
        return int(index) if index else None


def prepare(
    settings: Settings,
    cfg_json_uri: str,
    pipeline: Pipeline,
    commands: Sequence[str],
    num_splits: int,
    name: str,
) -> Submission:
    """Plan and render a run of a pipeline config that is there; nothing is sent.

    Raises:
        InputError: the config is on this machine, several ranks for a backend that is not ours.
        InputErrors: what the plan or the chart refuses.
    """
    from rvk8s import submit
    from rvk8s.plan import make_plan
    from rvk8s.project import Experiment
    from rvk8s.project.signature import Signature
    from rvk8s.project.values_files import combined, read_layers
    from rvk8s.run_options import ClusterOptions, RunOptions

    if not cfg_json_uri.startswith("s3://"):
        fix = "pods see no folder of this machine: let get_config take an s3:// root_uri"
        raise InputError(f"the pipeline's config is in {cfg_json_uri}", fix=fix)
    _check_ranks(settings, pipeline)
    project = _project()
    image = settings.image or (project.image if project else None)
    experiment = Experiment(
        name=_experiment_name(name),
        module=MODULE,
        signature=Signature("get_config", any_name=True),
        where="rastervision run kubernetes",
        project_dir=os.getcwd(),
        args=_args(cfg_json_uri, pipeline, commands),
        image=image,
        values=project.values if project else {},
    )
    cluster = ClusterOptions(
        image=image,
        nodes=settings.nodes,
        gpus_per_node=settings.gpus_per_node,
        pool=settings.pool,
        launcher=settings.launcher,
        values=combined(read_layers(settings.values)),
    )
    options = RunOptions(
        # 1 is Raster Vision's default: nobody need have asked for it.
        splits=dict.fromkeys(SPLITTABLE, num_splits) if num_splits > 1 else {},
        gpus=settings.gpus,
        root_uri=cfg_json_uri.rpartition("/")[0],
        cluster=cluster,
    )
    # It is no experiment of an rvk8s.yaml, so that no command of ours could go on with it.
    plan = replace(make_plan(experiment, options), go_on="")
    namespace = settings.namespace or (project.namespace if project else None)
    return submit.render(plan, {}, namespace or submit.kubeconfig_namespace(settings.context))


def _check_ranks(settings: Settings, pipeline: Pipeline) -> None:
    backend = getattr(pipeline.config, "backend", None)
    ours = type(backend).__module__.startswith("rastervision.fastai_backend")
    for unit, count in (("GPUs", settings.gpus), ("nodes", settings.nodes)):
        if (count or 0) > 1 and not ours:
            what = f"{count} {unit} for {type(backend).__name__}"
            fix = "give 1, or use the fastai backend of this task, which trains on several"
            raise InputError(what, where=f"RVK8S_{unit.upper()}", fix=fix)


def _args(cfg_json_uri: str, pipeline: Pipeline, commands: Sequence[str]) -> Mapping[str, str]:
    args = {"config_uri": cfg_json_uri}
    if list(commands) != list(pipeline.commands):
        args["commands"] = ",".join(commands)
    return args


def _experiment_name(name: str) -> str:
    """A name of Raster Vision as part of names in the cluster."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    plain = plain if plain[:1].isalpha() else f"rv-{plain}".rstrip("-")
    return plain[:_LONGEST_NAME].rstrip("-")


def _project() -> Project | None:
    """The rvk8s.yaml of the working folder or above it; None where there is none."""
    from rvk8s import project

    try:
        path = project.find()
    except InputError:
        return None
    return project.load(path)
