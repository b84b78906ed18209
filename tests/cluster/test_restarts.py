"""The test cluster starts again, whatever an earlier start has left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import training_operator
from cluster.apiserver import make_namespace
from cluster.controlplane import kubectl
from cluster.node import Node
from cluster.pods import create, output, pod
from cluster.testbed import Testbed

pytestmark = pytest.mark.alone


@pytest.fixture
def own_node(testbed: Testbed, cluster_is_ours: bool) -> Iterator[Node]:
    """The node, where these tests started it; whoever comes after them finds S3, too."""
    if testbed.node is None or testbed.s3 is None or not cluster_is_ours:
        pytest.skip("NOT TESTED: restarts, because the cluster is not this session's own")
    yield testbed.node
    testbed.s3.stop()
    testbed.s3.start()


def test_starts_after_everything_was_killed(testbed: Testbed, own_node: Node) -> None:
    make_namespace(testbed.kubeconfig, "before")
    create(testbed, "before", pod(testbed, "sleeps", "sleep", "3600"))
    ready = ("wait", "--for=condition=Ready", "pod/sleeps", "--timeout=60s")
    kubectl(testbed.kubeconfig, "-n", "before", *ready, seconds=90)
    victims = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and str(own_node.folder) in _command(entry)
    ]
    assert len(victims) >= 8, "the node's parts and a shim"
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    assert not own_node.runs()
    _starts_and_runs(testbed, own_node)


def test_starts_twice_in_a_row(testbed: Testbed, own_node: Node) -> None:
    own_node.start()
    _starts_and_runs(testbed, own_node)


def _starts_and_runs(bed: Testbed, node: Node) -> None:
    """Start the node; a pod runs on it, and of an earlier start nothing is left."""
    node.start()
    training_operator.install(node.kubeconfig, node.folder / "scratch")
    make_namespace(node.kubeconfig, "after")
    create(bed, "after", pod(bed, "runs", "echo", "here"))
    assert output(bed, "after", "runs").strip() == "here"
    sleepers = [entry for entry in Path("/proc").iterdir() if "sleep\x003600" in _command(entry)]
    assert not sleepers
    training_operator.wait_for(node.kubeconfig)


def _command(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_text(errors="replace")
    except OSError:
        return ""
