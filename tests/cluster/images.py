"""Images for the node's containerd: of one static program, or of a folder."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

NAMESPACE = "k8s.io"  # where the kubelet's images live in containerd


def ctr(socket: Path, *args: str, ok: bool = False, seconds: float = 900) -> str:
    """What containerd's client prints; with `ok`, "" where it fails.

    Raises:
        subprocess.CalledProcessError: it failed; the error's note holds what it said.
    """
    command = ["ctr", "--address", str(socket), "--namespace", NAMESPACE, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    if done.returncode == 0:
        return done.stdout
    if ok:
        return ""
    error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    error.add_note(done.stderr)
    raise error


def names(socket: Path) -> set[str]:
    """Return the names of all images."""
    return set(ctr(socket, "images", "list", "-q").split())


def has(socket: Path, name: str) -> bool:
    """Whether an image of that name is there."""
    return name in names(socket)


def prune(socket: Path) -> None:
    """Delete images without a name: those that a newer build of the same name replaced."""
    lines = [line.split() for line in ctr(socket, "images", "list").splitlines()[1:]]
    named = {fields[2] for fields in lines if not fields[0].startswith("sha256:")}
    old = [fields[0] for fields in lines if fields[2] not in named]
    if old:
        ctr(socket, "images", "delete", *old)


def write_program_archive(archive: Path, name: str, program: Path, entry: str) -> None:
    """Write a docker archive of a static program, whose entry it is.

    Args:
        name: `docker.io/local/NAME:TAG`.
        entry: the program's name in the image.
    """
    config = {"Entrypoint": [f"/{entry}"], "User": "65532:65532"}
    write_archive(archive, name, _layer_of(program, entry), config)


def import_archive(socket: Path, archive: Path) -> None:
    """Load a docker archive."""
    ctr(socket, "images", "import", str(archive))


def write_archive(archive: Path, name: str, layer: Path | bytes, config: dict[str, object]) -> None:
    """Write a docker archive of one layer.

    Args:
        layer: an uncompressed tar, its bytes or its file.
        config: the image's `config`: Entrypoint, Env, User.
    """
    if isinstance(layer, bytes):
        digest, size = hashlib.sha256(layer).hexdigest(), len(layer)
    else:
        with layer.open("rb") as stream:
            digest, size = hashlib.file_digest(stream, "sha256").hexdigest(), layer.stat().st_size
    image = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "rvk8s tests"}],
    }
    described = json.dumps(image).encode()
    config_name = f"{hashlib.sha256(described).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        _add(tar, config_name, described)
        _add(tar, "manifest.json", json.dumps(manifest).encode())
        entry = tarfile.TarInfo(f"{digest}/layer.tar")
        entry.size = size
        if isinstance(layer, bytes):
            tar.addfile(entry, io.BytesIO(layer))
        else:
            with layer.open("rb") as stream:
                tar.addfile(entry, stream)


def _layer_of(program: Path, name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("tmp", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        _add(tar, "etc/passwd", b"nonroot:x:65532:65532::/tmp:/sbin/nologin\n")
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = program.stat().st_size, 0o755
        with program.open("rb") as stream:
            tar.addfile(entry, stream)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))
