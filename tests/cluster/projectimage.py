"""The project's two images, built by docker/build into the node's own containerd."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from cluster import processes
from cluster.images import ctr, has, import_archive, prune, write_archive
from cluster.node import Node
from cluster.programs import built
from filelock import FileLock

ROOT = Path(__file__).parents[2]
STAGE = "docker.io/local/rvk8s:test"
DRIVER = "docker.io/local/rvk8s-driver:test"
BASE = "docker.io/local/python:3.11"
#: GB: the image, its build and the node's own needs.
ROOM = 25
#: MB of layers kept for the next build: today's are 10 GB, and each change of what they install
#: leaves as many. BuildKit's own collection is off: where under a fifth of the disk is free, it
#: would drop these at once, and every build would be one from nothing.
KEPT = 15_000


class NoRoom(Exception):
    """The disk is too full for the project's image."""


def build(node: Node, *targets: str) -> None:
    """Build `stage` and `driver`, or only some; after a change of the project this takes seconds.

    Raises:
        NoRoom: under 25 GB are free and the large image is not there yet.
        subprocess.CalledProcessError: the build failed; the error's note holds the end of its log.
    """
    free = shutil.disk_usage(node.folder).free // 10**9
    if free < ROOM and not has(node.socket, STAGE):
        raise NoRoom(f"{node.folder}: {free} GB are free, the project's image wants {ROOM}")
    with FileLock(node.folder / "image-build.lock"):
        if not has(node.socket, BASE):
            import_archive(node.socket, _base_archive(node))
        _start_buildkit(node)
        try:
            _docker_build(node, targets)
            prune(node.socket)
            _forget_old_layers(node)
        finally:
            processes.stop(node.folder, "buildkitd")


def _docker_build(node: Node, targets: tuple[str, ...]) -> None:
    output = "type=image,unpack=true,compression=uncompressed"
    # The base image is local: nothing is pulled.
    options = "--opt image-resolve-mode=local --opt force-network-mode=host --allow network.host"
    environ = {
        "BUILDER": "buildctl",
        "BUILDCTL": str(built("buildkit") / "buildctl"),
        "BUILDKIT_HOST": _address(node),
        "BUILDKIT_OUTPUT": output,
        "BUILDKIT_OPTIONS": options,
    }
    command = [ROOT / "docker" / "build", "-t", STAGE, "-b", BASE, *targets]
    log = node.folder / "image-build.log"
    with log.open("w") as stream:
        done = subprocess.run(
            command,
            env={**os.environ, **environ},
            stdout=stream,
            stderr=stream,
            check=False,
            timeout=3000,
        )
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, command)
        error.add_note("\n".join(log.read_text().splitlines()[-30:]))
        raise error


def _forget_old_layers(node: Node) -> None:
    """Keep what the next build needs."""
    command = [built("buildkit") / "buildctl", "--addr", _address(node), "prune"]
    command.append(f"--keep-storage={KEPT}")
    subprocess.run(command, check=True, capture_output=True, timeout=300)


def _start_buildkit(node: Node) -> None:
    config = node.folder / "buildkitd.toml"
    config.write_text(_CONFIG.format(folder=node.folder))
    command = [built("buildkit") / "buildkitd", "--config", config]
    processes.start(node.folder, "buildkitd", command)
    ready = lambda: _answers(node)  # noqa: E731
    processes.wait("buildkitd", ready, 60, node.folder, "buildkitd")


def _answers(node: Node) -> bool:
    command = [built("buildkit") / "buildctl", "--addr", _address(node), "debug", "workers"]
    return subprocess.run(command, check=False, capture_output=True, timeout=30).returncode == 0


def _address(node: Node) -> str:
    return f"unix://{node.folder}/buildkitd.sock"


def _base_archive(node: Node) -> Path:
    """Debian with Python and tini, from Debian's own packages (no image registry is asked).

    The archive is kept: of another one's bytes, no layer is in BuildKit's cache.
    """
    archive = node.folder / "base.tar"
    if archive.exists():
        return archive
    scratch = node.folder / "base"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    root = scratch / "root"
    packages = "--include=python3,python3-venv,ca-certificates,tini"
    with (node.folder / "debootstrap.log").open("w") as log:
        command = ["debootstrap", "--variant=minbase", packages, "bookworm", root]
        subprocess.run(command, check=True, stdout=log, stderr=log, timeout=900)
    for unneeded in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):
        shutil.rmtree(root / unneeded, ignore_errors=True)
    shutil.rmtree(root / "usr/share/locale", ignore_errors=True)
    layer = scratch / "layer.tar"
    tar = ["tar", "--numeric-owner", "--one-file-system", "-C", root, "-cf", layer, "."]
    subprocess.run(tar, check=True, timeout=300)
    partial = scratch / "image.tar"
    write_archive(partial, BASE, layer, {"Cmd": ["python3"]})
    partial.rename(archive)
    shutil.rmtree(scratch)
    return archive


def size(node: Node, image: str) -> int:
    """Bytes of an image's layers, uncompressed."""
    for line in ctr(node.socket, "images", "list").splitlines():
        fields = line.split()
        if fields[0] == image:
            unit = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[fields[4]]
            return int(float(fields[3]) * unit)
    raise KeyError(image)


_CONFIG = """\
root = "{folder}/buildkit"
insecure-entitlements = ["network.host"]

[grpc]
  address = ["unix://{folder}/buildkitd.sock"]

[worker.oci]
  enabled = false

[worker.containerd]
  enabled = true
  gc = false
  address = "{folder}/containerd.sock"
  namespace = "k8s.io"
  networkMode = "host"
"""
