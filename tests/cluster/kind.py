"""A cluster by kind, where there is Docker: the same operator, images and S3 as on the node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cluster.controlplane import kubectl
from cluster.node import GPUS

NAME = "rvk8s-tests"
_NODE = f"{NAME}-control-plane"
ROOT = Path(__file__).parents[2]
STAGE = "docker.io/local/rvk8s:test"
DRIVER = "docker.io/local/rvk8s-driver:test"


def available() -> bool:
    """Whether kind is on PATH and a Docker engine answers."""
    if shutil.which("kind") is None or shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], check=False, capture_output=True).returncode == 0


@dataclass(frozen=True)
class Kind:
    """The cluster that kind makes; `folder` has its kubeconfig."""

    folder: Path

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kind.kubeconfig"

    @property
    def address(self) -> str:
        """This machine's address as pods see it: the gateway of kind's Docker network."""
        template = "{{range .IPAM.Config}}{{.Gateway}} {{end}}"
        found = _run("docker", "network", "inspect", "kind", "--format", template).split()
        return next(address for address in found if "." in address)

    def runs(self) -> bool:
        return NAME in _run("kind", "get", "clusters").split() and self.kubeconfig.exists()

    def start(self) -> None:
        """Make the cluster anew and wait until its node is ready."""
        self.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        config = f"--kubeconfig={self.kubeconfig}"
        _run("kind", "create", "cluster", f"--name={NAME}", config, "--wait=180s")
        patch = [
            {"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": str(GPUS)},
        ]
        status = ("--subresource=status", "--type=json", "-p", json.dumps(patch))
        kubectl(self.kubeconfig, "patch", "node", _NODE, *status)

    def stop(self) -> None:
        _run("kind", "delete", "cluster", f"--name={NAME}")

    def image_names(self) -> set[str]:
        """Return the names of the images that the node has."""
        command = ("docker", "exec", _NODE, "ctr", "-n", "k8s.io", "images", "list", "-q")
        return set(_run(*command).split())

    def load_image(self, archive: Path) -> None:
        """Load a docker archive."""
        _run("kind", "load", "image-archive", str(archive), f"--name={NAME}")

    def build_images(self) -> None:
        """The project's images, built by Docker and loaded into the node."""
        environ = {**os.environ, "BUILDER": "docker"}
        subprocess.run([ROOT / "docker" / "build", "-t", STAGE], check=True, env=environ)
        _run("kind", "load", "docker-image", STAGE, DRIVER, f"--name={NAME}")


def _run(*command: str) -> str:
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, timeout=1800
    ).stdout
