"""Images of the cluster's own programs: how each is made, and putting back what is missing.

An image may be deleted while the cluster runs: by a kubelet whose disk is full, or by hand. Pods
that run keep going, but no new one starts. `testbed.up` therefore looks at all images each time:
at those of this table, and at the project's, which projectimage.py builds with their base.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cluster.images import write_program_archive
from cluster.programs import is_built, program, version


@dataclass(frozen=True)
class ProgramImage:
    """An image of one static program.

    Attributes:
        tool: the entry of programs.TOOLS that builds it.
        program: its name there.
        entry: its name in the image, as the upstream manifests call it.
    """

    tool: str
    program: str
    entry: str


#: A change of its program needs a new tag.
PAUSE = "docker.io/local/pause:1"
OPERATOR = f"docker.io/local/training-operator:{version('training-operator')}"
KUEUE = f"docker.io/local/kueue:{version('kueue')}"

IMAGES = {
    PAUSE: ProgramImage("pause", "pause", "pause"),
    OPERATOR: ProgramImage("training-operator", "training-operator", "manager"),
    KUEUE: ProgramImage("kueue", "kueue", "manager"),
}


class ImageHost(Protocol):
    """A cluster that images can be loaded into."""

    @property
    def folder(self) -> Path:
        """A folder for archives while they are loaded."""

    def image_names(self) -> set[str]:
        """Return the names of the images that are there."""

    def load_image(self, archive: Path) -> None:
        """Load a docker archive."""


def restore(host: ImageHost, names: Iterable[str]) -> list[str]:
    """Load those of the named images that are missing, and return their names.

    Args:
        names: keys of IMAGES.

    Raises:
        programs.CannotBuild: a program of a missing image is not built yet and cannot be.
    """
    present = host.image_names()
    missing = [name for name in names if name not in present]
    for name in missing:
        image = IMAGES[name]
        archive = host.folder / f"{image.program}-image.tar"
        try:
            write_program_archive(archive, name, program(image.program), image.entry)
            host.load_image(archive)
        finally:
            archive.unlink(missing_ok=True)
    return missing


def of_built_programs() -> list[str]:
    """Return the images whose programs are built: a test that needs another one builds it."""
    return [name for name, image in IMAGES.items() if is_built(image.tool)]
