"""`rvk8s init`: the files that a new project starts from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from rvk8s.errors import InputError, InputErrors


def write_templates(folder: Path, task: str) -> list[Path]:
    """Write the files of a task to a folder, which is made where there is none.

    They lie below rvk8s/project/templates/TASK as they will below the folder: the settings, and
    the experiment.

    Args:
        task: segmentation, classification or detection.

    Raises:
        InputErrors: some of them are there; then nothing is written.
        InputError: the folder cannot be written.
    """
    templates = resources.files("rvk8s.project").joinpath("templates", task)
    targets = {name: folder / name for name in ("rvk8s.yaml", f"experiments/{task}.py")}
    there = [path for path in targets.values() if path.exists() or path.is_symlink()]
    if there:
        fix = "nothing was written; give another folder or move it away"
        raise InputErrors([InputError("is there already", where=str(p), fix=fix) for p in there])
    written: list[Path] = []
    try:
        for name, target in targets.items():
            text = templates.joinpath(name).read_bytes()
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                written.append(target)
                file.write(text)
    except OSError as error:
        for path in written:
            path.unlink()
        what = f"cannot be written: {error.strerror}"
        raise InputError(what, where=str(folder), fix="give another folder") from None
    return written
