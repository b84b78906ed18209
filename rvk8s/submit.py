"""Starts runs on a cluster: what is shown by a dry run is what is sent."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from rvk8s import chart, storage, takeover
from rvk8s.cluster import Cluster, Object, preconditions
from rvk8s.cluster.conditions import run_has_ended
from rvk8s.cluster.kinds import NotFound
from rvk8s.cluster.objects import object_name, owner_of
from rvk8s.contract import Label
from rvk8s.errors import InputError, Rvk8sError
from rvk8s.going_on import check_same
from rvk8s.heartbeat import Beat, local_process, other_driver
from rvk8s.parallel import Abandoned, within
from rvk8s.plan import Plan, make_plan
from rvk8s.project import Experiment
from rvk8s.project.sources import Sources, sources
from rvk8s.record_form import check_contract, check_form
from rvk8s.run_options import RunOptions

log = logging.getLogger(__name__)

#: What of a run that it goes on with is made anew.
_REPLACED = ("Job", "ConfigMap", "NetworkPolicy")
#: Seconds that storage may take to say whether it has a run.
_PATIENCE = 8.0


@dataclass(frozen=True)
class Submission:
    """A run that can be sent to a cluster.

    Attributes:
        plan: with the shape of the training that the chart found.
        values: those of the chart.
        rendered: the objects.
        namespace: theirs.
        replaces: it goes on with a run that may have objects from before.
        sources: the project's files that go with it.
    """

    plan: Plan
    values: Mapping[str, Any]
    rendered: chart.Rendered
    namespace: str
    replaces: bool = False
    sources: Sources = field(default_factory=Sources)

    @property
    def names(self) -> list[str]:
        """The objects as kubectl's -o name writes them."""
        return [object_name(manifest) for manifest in self.rendered.manifests]


def prepare(experiment: Experiment, options: RunOptions, namespace: str) -> Submission:
    """Plan and render a run; nothing is sent.

    Raises:
        InputErrors: everything that the plan or the chart refuses.
        InputError: the project's files cannot go with the run.
    """
    plan = make_plan(experiment, options)
    found = sources(experiment)
    made = render(plan, found.files, namespace, replaces=options.run_id is not None)
    return replace(made, sources=found)


def render(
    plan: Plan, files: Mapping[str, str], namespace: str, replaces: bool = False
) -> Submission:
    """Render a plan; nothing is sent.

    Args:
        files: of the project, that go with the run.
        replaces: as in Submission.

    Raises:
        InputErrors: everything that the chart refuses.
    """
    values = plan.to_values(files)
    rendered = chart.render(values, plan.run_id, namespace)
    stages = rendered.find("ConfigMap", "plan.json")
    if stages is None:
        raise InputError("the chart renders no plan", where="helm/rvk8s", fix="install rvk8s again")
    shaped = Plan.from_dict(json.loads(stages["data"]["plan.json"]))
    return Submission(shaped, values, rendered, namespace, replaces)


def kubeconfig_namespace(context: str | None, kubeconfig: str | None = None) -> str:
    """As kubectl and helm choose it; rendering works without a kubeconfig too."""
    try:
        return Cluster.connect(context=context, file=kubeconfig).namespace
    except InputError:
        if context is not None or kubeconfig is not None:
            raise
        return "default"


def send(cluster: Cluster, submission: Submission) -> list[Object]:
    """Create the objects of a run, or none of them.

    Returns:
        The objects that were sent.

    Raises:
        InputErrors, InputError: the cluster lacks something or refuses; the run is running.
        ClusterUnavailable: no answer.
    """
    check_is_run(submission)
    job = _check(cluster, submission)
    manifests, run_id = list(submission.rendered.manifests), submission.plan.run_id
    if submission.replaces:
        takeover.clear(cluster, takeover.look(cluster, run_id, job))
        made = takeover.make(cluster, run_id, manifests)
    else:
        made = []
        with _all_or_none(cluster) as sent:
            for manifest in manifests:
                sent.append(manifest)  # also where the answer is lost
                made.append(cluster.apply(manifest))
    _give_to_job(cluster, made)
    return manifests


def _give_to_job(cluster: Cluster, made: list[Object]) -> None:
    """Let what a run needs go with its Job, whoever removes that: also Kubernetes, some time after
    the run's end (driver.ttlSecondsAfterFinished)."""
    (job,) = (one for one in made if one["kind"] == "Job")
    try:
        for one in made:
            if one is not job:
                changes = {"metadata": {"ownerReferences": [owner_of(job)]}}
                cluster.patch(one["kind"], one["metadata"]["name"], changes)
    except Rvk8sError as error:  # the run has begun
        run = job["metadata"]["name"]
        what = "%s; when the run's Job is gone, `rvk8s delete %s` removes the rest"
        log.warning(what, error, run)


def try_out(cluster: Cluster, submission: Submission) -> list[Object]:
    """Have the API server check the objects without storing them.

    Returns:
        The objects as it would have them.

    Raises:
        InputErrors, InputError, ClusterUnavailable: as of send().
    """
    _check(cluster, submission)
    skip = _REPLACED if submission.replaces else ()
    return [
        manifest if manifest["kind"] in skip else cluster.apply(manifest, dry_run=True)
        for manifest in submission.rendered.manifests
    ]


def _check(cluster: Cluster, submission: Submission) -> Object | None:
    """See that the cluster takes a submission, before anything is changed.

    Returns:
        The Job of the run that it goes on with, which has ended; None where there is none.

    Raises:
        InputErrors, InputError, ClusterUnavailable: as of send().
    """
    manifests = submission.rendered.manifests
    if not submission.replaces:
        preconditions.check(cluster, manifests)
        return None
    preconditions.check(cluster, [_anew(one) for one in manifests], skip_kinds=["Job"])
    return _check_resumable(cluster, submission.plan)


def _anew(manifest: Object) -> Object:
    """A ConfigMap under a name that is free, for a trial beside the one that it replaces."""
    if manifest["kind"] != "ConfigMap":
        return manifest
    metadata = manifest["metadata"]
    return {**manifest, "metadata": {**metadata, "name": f"{metadata['name']}-anew"}}


@contextmanager
def _all_or_none(cluster: Cluster) -> Iterator[list[Object]]:
    """Objects that are put into the list are deleted where the block fails."""
    made: list[Object] = []
    try:
        yield made
    except BaseException as error:
        left = []
        for manifest in reversed(made):
            try:
                kind, name = manifest["kind"], manifest["metadata"]["name"]
                if there := cluster.get(kind, name):
                    cluster.delete(kind, name, uid=there["metadata"]["uid"])
            except Rvk8sError as second:
                log.debug("cannot remove %s: %s", object_name(manifest), second)
                left.append(object_name(manifest))
        if left and isinstance(error, Rvk8sError):
            run = made[0]["metadata"]["labels"][Label.RUN]
            what = f"{error}; {', '.join(left)} may be left: `rvk8s delete {run}` removes them"
            raise type(error)(what) from error
        if isinstance(error, NotFound):
            raise InputError(f"the namespace {cluster.namespace} is gone: {error}") from error
        raise


def check_is_run(submission: Submission) -> None:
    """See that values make no schedule of what is asked for, one run now.

    Raises:
        InputError: they do.
    """
    if submission.rendered.find("CronJob") is None:
        return
    name = submission.plan.experiment
    how = f"rvk8s plan {name} -o values > run.yaml && helm install NAME helm/rvk8s -f run.yaml"
    fix = f"leave it out, or install the schedule: `{how} --set run.id=NAME`"
    what = "is of a schedule, and submit starts one run now"
    raise InputError(what, where="values.schedule.cron", fix=fix)


def _check_resumable(cluster: Cluster, plan: Plan) -> Object | None:
    """See that there is a run to go on with.

    Returns:
        Its driver's Job, which has ended; None where that is gone.

    Raises:
        InputError: neither the namespace nor storage has it; it is running; it is a run of another
            experiment, or was begun with other arguments.
    """
    drivers = cluster.list_all("Job", f"{Label.COMPONENT}=driver")
    # By name: that of a schedule's run has no label of the run.
    job = next((one for one in drivers if one["metadata"]["name"] == plan.run_id), None)
    if job is not None and not run_has_ended(job):
        fix = f"wait, or `rvk8s cancel {plan.run_id}` first"
        raise InputError(f"{plan.run_id} is running", where="--run-id", fix=fix)
    before = _sent_plan(cluster, plan) if job is not None else _stored_plan(cluster, plan)
    experiment = plan.experiment if before is None else before.experiment
    if job is not None:
        experiment = job["metadata"]["labels"].get(Label.EXPERIMENT)
    if experiment != plan.experiment:
        what = f"{plan.run_id} is a run of {experiment}, not of {plan.experiment}"
        raise InputError(what, where="--run-id", fix=f"submit {experiment}")
    if before is not None:
        check_same(plan, before)
    return job


def _sent_plan(cluster: Cluster, plan: Plan) -> Plan | None:
    """The plan that the run's driver had; None where it is gone."""
    maps = cluster.list_all("ConfigMap", f"{Label.RUN}={plan.run_id}")
    texts = ((item.get("data") or {}).get("plan.json") for item in maps)
    text = next((text for text in texts if text), None)
    return None if text is None else Plan.from_dict(json.loads(text))


def _stored_plan(cluster: Cluster, plan: Plan) -> Plan | None:
    """The run's plan as storage has it; None where that is out of reach: its driver will see.

    Raises:
        InputError: it has no such run, or a driver elsewhere runs it.
    """
    uri = plan.layout.run_json

    def look() -> tuple[dict[str, Any] | None, bool, Beat | None, str | None]:
        value = storage.read_json(uri)
        there = value is not None or storage.exists(uri)
        return value, there, other_driver(plan.layout, None), local_process(plan.layout)

    try:
        value, is_there, other, host = within(_PATIENCE, look)
    except (Abandoned, Rvk8sError) as error:
        why = str(error) or "it does not answer"
        log.warning("%s cannot be read from here (%s): it is taken to be there", uri, why)
        return None
    if not is_there:
        what = f"no run {plan.run_id} in namespace {cluster.namespace} or {plan.root_uri}"
        fix = "`rvk8s list` shows the runs; without --run-id a new one begins"
        raise InputError(what, where="--run-id", fix=fix)
    if value is None:
        fix = "bring it back from a copy, or start a new run"
        raise InputError("is damaged: it is not JSON of a run", where=uri, fix=fix)
    check_contract(value, uri)
    check_form(value, uri)
    if host is not None:
        what = f"{plan.run_id} is running: `rvk8s run` has it, on {host}"
        raise InputError(what, where="--run-id", fix="wait for it or end it there")
    if other is not None:
        what = f"{plan.run_id} is running: {other.who} had it {other.seconds:.0f} s ago"
        fix = "wait or cancel it there; where it was killed, try again in a minute"
        raise InputError(what, where="--run-id", fix=fix)
    return Plan.from_dict(value["plan"])
