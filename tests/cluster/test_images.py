"""The test cluster's images come back after somebody has deleted them while it runs."""

from __future__ import annotations

import pytest
from cluster import nodeimages, projectimage, training_operator
from cluster.controlplane import kubectl
from cluster.images import ctr
from cluster.node import Node
from cluster.pods import create, output, pod
from cluster.testbed import Testbed, up

pytestmark = [pytest.mark.timeout(900), pytest.mark.alone]


def test_up_restores_deleted_images(testbed: Testbed, team: str) -> None:
    if testbed.node is None:
        pytest.skip("NOT TESTED: deleted images, because the cluster is not the one-node cluster")
    # Not the stages' image: it comes back as the driver's does, but takes four minutes.
    names = {*nodeimages.of_built_programs(), projectimage.BASE, projectimage.DRIVER}
    delete_images(testbed.node, names)
    # The next one finds neither its sandbox's image nor its own.
    kubectl(testbed.kubeconfig, "-n", training_operator.NAMESPACE, "delete", "pods", "--all")
    assert not names & testbed.node.image_names()

    up()

    assert names <= testbed.node.image_names()
    create(testbed, team, pod(testbed, "new", "echo", "here"))
    assert output(testbed, team, "new").strip() == "here"


def delete_images(node: Node, names: set[str]) -> None:
    """Delete images by all of their names, as the kubelet does when it needs room."""
    lines = [line.split() for line in ctr(node.socket, "images", "list").splitlines()[1:]]
    digests = {fields[2] for fields in lines if fields[0] in names}
    doomed = [fields[0] for fields in lines if fields[2] in digests]
    ctr(node.socket, "images", "delete", "--sync", *doomed)
