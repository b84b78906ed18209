"""Ends a node and removes every trace of it, also one that was killed and left half its parts."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from cluster import netpol, processes

_GROUPS = Path("/sys/fs/cgroup")


class CannotClear(Exception):
    """Another cluster's node runs on this machine; clearing ours would end its pods."""


def clear(folder: Path, bridge: str) -> None:
    """End the node of a state folder and remove what it made outside of it. Safe to repeat.

    The kubelet goes first, or it would start anew what is ended after it. Containers are found by
    their control groups: their shims outlive containerd, and they outlive their shims.

    Raises:
        CannotClear: a kubelet that is not ours runs here; nothing was ended.
    """
    ours = processes.pid(folder, "kubelet")
    others = [pid for pid in _pids_of("kubelet") if pid != ours and str(folder) not in _line(pid)]
    if others:
        raise CannotClear(
            f"a kubelet that is not the tests' runs on this machine (pid {others[0]}); "
            "use its cluster: export RVK8S_TEST_KUBECONFIG=FILE"
        )
    _kill(_pids_of("kubelet"))
    for name in ("kubelet", "proxy", "coredns"):
        processes.stop(folder, name)
    _kill_until_none(_containers)
    shims = [pid for pid in _pids_of("containerd-shim-runc-v2") if str(folder) in _line(pid)]
    _kill(shims)
    for name in ("containerd", "buildkitd"):
        processes.stop(folder, name)
    for name in ("scheduler", "controller-manager", "apiserver", "etcd"):
        processes.stop(folder / "plane", name, sig=signal.SIGKILL)
    # What was started by a process whose pid file is lost.
    _kill([pid for pid in _all_pids() if _is_ours(pid, folder)])
    _unmount(folder)
    netpol.remove(folder)
    _remove_network(bridge)
    _remove_groups()
    for socket in folder.glob("*.sock*"):
        socket.unlink()


def _is_ours(pid: int, folder: Path) -> bool:
    """Whether the process is a part of the node whose arguments name the state folder."""
    programs = ("kubelet", "kube-", "etcd", "containerd", "coredns", "buildkitd")
    arguments = _line(pid).split("\0")
    return Path(arguments[0]).name.startswith(programs) and any(
        f"{folder}/" in argument for argument in arguments[1:]
    )


def _all_pids() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def _pids_of(program: str) -> list[int]:
    return [pid for pid in _all_pids() if Path(_line(pid).split("\0")[0]).name == program]


def _line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _containers() -> list[int]:
    """Processes in the pods' control groups, of version 1 (one tree each) or 2."""
    pids: set[int] = set()
    for top in _pod_groups():
        for folder, _, _ in os.walk(top):  # which passes over groups that go meanwhile
            try:
                text = Path(folder, "cgroup.procs").read_text()
            except OSError:
                continue
            pids.update(int(line) for line in text.split())
    return sorted(pids - {0})


def _pod_groups() -> list[Path]:
    return [path for path in (*_GROUPS.glob("*/kubepods"), _GROUPS / "kubepods") if path.exists()]


def _remove_groups() -> None:
    for top in _pod_groups():
        for folder, _, _ in os.walk(top, topdown=False):
            for _ in range(20):  # a group is busy for a moment after its last process
                try:
                    Path(folder).rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _kill_until_none(find: object) -> None:
    assert callable(find)
    deadline = time.monotonic() + 20
    while pids := find():
        _kill(pids)
        if time.monotonic() > deadline:
            raise CannotClear(f"processes that SIGKILL does not end: {pids[:5]}")
        time.sleep(0.05)


def _unmount(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed([m for m in mounts if m.startswith(f"{folder}/")]):
        _quietly("umount", "--lazy", mount.replace("\\040", " "))


def _remove_network(bridge: str) -> None:
    _quietly("ip", "link", "delete", bridge)
    for family in ("ip", "ip6"):
        _quietly("nft", "delete", "table", family, "kube-proxy")


def _quietly(*command: str) -> None:
    """Run what may find nothing to do."""
    subprocess.run(command, check=False, capture_output=True, timeout=30)
