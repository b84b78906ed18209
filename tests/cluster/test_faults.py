"""What goes wrong on a real cluster: survived with the same result, or one clear line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cluster.sites import SiteFactory
from cluster.team import Site, gang

#: Seconds: a run shares two cores with everything else.
pytestmark = pytest.mark.timeout(1800)

#: Fits four ranks on two shared cores; a run of it takes a minute.
GPUS = ("--gpus", "4")


def stage(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(one for one in record["stages"] if one["name"] == name)
    return found


def failed(site: Site, run: str, code: int, *words: str) -> str:
    """A run has failed with a code and one line that holds the words, and nothing still runs."""
    record = site.wait(run)
    assert record["state"] == "Failed", site.report(run)
    message = str(record["message"])
    assert record["exitCode"] == code, message
    for word in words:
        assert word in message, message
    assert "\n" not in message
    assert "Traceback" not in message
    shown = site.rvk8s("status", run).stdout
    assert words[-1] in " ".join(shown.split()), shown
    site.nothing_runs(run)
    assert site.rvk8s("wait", run, "--for=succeeded", "--timeout=5s", check=False).returncode
    return message


class _EmptyRegistry(BaseHTTPRequestHandler):
    """A registry that has no image. Nodes ask one on loopback without TLS."""

    def do_GET(self) -> None:
        self._answer(b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}')

    def do_HEAD(self) -> None:
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200 if self.path == "/v2/" else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def empty_registry() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _EmptyRegistry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_image_that_does_not_exist(tiny_site: Site, empty_registry: str) -> None:
    image = f"{empty_registry}/local/nothing:1"
    run = tiny_site.submit("tiny", "--image", image)
    failed(tiny_site, run, 2, image, "--image")


def test_an_image_of_the_driver_that_does_not_exist(site_factory: SiteFactory) -> None:
    site = site_factory("no-driver")
    site.write_tiny({"image": {"driver": "docker.io/local/no-driver:1"}})
    run = site.submit("tiny")

    def said() -> bool:
        shown = " ".join(site.rvk8s("status", run, check=False).stdout.split())
        return "docker.io/local/no-driver:1" in shown and "driver" in shown

    site.until(said, "status says why the driver does not start", 60, every=3)
    site.rvk8s("cancel", run)
    site.nothing_runs(run)


def test_gpus_that_no_node_has(site_factory: SiteFactory) -> None:
    site = site_factory("no-gpus")
    site.write_tiny({"pools": {"gpu": {"gpusPerNode": 16}}})
    run = site.submit("tiny", "--gpus", "16", "-a", "batch_sz", "16")

    def said() -> bool:
        shown = " ".join(site.rvk8s("status", run, check=False).stdout.split())
        return "nvidia.com/gpu" in shown and "16" in shown

    site.until(said, "status says that no node has 16 GPUs", 240, every=3)
    site.rvk8s("cancel", run)
    assert site.wait(run)["state"] == "Cancelled"
    site.nothing_runs(run)


def test_shapes_that_cannot_be_made(tiny_site: Site) -> None:
    done = tiny_site.rvk8s("submit", "tiny", "--gpus", "5", check=False)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "4 or 6" in line


def test_out_of_memory(site_factory: SiteFactory) -> None:
    site = site_factory("oom")
    site.write_tiny({"stages": {"configure": {"resources": {"limits": {"memory": "300Mi"}}}}})
    run = site.submit("tiny")
    failed(site, run, 12, "300Mi", "memory")


def test_deadline(site_factory: SiteFactory) -> None:
    site = site_factory("deadline")
    site.write_tiny({"stages": {"configure": {"deadlineSeconds": 3}}})
    run = site.submit("tiny")
    failed(site, run, 124, "deadline")


def test_quota(site_factory: SiteFactory) -> None:
    site = site_factory("team")
    site.write_tiny({})
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"requests.nvidia.com/gpu": "2"}},
    }
    site.kubectl("apply", "-f", "-", stdin=json.dumps(quota))

    def said() -> bool:
        shown = " ".join(site.rvk8s("status", run, check=False).stdout.split())
        words = ("the namespace's quota is used up", "exceeded quota: small", "the quota raised")
        return all(word in shown for word in words)

    with gang():
        run = site.submit("tiny", *GPUS)
        site.until(lambda: site.pods(run, "train"), "the training has begun", 300, every=2)
        site.until(said, "status says that the quota is used up", 60, every=3)
        assert len(site.pods(run, "train")) == 1, "the other one is refused"
        site.rvk8s("cancel", run)
        assert site.wait(run)["state"] == "Cancelled"
        site.nothing_runs(run)


def test_storage_that_may_only_be_read(site_factory: SiteFactory) -> None:
    site = site_factory("denied")
    site.write_tiny({"storage": {"secretName": "reader"}})
    site.make_secret("reader", *site.bed.reader)
    run = site.submit("tiny")
    pods = f"rvk8s.io/run={run},app.kubernetes.io/component=driver"
    ended = site.until(
        lambda: [p for p in site.objects("pods", pods) if p["status"]["phase"] == "Failed"],
        "the driver has failed",
    )
    code = ended[0]["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    assert code == 2
    log = site.kubectl("logs", ended[0]["metadata"]["name"])
    assert "access denied" in log
    assert "Traceback" not in log

    def said() -> bool:  # only when the Job has failed as its pod did
        shown = site.rvk8s("status", run, check=False)
        return "access denied" in " ".join((shown.stdout + shown.stderr).split())

    site.until(said, "status says that access is denied", 30, every=2)
    site.nothing_runs(run)


def test_delete_while_it_runs(tiny_site: Site) -> None:
    run = tiny_site.submit("tiny")
    tiny_site.until(lambda: tiny_site.pods(run, "configure"), "configure has begun")
    tiny_site.rvk8s("delete", run, "--yes")
    kinds = "jobs,pytorchjobs,pods,services,configmaps,networkpolicies"
    tiny_site.until(
        lambda: not tiny_site.objects(kinds, f"rvk8s.io/run={run}"), "nothing of it is left", 90
    )


def test_two_submits_at_once_and_a_long_name(site_factory: SiteFactory) -> None:
    site = site_factory("names")
    site.write_tiny({})
    args = {"raw_uri": f"{site.bed.bucket}/tiny"}
    name = "a" + "-very-long-name" * 2 + "-it-fits"  # 39 letters
    site.write_project({name: {"module": "experiment.py", "args": args}})
    runs = {site.submit(name), site.submit(name)}
    assert len(runs) == 2
    for run in runs:
        site.until(lambda run=run: site.pods(run, "configure"), "its configure stage has begun")
        site.rvk8s("cancel", run)
        assert site.wait(run)["state"] == "Cancelled"
    site.write_project({"n" * 70: {"module": "experiment.py", "args": args}})
    done = site.rvk8s("submit", "n" * 70, check=False)
    assert done.returncode == 2
    assert "rvk8s.yaml:" in done.stderr
