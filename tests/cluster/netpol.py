"""Network policies of the one-node cluster, enforced for as long as a test wants it.

kube-router makes iptables rules and IP sets of them, its firewall alone: the node's network stays
what node.py makes. It refuses what no policy allows, where others drop it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import processes
from cluster.controlplane import SERVICES
from cluster.programs import program

if TYPE_CHECKING:
    from cluster.node import Node

_PROCESS = "netpol"
_CHAINS = ("KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-")
_SETS = ("KUBE-SRC-", "KUBE-DST-", "TMP-")
#: Lets pass what its policies found good: a rule that it writes with the first ones of policies.
_ACCEPTED = "--mark 0x20000/0x20000 -j ACCEPT"
#: Whether packets between two ports of a bridge pass iptables.
_BRIDGED = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


@contextmanager
def enforced(node: Node) -> Iterator[None]:
    """Policies of the cluster hold while the block lasts; nothing of it is left afterwards.

    A new pod is let in, and kept from others, a moment after it has an address.

    Raises:
        processes.NotReady: they do not hold in time.
    """
    remove(node.folder)
    try:
        _start(node)
        yield
    finally:
        remove(node.folder)


def remove(folder: Path) -> None:
    """Remove what enforces policies, also after a test that was killed. Safe to repeat.

    Args:
        folder: the node's.
    """
    processes.stop(folder, _PROCESS)
    before = folder / _BRIDGED.name
    if not before.exists():
        return  # such rules there may be, but another cluster's
    _remove_rules()
    for name in _run("ipset", "list", "-name").split():
        if name.startswith(_SETS):
            _run("ipset", "destroy", name)
    _BRIDGED.write_text(before.read_text())
    before.unlink()


def _start(node: Node) -> None:
    command: list[str | Path] = [
        program("kube-router"),
        f"--kubeconfig={node.kubeconfig}",
        f"--hostname-override={node.name}",
        f"--service-cluster-ip-range={SERVICES}",
        "--run-firewall=true",
        "--run-router=false",
        "--run-service-proxy=false",
        "--enable-cni=false",
        "--health-port=0",
        "--v=1",
    ]
    if not _BRIDGED.exists():
        _run("modprobe", "br_netfilter")
    (node.folder / _BRIDGED.name).write_text(_BRIDGED.read_text())
    _BRIDGED.write_text("1")
    processes.start(node.folder, _PROCESS, command)
    holds = lambda: _ACCEPTED in _run("iptables-save", "-t", "filter")  # noqa: E731
    processes.wait("network policies", holds, 60, node.folder, _PROCESS)


def _remove_rules() -> None:
    """Remove its chains from the filter table, at once, and what leads into them."""
    chains, jumps = [], []
    for line in _run("iptables-save", "-t", "filter").splitlines():
        words = line.split()
        if line.startswith(":") and words[0][1:].startswith(_CHAINS):
            chains.append(words[0][1:])
        of_others = line.startswith("-A") and not words[1].startswith(_CHAINS)
        if of_others and words[-1].startswith(_CHAINS):
            jumps.append(line.replace("-A", "-D", 1))
    if chains:
        emptied = [f":{name} - [0:0]" for name in chains]
        deleted = [f"-X {name}" for name in chains]
        lines = ["*filter", *emptied, *jumps, *deleted, "COMMIT", ""]
        _run("iptables-restore", "--noflush", stdin="\n".join(lines))


def _run(*command: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        command, input=stdin, check=True, capture_output=True, text=True, timeout=30
    )
    return done.stdout
