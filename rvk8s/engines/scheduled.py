"""What a run of a schedule lacks that one by submit has, made by its driver as it begins.

A schedule's objects are made before its runs have ids. So the driver labels its own Job with the
run's id, and copies what the run begins with into a ConfigMap of the run's own: an upgrade of the
schedule changes the runs that come, and neither the later stages nor the next driver of this one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rvk8s.cluster import Cluster, Object
from rvk8s.cluster.objects import owner_of
from rvk8s.contract import RUN_ID, RUN_ID_TOKEN, Env, Label
from rvk8s.errors import Conflict, InputError

log = logging.getLogger(__name__)

#: Seconds that the copy of an earlier Job of the same name has to go with it.
_GONE = 60.0
#: The longest id of which the names of all stages and of their pods can be made.
_LONGEST_ID = 45


def labelled(cluster: Cluster, job: Object, run_id: str) -> Object:
    """The driver's Job with the label by which runs are found; it is patched where it lacks it.

    Raises:
        InputError: the name cannot be a run's id.
    """
    if (job["metadata"].get("labels") or {}).get(Label.RUN):
        return job
    if len(run_id) > _LONGEST_ID:
        what = f"the name of this Job has {len(run_id)} letters, and is the id of its run"
        raise InputError(what, where=run_id, fix=f"give at most {_LONGEST_ID}")
    if not RUN_ID.fullmatch(run_id):  # a Job's name may begin with a digit, a Service's may not
        fix = "give lower case letters, digits and '-', starting with a letter"
        raise InputError("the name of this Job cannot be a run's id", where=run_id, fix=fix)
    patched = cluster.patch("Job", run_id, {"metadata": {"labels": {str(Label.RUN): run_id}}})
    return patched or job


def read_files(folder: Path) -> dict[str, str]:
    """The files of a ConfigMap's folder: name -> text.

    Raises:
        InputError: it cannot be read.
    """
    try:
        # A volume's own links and folders begin with two dots.
        paths = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
        return {path.name: path.read_bytes().decode() for path in sorted(paths)}
    except OSError as error:
        fix = f"{Env.STAGES_DIR} must name the folder of the run's ConfigMap"
        raise InputError(str(error.strerror), where=str(error.filename), fix=fix) from None


def copied(
    cluster: Cluster,
    files: Mapping[str, str],
    name: str,
    job: Object,
    wait: Callable[[float], object] = time.sleep,
) -> dict[str, str]:
    """What the run has begun with: the files of the ConfigMap that its first driver made.

    Args:
        files: what the schedule says now.
        name: of the ConfigMap; the token in it stands for the run's id.
        job: the driver's Job, which owns it.

    Raises:
        InputError: the name is taken by something that is not of this Job.
    """
    run_id, uid = job["metadata"]["name"], job["metadata"]["uid"]
    name = name.replace(RUN_ID_TOKEN, run_id)
    end = time.monotonic() + _GONE
    while True:
        try:
            made = cluster.create(_config_map(name, files, job))
            log.info("Made ConfigMap %s", name)
            return made.get("data") or {}  # the server drops an empty one
        except Conflict:
            found = cluster.get("ConfigMap", name)
        if found and any(o["uid"] == uid for o in found["metadata"].get("ownerReferences") or ()):
            data: dict[str, str] = found.get("data") or {}
            if data != files:
                log.info("The schedule has changed since; this run goes on as it began")
            return data
        if found and time.monotonic() > end:
            what = f"there is a ConfigMap {name} already, of another run"
            fix = f"delete it: kubectl delete configmap {name} -n {cluster.namespace}"
            raise InputError(what, where=f"namespace {cluster.namespace}", fix=fix)
        wait(2.0)


def _config_map(name: str, files: Mapping[str, str], job: Object) -> Object:
    metadata = job["metadata"]
    # Whoever looks for the schedule's own ConfigMaps must not find those of its runs.
    labels = {
        key: value
        for key, value in (metadata.get("labels") or {}).items()
        if key not in (Label.COMPONENT, Label.SCHEDULE)
    }
    labels |= {Label.RUN: metadata["name"], Label.COMPONENT: "run"}
    labels |= {"app.kubernetes.io/managed-by": "rvk8s"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": labels, "ownerReferences": [owner_of(job)]},
        "immutable": True,
        "data": dict(files),
    }
