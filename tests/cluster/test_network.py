"""Network policies, enforced: runs work under the platform's, and strangers reach none of their
pods. The same connections are all open where nothing enforces them."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from cluster import netpol, pods
from cluster.apiserver import make_namespace
from cluster.controlplane import kubectl, kubectl_json
from cluster.node import ADDRESS, Node
from cluster.sites import SiteFactory, install_platform
from cluster.team import Site
from cluster.testbed import Testbed

#: Policies are the cluster's: other tests' runs would have them, too.
pytestmark = [pytest.mark.timeout(900), pytest.mark.alone, pytest.mark.endurance]
API_SERVER, KUBELET, SERVED = 6443, 10250, 8000
#: Of helm/rvk8s/templates/_stages.tpl.
RENDEZVOUS = 29400
#: Who may connect to what under the policies. The run's labels are of no use to `elsewhere`.
ALLOWED = {
    "member": {"rendezvous", "storage", "api", "api by its service"},
    "other": {"storage", "api", "api by its service"},
    "bystander": {"elsewhere", "storage", "api", "api by its service", "kubelet"},
    "elsewhere": {"bystander", "storage", "api", "api by its service", "kubelet"},
}
_STRANGERS = ("other", "bystander", "elsewhere")
_SERVE = (
    "import http.server as h; "
    f"h.ThreadingHTTPServer(('', {SERVED}), h.SimpleHTTPRequestHandler).serve_forever()"
)
_CONNECT = """
import socket, sys
for place in sys.argv[1:]:
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError:
        continue
    print(place)
"""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Town:
    """Pods of a run and others around them.

    Attributes:
        pods: who -> namespace and name: `member` is a pod of the run, `other` of another run,
            `bystander` of none, `elsewhere` one of another namespace with the run's labels.
        places: what -> host:port. Strangers serve at one port each.
    """

    site: Site
    pods: Mapping[str, tuple[str, str]]
    places: Mapping[str, str]

    def reached(self, who: str) -> set[str]:
        """What a pod can connect to, beside itself."""
        namespace, name = self.pods[who]
        places = {what: place for what, place in self.places.items() if what != who}
        script = ("exec", name, "--", "python3", "-c", _CONNECT, *places.values())
        said = kubectl(self.site.kubeconfig, "-n", namespace, *script).split()
        return {what for what, place in places.items() if place in said}

    def is_so(self, expected: Mapping[str, set[str]], seconds: float = 20) -> None:
        """Everybody reaches what is expected and nothing else, as soon as policies are seen."""
        end = time.monotonic() + seconds
        while (seen := {who: self.reached(who) for who in self.pods}) != expected:
            assert time.monotonic() < end, f"{seen} instead of {expected}"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def node(bed: Testbed) -> Node:
    if bed.node is None:
        pytest.skip("NOT TESTED: network policies, because the cluster's network is not ours")
    return bed.node


@pytest.fixture(scope="module")
def site(node: Node, site_factory: SiteFactory) -> Site:
    """A site whose platform lets nothing in or out that a run does not need."""
    site = site_factory("network")
    storage = urlsplit(site.bed.endpoint).port
    # Of the API server both ports, since it stands behind a Service.
    ports = f"networkPolicy.egress.ports=[443,{API_SERVER},{storage}]"
    egress = ("--set", "networkPolicy.egress.enabled=true", "--set-json", ports)
    install_platform(site.bed, site.namespace, *egress)
    site.write_tiny({})
    return site


@pytest.fixture(scope="module")
def elsewhere(node: Node) -> Iterator[str]:
    """A namespace without any policy."""
    name = f"elsewhere-{os.getpid()}"
    make_namespace(node.kubeconfig, name)
    yield name
    kubectl(node.kubeconfig, "delete", "namespace", name, "--wait=false")


def make_town(site: Site, elsewhere: str, run: str) -> Town:
    """Wait for a run's training, and put strangers beside it."""
    number = next(_numbers)
    of_run = {"app.kubernetes.io/name": "rvk8s", "rvk8s.io/run": run}
    labels = {"other": of_run | {"rvk8s.io/run": "another"}, "bystander": {}, "elsewhere": of_run}
    where = {who: (site.namespace, f"{who}-{number}") for who in _STRANGERS}
    where["elsewhere"] = (elsewhere, f"elsewhere-{number}")
    for who, (namespace, name) in where.items():
        stranger = pods.pod(site.bed, name, "python3", "-c", _SERVE)
        stranger["metadata"]["labels"] = labels[who]
        pods.create(site.bed, namespace, stranger)

    def workers() -> list[str]:
        found = site.pods(run, "train")
        running = [pod for pod in found if pod["status"].get("phase") == "Running"]
        return sorted(pod["metadata"]["name"] for pod in running)

    first, second = site.until(lambda: len(workers()) == 2 and workers(), "two pods train", 300)
    addresses = {who: address(site, *where[who]) for who in _STRANGERS}
    town = Town(
        site,
        {"member": (site.namespace, second), **where},
        {
            "rendezvous": f"{address(site, site.namespace, first)}:{RENDEZVOUS}",
            **{who: f"{addresses[who]}:{SERVED}" for who in _STRANGERS},
            "storage": urlsplit(site.bed.endpoint).netloc,
            "api": f"{ADDRESS}:{API_SERVER}",
            "api by its service": "kubernetes.default.svc:443",
            "kubelet": f"{ADDRESS}:{KUBELET}",
        },
    )
    site.until(lambda: "rendezvous" in town.reached("member"), "the nodes of the training meet")
    return town


def address(site: Site, namespace: str, pod: str) -> str:
    """A pod's address, once it runs."""
    ready = ("wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=60s")
    kubectl(site.kubeconfig, "-n", namespace, *ready, seconds=90)
    found = kubectl_json(site.kubeconfig, "-n", namespace, "get", "pod", pod)
    return str(found["status"]["podIP"])


@pytest.mark.parametrize("launcher", ["pytorchjob", "job"])
def test_strangers_reach_no_pod_of_a_run(
    site: Site, node: Node, elsewhere: str, launcher: str
) -> None:
    rules = filters()
    with netpol.enforced(node):
        run = site.submit("tiny", "--gpus", "4", "--launcher", launcher, "-a", "epochs", "16")
        town = make_town(site, elsewhere, run)
        town.is_so(ALLOWED)
    assert filters() == rules
    town.is_so({who: set(town.places) - {who} for who in town.pods})
    with netpol.enforced(node):
        town.is_so(ALLOWED)
        record = site.wait(run)
    assert record["state"] == "Succeeded", site.report(run)
    train = next(stage for stage in record["stages"] if stage["name"] == "train")
    assert train["attempts"] == 1
    assert filters() == rules


def filters() -> tuple[list[str], str]:
    """The machine's packet filter, without its counters, and its IP sets."""
    lines = _said("iptables-save", "-t", "filter").splitlines()
    return [line for line in lines if line.startswith("-")], _said("ipset", "list", "-name")


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
