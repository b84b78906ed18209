"""What the cluster tests stand on: a cluster with the training operator, an S3 server, the images.

Which cluster: the one that RVK8S_TEST_KUBECONFIG names; else one made by kind where Docker and kind
are there; else the one-node cluster of node.py (Linux, root). RVK8S_TEST_CLUSTER=node or kind
chooses between the last two.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cluster import kind, nodeimages, projectimage, training_operator
from cluster.kind import Kind
from cluster.node import ADDRESS, Node
from cluster.processes import locked
from cluster.programs import TOOLS, built
from cluster.s3 import BUCKET, READER, S3, USERS, WRITER

#: program -> Debian package that brings it
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "ipset": "ipset",
    "conntrack": "conntrack",
    "nft": "nftables",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "openssl": "openssl",
}


#: Programs that a cluster does without: the tests that need them build them.
_BUILT_BY_TESTS = ("helm", "kubeconform", "kueue", "netpol")


class Unusable(Exception):
    """There is no cluster to test on; the message says what to do."""


@dataclass(frozen=True)
class Testbed:
    """A cluster that is up.

    Attributes:
        kubeconfig: of an administrator.
        endpoint, bucket: S3 as pods and this machine reach it; `bucket` is s3://NAME.
        writer, reader: access key and secret of two users of the bucket.
        images: of stages and driver, as pods pull them.
        node: the one-node cluster, None where it is another.
        s3: the S3 server, None where it is not ours to stop.
    """

    __test__: ClassVar[bool] = False  # pytest takes a Test… in a test's module for tests

    kubeconfig: Path
    endpoint: str
    bucket: str
    writer: tuple[str, str]
    reader: tuple[str, str]
    images: tuple[str, str]
    node: Node | None = None
    s3: S3 | None = None

    def exports(self) -> str:
        """Lines for a shell, of which nothing is printed: they hold the writer's secret."""
        values = {
            "KUBECONFIG": str(self.kubeconfig),
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.writer[0],
            "AWS_SECRET_ACCESS_KEY": self.writer[1],
            "AWS_REGION": "us-east-1",
            "RVK8S_TEST_BUCKET": self.bucket,
            "RVK8S_TEST_STAGE_IMAGE": self.images[0],
            "RVK8S_TEST_DRIVER_IMAGE": self.images[1],
        }
        return "".join(f"export {name}={value}\n" for name, value in values.items())


def state_folder() -> Path:
    """Where a cluster lives: $XDG_STATE_HOME/rvk8s-cluster."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "rvk8s-cluster"


def up(fresh: bool = False, session: str = "") -> Testbed:
    """Make sure that everything runs and that the images hold today's project.

    Args:
        fresh: start a new cluster where one runs already.
        session: what started_by() says of a cluster that did not run.

    Raises:
        Unusable: this machine can have no cluster.
    """
    named = os.environ.get("RVK8S_TEST_KUBECONFIG")
    if named:
        return _given(Path(named))
    if fresh or running() is None:
        state_folder().mkdir(parents=True, exist_ok=True)
        _session_file().write_text(session)
    return _up_by_kind(fresh) if _by_kind() else _up_as_node(fresh)


def started_by() -> str:
    """The session that started the cluster; empty where none did: somebody did it by hand."""
    file = _session_file()
    return file.read_text() if file.exists() else ""


def _session_file() -> Path:
    return state_folder() / "session"


def _up_as_node(fresh: bool) -> Testbed:
    _check_machine()
    _step("Debian's packages", install_packages)
    for tool in TOOLS:
        if tool not in _BUILT_BY_TESTS:
            _step(f"programs: {tool}", lambda tool=tool: built(tool))  # type: ignore[misc]
    node, s3 = Node(state_folder()), _s3(ADDRESS)
    starts = fresh or not (node.runs() and s3.runs())
    if starts:
        s3.clear()
        _step("the node", node.start)
        _step("S3", s3.start)
    _step("images of programs", lambda: _restore_images(node, nodeimages.of_built_programs()))
    if starts:
        scratch = node.folder / "scratch"
        _step("the training operator", lambda: training_operator.install(node.kubeconfig, scratch))
    _step("the project's images", lambda: projectimage.build(node))
    _step("the training operator is ready", lambda: training_operator.wait_for(node.kubeconfig))
    return _write(_bed(node.kubeconfig, s3, node))


def down() -> None:
    """End what `up` started; built programs and images stay."""
    _s3(ADDRESS).clear()
    if _by_kind():
        Kind(state_folder()).stop()
    else:
        Node(state_folder()).stop()
    (state_folder() / "env").unlink(missing_ok=True)


def is_up() -> bool:
    """Whether `up` has started something that `down` has not ended; not a cluster of others."""
    given = os.environ.get("RVK8S_TEST_KUBECONFIG")
    return not given and (state_folder() / "env").exists()


@contextmanager
def lock(name: str, shared: bool = False) -> Iterator[None]:
    """Held by one of all processes of this machine that test on the cluster, or shared by them."""
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f"{name}.lock", shared):
        yield


def running() -> Testbed | None:
    """What runs already; None where `up` would have to start something."""
    if os.environ.get("RVK8S_TEST_KUBECONFIG"):
        return None
    if _by_kind():
        cluster = Kind(state_folder())
        there = cluster.runs() and _s3(cluster.address).runs()
        return _bed(cluster.kubeconfig, _s3(cluster.address), None) if there else None
    node, s3 = Node(state_folder()), _s3(ADDRESS)
    return _bed(node.kubeconfig, s3, node) if node.runs() and s3.runs() else None


def install_packages() -> None:
    """Install the Debian packages that are missing.

    Raises:
        Unusable: they could not be installed.
    """
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise Unusable(f"the test cluster needs {', '.join(missing)}; install them")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ("install", "-y", "-qq", "--no-install-recommends", *missing)
    for args in (("update", "-qq"), install):
        command = ["apt-get", *args]
        done = subprocess.run(command, check=False, env=environ, capture_output=True, text=True)
        if done.returncode:
            raise Unusable(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")


def _bed(kubeconfig: Path, s3: S3, node: Node | None) -> Testbed:
    return Testbed(
        kubeconfig=kubeconfig,
        endpoint=s3.endpoint,
        bucket=f"s3://{BUCKET}",
        writer=(WRITER, USERS[WRITER]),
        reader=(READER, USERS[READER]),
        images=(projectimage.STAGE, projectimage.DRIVER),
        node=node,
        s3=s3,
    )


def _given(kubeconfig: Path) -> Testbed:
    """A cluster that someone else runs, with the training operator and S3 in reach of its pods."""
    names = [
        f"RVK8S_TEST_{name}"
        for name in ("S3_ENDPOINT", "S3_BUCKET", "S3_WRITER", "S3_READER", "STAGE_IMAGE")
    ] + ["RVK8S_TEST_DRIVER_IMAGE"]
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise Unusable(
            f"RVK8S_TEST_KUBECONFIG is set, so {', '.join(missing)} must be too: "
            "S3_BUCKET as s3://NAME, S3_WRITER and S3_READER as KEY:SECRET"
        )
    endpoint, bucket, writer, reader, stage, driver = (os.environ[name] for name in names)
    training_operator.wait_for(kubeconfig, seconds=30)
    return Testbed(kubeconfig, endpoint, bucket, _pair(writer), _pair(reader), (stage, driver))


def _pair(text: str) -> tuple[str, str]:
    key, _, secret = text.partition(":")
    return key, secret


def _up_by_kind(fresh: bool) -> Testbed:
    cluster = Kind(state_folder())
    starts = fresh or not cluster.runs()
    if starts:
        _step("kind's cluster", cluster.start)
    _step("images of programs", lambda: _restore_images(cluster, [nodeimages.OPERATOR]))
    if starts:
        scratch = cluster.folder / "scratch"
        _step(
            "the training operator", lambda: training_operator.install(cluster.kubeconfig, scratch)
        )
    s3 = _s3(cluster.address)
    if not s3.runs():
        s3.clear()
        _step("S3", s3.start)
    _step("the project's images", cluster.build_images)
    _step("the training operator is ready", lambda: training_operator.wait_for(cluster.kubeconfig))
    return _write(_bed(cluster.kubeconfig, s3, None))


def _by_kind() -> bool:
    chosen = os.environ.get("RVK8S_TEST_CLUSTER")
    return chosen == "kind" or (chosen is None and kind.available())


def _check_machine() -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Unusable(
            "the one-node test cluster needs Linux and root; run as root, install Docker and kind, "
            "or name a cluster: RVK8S_TEST_KUBECONFIG=FILE"
        )
    if shutil.which("go") is None:
        raise Unusable("the one-node test cluster is built by Go; install Go 1.26")


def _s3(host: str) -> S3:
    return S3(state_folder() / "s3", host)


def _restore_images(cluster: Node | Kind, names: list[str]) -> None:
    """Load the images that are missing, and have the operator not wait for its own."""
    if nodeimages.restore(cluster, names):
        training_operator.replace_pending(cluster.kubeconfig)


def _write(bed: Testbed) -> Testbed:
    file = state_folder() / "env"
    file.touch(mode=0o600)
    file.write_text(bed.exports())
    return bed


def _step(what: str, do: Callable[[], object]) -> None:
    """Do one step and say how long it took, so that a slow machine's log tells where time goes."""
    started = time.monotonic()
    do()
    seconds = time.monotonic() - started
    if seconds > 0.5:
        print(f"cluster: {what}: {seconds:.0f} s", file=sys.stderr, flush=True)
