"""What a pod, and the events of a pod or a Job, say about why it does not run or has failed."""

from __future__ import annotations

from typing import Any

import pytest
from said import says

from rvk8s.contract import ExitCode, now
from rvk8s.explain import event_trouble, gpus, overdue, pod_trouble
from rvk8s.pod_end import first_cause, verdict


def event(reason: str, second: int, message: str = "", kind: str = "") -> dict[str, Any]:
    warns = reason.startswith("Failed")
    return {
        "type": kind or ("Warning" if warns else "Normal"),
        "reason": reason,
        "message": message,
        "firstTimestamp": "2026-11-24T10:00:00Z",
        "lastTimestamp": f"2026-11-24T13:15:{second:02}Z",
    }


NO_ADDRESS = "Failed to create pod sandbox: failed to assign an IP"


@pytest.mark.parametrize(
    ("events", "part"),
    [
        ([event("FailedCreatePodSandBox", 1, NO_ADDRESS)], NO_ADDRESS),
        ([event("FailedCreatePodSandBox", 1, NO_ADDRESS), event("Pulling", 4)], None),
        ([event("Pulling", 4), event("FailedCreatePodSandBox", 1, NO_ADDRESS)], None),
        ([event("Pulled", 1), event("FailedMount", 9, "secret x not found")], "secret x not found"),
        ([event("FailedMount", 9, "timed out"), event("Started", 9)], None),
        ([event("Scheduled", 9), event("FailedMount", 1, "timed out")], "timed out"),
        ([event("FailedCreate", 3, "exceeded quota: gpus")], "quota is used up"),
        ([event("FailedCreate", 3, "exceeded quota: gpus"), event("SuccessfulCreate", 5)], None),
        ([event("FailedCreate", 3, "admission webhook says no")], "no pod can be made"),
        ([event("FailedScheduling", 3, "0/5 nodes")], None),
        ([], None),
    ],
)
def test_a_warning_counts_until_things_went_on(
    events: list[dict[str, Any]], part: str | None
) -> None:
    trouble = event_trouble(events)
    assert (trouble is None) == (part is None)
    if trouble:
        assert part is not None
        assert part in trouble.text
        assert trouble.since is None, "an event's first time may be of an earlier trouble"


REFUSED = (
    'Error creating: pods "chip-10-x" is forbidden: exceeded quota: team, requested: {}, '
    "used: {}, limited: {}"
)


@pytest.mark.parametrize(
    ("requested", "used", "limited", "waits"),
    [
        ("requests.cpu=2", "requests.cpu=20", "requests.cpu=20", True),
        (
            "requests.nvidia.com/gpu=4",
            "requests.nvidia.com/gpu=8",
            "requests.nvidia.com/gpu=8",
            True,
        ),
        ("limits.memory=8Gi,pods=1", "limits.memory=60Gi,pods=9", "limits.memory=64G,pods=9", True),
        ("pods=1", "pods=0", "pods=0", False),
        (
            "requests.nvidia.com/gpu=4",
            "requests.nvidia.com/gpu=0",
            "requests.nvidia.com/gpu=2",
            False,
        ),
        ("limits.memory=8Gi,pods=1", "limits.memory=0,pods=9", "limits.memory=8G,pods=9", False),
        ("limits.cpu=1500m", "limits.cpu=0", "limits.cpu=1", False),
    ],
)
def test_a_quota_is_waited_for_where_others_have_it(
    requested: str, used: str, limited: str, waits: bool
) -> None:
    trouble = event_trouble([event("FailedCreate", 3, REFUSED.format(requested, used, limited))])
    assert trouble is not None
    assert trouble.waits == waits
    assert ("wait until others" in trouble.text) == waits
    assert "quota raised" in trouble.text


def test_a_quota_that_the_driver_has_a_part_of() -> None:
    """It stays while the stage waits."""
    resources = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}
    driver = {"metadata": {}, "spec": {"containers": [{"name": "driver", "resources": resources}]}}
    for requested, used, limited, waits in (
        ("requests.cpu=2", "requests.cpu=100m", "requests.cpu=2", False),
        ("requests.cpu=2", "requests.cpu=2100m", "requests.cpu=2100m", True),
        ("cpu=2", "cpu=100m", "cpu=2", False),
        ("limits.memory=8Gi", "limits.memory=256Mi", "limits.memory=8400Mi", False),
        ("limits.memory=8Gi", "limits.memory=9Gi", "limits.memory=8448Mi", True),
        ("pods=1", "pods=1", "pods=1", False),
        (
            "requests.nvidia.com/gpu=4",
            "requests.nvidia.com/gpu=2",
            "requests.nvidia.com/gpu=4",
            True,
        ),
    ):
        refused = event("FailedCreate", 3, REFUSED.format(requested, used, limited))
        trouble = event_trouble([refused], [driver])
        assert trouble is not None
        assert trouble.waits == waits, (requested, limited)


def test_a_name_that_is_being_deleted_is_waited_for() -> None:
    text = 'Error creating: object is being deleted: pods "r-train-worker-1" already exists'
    trouble = event_trouble([event("FailedCreatePod", 3, text, "Warning")])
    assert trouble is not None
    assert trouble.waits
    taken = event_trouble([event("FailedCreatePod", 3, 'pods "x" already exists', "Warning")])
    assert taken is not None
    assert not taken.waits, "that one stays"


HOOK = 'failed calling webhook "validate.kyverno.svc-fail": failed to call webhook: Post "https://'


@pytest.mark.parametrize(
    ("reason", "text", "waits", "may_pass"),
    [
        ("FailedCreate", f"Internal error occurred: {HOOK}k: connection refused", True, False),
        ("FailedCreatePod", "Error creating: etcdserver: request timed out", True, False),
        ("FailedCreate", 'admission webhook "a.b" denied the request: no owner', False, False),
        ("FailedCreatePodSandBox", NO_ADDRESS, True, False),
        ("FailedMount", "failed to sync configmap cache: timed out waiting", False, True),
        ("FailedMount", 'volume "ca": secret "ca" not found', False, False),
    ],
)
def test_faults_of_the_cluster_are_waited_for(
    reason: str, text: str, waits: bool, may_pass: bool
) -> None:
    trouble = event_trouble([event(reason, 3, text)])
    assert trouble is not None
    assert (trouble.waits, trouble.may_pass) == (waits, may_pass)
    assert text in trouble.text


def unpulled(reason: str, message: str, image: str = "r/i:1") -> dict[str, Any]:
    """A pod whose image does not come."""
    state = {"waiting": {"reason": reason, "message": message}}
    status = {"name": "stage", "image": image, "state": state}
    return {
        "metadata": {"name": "p"},
        "status": {"phase": "Pending", "containerStatuses": [status]},
    }


@pytest.mark.parametrize(
    ("reason", "text", "waits", "may_pass"),
    [
        ("ErrImagePull", "failed to resolve reference: r/i:1: not found", False, False),
        (
            "ImagePullBackOff",
            "Back-off: ErrImagePull: unexpected status: 401 Unauthorized",
            False,
            False,
        ),
        ("ErrImagePull", "pull access denied, repository does not exist", False, False),
        ("InvalidImageName", "couldn't parse image name", False, False),
        ("ErrImagePull", "dial tcp 10.0.0.1:443: i/o timeout", False, True),
        (
            "ErrImagePull",
            "unexpected status from HEAD request: 503 Service Unavailable",
            False,
            True,
        ),
        ("ErrImagePull", "toomanyrequests: You have reached your pull rate limit", True, False),
        ("ImagePullBackOff", "Back-off: ErrImagePull: 429 Too Many Requests", True, False),
    ],
)
def test_a_registry_that_does_not_answer_is_asked_for_longer(
    reason: str, text: str, waits: bool, may_pass: bool
) -> None:
    trouble = pod_trouble(unpulled(reason, text))
    assert trouble is not None
    assert (trouble.waits, trouble.may_pass) == (waits, may_pass)
    assert says(trouble.text, f"…r/i:1…pulled…{text}…")
    assert "still" not in trouble.text


def test_an_image_that_a_tag_was_may_be_gone() -> None:
    trouble = pod_trouble(unpulled("ErrImagePull", "not found", "r/i@sha256:0"))
    assert trouble is not None
    assert says(trouble.text, "…r/i@sha256:0…pulled…not found…registry…still…tags…")
    assert not trouble.waits


def evicted(message: str) -> dict[str, Any]:
    """A pod that its node's kubelet ended for its resources."""
    why = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    status = {"phase": "Failed", "reason": "Evicted", "message": message}
    return {
        "metadata": {"name": "p"},
        "status": {**status, "conditions": [{**why, "message": message}]},
    }


def test_a_node_that_ran_short_is_not_the_fault_of_its_pod() -> None:
    for what in ("ephemeral-storage", "inodes", "memory"):
        said = verdict(
            evicted(f"The node was low on resource: {what}. Container stage was using 3Gi")
        )
        assert said is not None
        assert (said.code, said.disrupted) == (ExitCode.PREEMPTED, True), what
        assert f"low on resource: {what}" in str(said.message)
        assert says(str(said.as_full_disk().message), f"{said.message}…disk…ephemeralStorage…")
    for volume, fix in (("tmp", "ephemeralStorage"), ("project", "/tmp")):
        said = verdict(evicted(f'Usage of EmptyDir volume "{volume}" exceeds the limit "1Mi". '))
        assert said is not None
        assert said.code == ExitCode.DISK_FULL
        assert fix in str(said.message)


def ending(deletion: str, **status: Any) -> dict[str, Any]:
    """A pod that the taint manager told to end, because its node did not answer."""
    why = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
    why |= {"message": "Taint manager: deleting due to NoExecute taint"}
    running = [{"name": "pytorch", "state": {"running": {"startedAt": "2026-11-25T10:00:00Z"}}}]
    status = {"phase": "Running", "conditions": [why], "containerStatuses": running, **status}
    metadata = {"name": "r-train-worker-1", "deletionTimestamp": deletion}
    return {"metadata": metadata, "spec": {"nodeName": "gpu-3"}, "status": status}


LONG_AGO = "2026-11-25T10:00:00Z"


def test_a_node_that_does_not_answer() -> None:
    trouble = pod_trouble(ending(LONG_AGO))
    assert trouble is not None
    assert trouble.waits
    taint = "`kubectl taint node gpu-3 node.kubernetes.io/out-of-service="
    assert says(
        trouble.text,
        f"node gpu-3…not answer…pod r-train-worker-1…`kubectl delete node gpu-3`…{taint}…",
    )
    assert pod_trouble(ending(LONG_AGO, phase="Pending")) == trouble, "it never began"
    assert overdue(ending(LONG_AGO, phase="Failed")) is None, "it only waits for its finalizer"
    assert pod_trouble(ending(now())) is None, "a node ends its pods by itself"


def test_a_pod_that_its_hung_node_keeps_is_what_the_others_failed_of() -> None:
    over = {"terminated": {"exitCode": 138, "finishedAt": "2026-11-25T10:00:01Z"}}
    lost = [{"name": "pytorch", "state": over}]
    other = ending(LONG_AGO, phase="Failed", conditions=[], containerStatuses=lost)
    hung = ending(LONG_AGO)
    found = first_cause([other, hung])
    assert found is not None
    assert found[0] is hung
    assert (found[1].code, found[1].disrupted) == (ExitCode.PREEMPTED, True)
    assert verdict(hung) is None


def test_an_init_container_of_the_cluster_that_cannot_start() -> None:
    pull = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    init = {"name": "istio-init", "image": "mesh:1", "state": {"waiting": pull}}
    ours = {"name": "stage", "state": {"waiting": {"reason": "PodInitializing"}}}
    status = {"initContainerStatuses": [init], "containerStatuses": [ours], "phase": "Pending"}
    trouble = pod_trouble({"metadata": {"name": "p"}, "status": status})
    assert trouble is not None
    assert says(trouble.text, "…mesh:1…pulled…")


@pytest.mark.parametrize("name", ["nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-1g.10gb"])
def test_gpus_by_any_name(name: str) -> None:
    limits = {"cpu": "4", "vpc.amazonaws.com/efa": "1", name: "2"}
    pod = {"spec": {"containers": [{"name": "stage", "resources": {"limits": limits}}]}}
    assert gpus(pod) == f"2 {name}"


RUNC = "failed to create containerd task: failed to create shim task: OCI runtime create failed: "
INIT = f"{RUNC}runc create failed: unable to start container process: "
UNTOLD = f"{RUNC}unable to retrieve OCI runtime error (open log.json: no such file or directory)"
NVIDIA = "error running prestart hook #0: exit status 1, stdout: , stderr: nvidia-container-cli: "


def not_started(text: str) -> dict[str, Any]:
    """A pod whose node's runtime did not start its container, as the kubelet says it."""
    state = {"terminated": {"exitCode": 128, "reason": "StartError", "message": text}}
    containers = [{"name": "stage", "image": "team/own:1"}]
    return {
        "metadata": {"name": "p"},
        "spec": {"nodeName": "gpu-3", "containers": containers},
        "status": {"phase": "Failed", "containerStatuses": [{"name": "stage", "state": state}]},
    }


@pytest.mark.parametrize(
    "text",
    [
        INIT + 'exec: "rvk8s-stage": executable file not found in $PATH: unknown',
        INIT + "error during container init: "
        'exec: "rvk8s-stage": executable file not found in $PATH: unknown',
        INIT + 'exec: "/usr/bin/tini": stat /usr/bin/tini: no such file or directory: unknown',
        INIT + 'exec: "/opt/nvidia/nvidia_entrypoint.sh": permission denied: unknown',
        INIT + "exec /usr/bin/tini: exec format error: unknown",
        "container_linux.go:380: starting container process caused: "
        'exec: "rvk8s-stage": executable file not found in $PATH: unknown',
        "crun: executable file `rvk8s-stage` not found in $PATH: No such file or directory: "
        "OCI runtime attempted to invoke a command that was not found",
        "crun: open executable: Permission denied: OCI permission denied",
    ],
)
def test_an_image_without_the_program_is_its_maker_s_fault(text: str) -> None:
    said = verdict(not_started(text))
    assert said is not None
    assert said.code == ExitCode.BAD_INPUT
    assert says(str(said.message), "image team/own:1…not start…rvk8s-driver…PATH…")


@pytest.mark.parametrize(
    "text",
    [
        INIT + NVIDIA + "detection error: nvml error: unknown error: unknown",
        INIT + NVIDIA + "initialization error: driver rpc error: timed out: unknown",
        INIT + NVIDIA + "initialization error: load library failed: libnvidia-ml.so.1: cannot "
        "open shared object file: no such file or directory: unknown",
        INIT + NVIDIA + "mount error: open failed: /sys/fs/cgroup/devices: permission denied",
        INIT + "error running createContainer hook #0: fork/exec /usr/bin/nvidia-ctk: no such file "
        "or directory: unknown",
        UNTOLD + ': exec: "nvidia-container-runtime": executable file not found in $PATH: unknown',
        UNTOLD + ": fork/exec /usr/local/bin/kata-runtime: no such file or directory: unknown",
        INIT + 'error mounting "/var/lib/kubelet/pods/1/volume-subpaths/source/stage/3" to rootfs '
        'at "/workspace/project/a.py": no such file or directory: unknown',
        "failed to create containerd task: failed to create shim task: context deadline exceeded",
        "failed to start shim: fork/exec /usr/bin/containerd-shim-runc-v2: permission denied",
        "crun: open /sys/fs/cgroup/kubepods.slice/container/cgroup.freeze: No such file or "
        "directory: OCI runtime attempted to invoke a command that was not found",
        "",
    ],
)
def test_a_node_that_cannot_start_a_container_is_not_the_image_s_fault(text: str) -> None:
    """Another node may, or the same one a little later."""
    said = verdict(not_started(text))
    assert said is not None
    assert (said.code, said.disrupted) == (ExitCode.RETRYABLE, False)
    assert says(str(said.message), "…node gpu-3…not start…")


def test_a_training_that_has_to_be_in_one_zone() -> None:
    text = "0/4 nodes are available: 2 Insufficient cpu, 2 node(s) didn't match pod affinity rules."
    scheduled = {"type": "PodScheduled", "status": "False", "message": text}
    trouble = pod_trouble({"metadata": {"name": "p"}, "status": {"conditions": [scheduled]}})
    assert trouble is not None
    assert trouble.waits
    assert says(trouble.text, "…zone of the training…oneZone: preferred…")
