"""What runs in a cluster beside what would be sent now."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rvk8s import project
from rvk8s.cluster import Cluster
from rvk8s.cluster.objects import object_name
from rvk8s.errors import InputError
from rvk8s.runs import cluster_runs
from rvk8s.runs.cluster_runs import ClusterRun
from rvk8s.submit import Submission
from rvk8s.values import to_yaml

#: The line of a plan that the chart renders.
_GO_ON = re.compile(r'^ *"goOn": .*\n', re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """A run in a cluster."""

    cluster: Cluster
    run: ClusterRun


def find_target(
    name: str | None,
    run_id: str | None,
    file: str | None,
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None = None,
) -> Target:
    """The run that is meant.

    Args:
        name: a run, the beginning of its id, or an experiment, whose newest run is taken.
        run_id: stronger than name.

    Raises:
        InputError: there is none.
    """
    if namespace is None:
        namespace = project.namespace_of(Path(file) if file else project.find())
    cluster = Cluster.connect(context=context, namespace=namespace, file=kubeconfig)
    wanted = run_id or name
    if wanted is None:
        raise InputError("no run is named", fix="give a run or an experiment")
    newest = None
    if run_id is None:
        runs = cluster_runs.list_runs(cluster)
        newest = next((run for run in runs if run.experiment == name), None)
    found = newest or cluster_runs.find(cluster, wanted)
    if found is None:
        fix = "`rvk8s list` shows the runs; -n looks in another namespace"
        what = f"no run {wanted} and no run of such an experiment in namespace {cluster.namespace}"
        raise InputError(what, fix=fix)
    return Target(cluster, found)


def compare(target: Target, submission: Submission) -> str:
    """A unified diff, the cluster's objects first; empty where nothing differs.

    Of an object in the cluster only what we set is compared: the server fills in the rest.
    """
    return "".join(line for text in _diffs(target, submission) for line in text)


def _diffs(target: Target, submission: Submission) -> Iterator[Iterator[str]]:
    for manifest in submission.rendered.manifests:
        name = object_name(manifest)
        live = _without_command(target.cluster.get(manifest["kind"], manifest["metadata"]["name"]))
        manifest = _without_command(manifest)
        before = "" if live is None else to_yaml(_common(live, manifest))
        yield difflib.unified_diff(
            before.splitlines(keepends=True),
            to_yaml(_kept(manifest, live)).splitlines(keepends=True),
            f"in the cluster: {name}",
            f"would be sent:  {name}",
        )


def _without_command(item: Any) -> Any:
    """An object without the command that goes on with its run: with -n it reads otherwise."""
    text = ((item or {}).get("data") or {}).get("plan.json")
    if text is None:
        return item
    return {**item, "data": {**item["data"], "plan.json": _GO_ON.sub("", text)}}


def _kept(manifest: Any, live: Any) -> Any:
    """A manifest without the empty values that the server does not keep: "", {}, [] and null."""
    if isinstance(manifest, dict) and isinstance(live, dict):
        return {
            key: _kept(value, live.get(key))
            for key, value in manifest.items()
            if key in live or value not in ("", {}, [], None)
        }
    if isinstance(manifest, list) and isinstance(live, list) and len(live) == len(manifest):
        return [_kept(one, other) for one, other in zip(manifest, live, strict=True)]
    return manifest


def _common(live: Any, manifest: Any) -> Any:
    """What a live object has of a manifest, in the manifest's order; all of a ConfigMap's data."""
    if isinstance(live, dict) and isinstance(manifest, dict):
        common = {k: _common(live[k], v) for k, v in manifest.items() if k in live}
        if live.get("kind") == "ConfigMap":
            for field in ("data", "binaryData"):
                if live.get(field):
                    common[field] = {**common.get(field, {}), **live[field]}
        return common
    if isinstance(live, list) and isinstance(manifest, list) and len(live) == len(manifest):
        return [_common(one, other) for one, other in zip(live, manifest, strict=True)]
    return live
