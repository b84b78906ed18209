"""Fixtures of the tests of whole runs: sites on the test cluster, and what disturbs it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster.apiserver import make_namespace
from cluster.controlplane import kubectl
from cluster.programs import program
from cluster.team import TINY, Site, storage_environ
from cluster.testbed import Testbed, lock, state_folder

from rvk8s import storage

ROOT = Path(__file__).parents[2]
_numbers = itertools.count(1)

SiteFactory = Callable[[str], Site]


@pytest.fixture(scope="session")
def bed(testbed: Testbed) -> Iterator[Testbed]:
    """The test cluster (conftest.py), with its storage in the environment and the tiny scenes."""
    names = storage_environ(testbed)
    old = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        upload_tiny(testbed)
        yield testbed
    finally:
        for name, value in old.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def upload_tiny(bed: Testbed) -> None:
    sys.path.insert(0, str(TINY))
    import scenes

    folder = state_folder() / "tiny-scenes"
    with lock("start"):  # several processes draw them into one folder
        scenes.draw(folder)
        storage.upload_dir(folder, f"{bed.bucket}/tiny")


@pytest.fixture(scope="module")
def site_factory(bed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteFactory]:
    """Makes sites: each with a namespace that helm/rvk8s-platform has prepared."""
    made: list[str] = []

    def make(name: str) -> Site:
        namespace = f"{name}-{os.getpid()}-{next(_numbers)}"
        make_namespace(bed.kubeconfig, namespace)
        made.append(namespace)
        install_platform(bed, namespace)
        site = Site(bed, tmp_path_factory.mktemp(name), namespace)
        site.make_secret("s3", *bed.writer)
        return site

    yield make
    for namespace in made:
        kubectl(bed.kubeconfig, "delete", "namespace", namespace, "--wait=false")
        storage.delete_tree(f"{bed.bucket}/{namespace}")


def install_platform(bed: Testbed, namespace: str, *options: str) -> None:
    """What an administrator does once in a namespace, and again with other options."""
    chart = ROOT / "helm" / "rvk8s-platform"
    command = [program("helm"), "upgrade", "--install", "platform", chart, "-n", namespace]
    command += ["--kubeconfig", bed.kubeconfig, *PLATFORM, *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


#: Priority classes belong to the whole cluster, and every test has a namespace of its own.
PLATFORM = ("--set-json", "priorityClasses=[]")


@pytest.fixture(scope="module")
def tiny_site(site_factory: SiteFactory) -> Site:
    """A site with the tiny experiment."""
    site = site_factory("tiny")
    site.write_tiny({})
    return site


@pytest.fixture(scope="session")
def dubai() -> Path:
    """The folder of real scenes, by RVK8S_DATA or beside the repository."""
    places = [ROOT.parent / "shared" / "data" / "dubai"]
    if given := os.environ.get("RVK8S_DATA"):
        places = [Path(given) / "dubai", Path(given)]
    for place in places:
        if (place / "tile1_image.tif").is_file():
            return place
    pytest.skip("NOT TESTED: real imagery, because RVK8S_DATA names no folder with Dubai's scenes")


@dataclass(frozen=True)
class Chaos:
    """Takes away what a cluster stands on, and brings it back."""

    bed: Testbed

    def api_server_away(self, seconds: float) -> None:
        assert self.bed.node
        plane = self.bed.node.plane
        plane.stop_apiserver()
        time.sleep(seconds)
        plane.start_apiserver()

    def storage_away(self, seconds: float) -> None:
        assert self.bed.s3
        self.bed.s3.stop()
        time.sleep(seconds)
        self.bed.s3.start()


@pytest.fixture
def chaos(bed: Testbed) -> Chaos:
    if bed.node is None or bed.s3 is None:
        pytest.skip("NOT TESTED: API server and S3 taken away, because this cluster is not ours")
    return Chaos(bed)
