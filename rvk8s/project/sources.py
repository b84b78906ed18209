"""The Python files of a project that go with a run to the cluster."""

from __future__ import annotations

import ast
import importlib.machinery
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rvk8s.errors import InputError
from rvk8s.project import Experiment
from rvk8s.project.signature import find_module

#: They travel in a ConfigMap, which holds 1 MiB with everything around them.
_MOST_BYTES = 700 * 1024
_NOT_SOURCES = {"__pycache__", "node_modules", "site-packages"}
#: What a file or folder may be called to go with a run; no import statement names another one.
_NAME = re.compile(r"[^/\\:\s]+")


#: Words of names that sound like a secret; a tokenizer is none.
_SECRET = re.compile(
    r"(^|[^a-z])(secrets?|credentials?|passwords?|passwd|tokens?|(api|private|access)_?keys?)"
    r"([^a-z]|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Sources:
    """The files that go with a run.

    Attributes:
        files: path below the project's folder -> text.
        notes: what a user may not expect of them, a line each.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def sources(experiment: Experiment) -> Sources:
    """What configure imports in its pod.

    The module, all Python files of its folder and below (of a dotted module: of its top package),
    and what these import from the project. None of a dotted module that lies outside: it is in the
    image. Hidden files are those of editors and systems, and stay here.

    Raises:
        InputError: a file is not UTF-8 or cannot be read; they are too many for a ConfigMap; the
            module has a name that cannot go there, or is a file outside of the project's folder.
    """
    folder = Path(experiment.project_dir)
    module = find_module(experiment.module, folder)
    if experiment.module.endswith(".py") and module and not _is_in(module, folder):
        what = f"module {experiment.module} lies outside of the folder of rvk8s.yaml"
        fix = "move rvk8s.yaml above it, or put it in the image and write a dotted name"
        raise InputError(what, where=experiment.where, fix=fix)
    if module is None or not _is_below(module, folder):
        return Sources()
    odd = [part for part in module.relative_to(folder).parts if not _NAME.fullmatch(part)]
    if odd:
        what = f"{odd[0]!r} has a space, a colon or a backslash, which cannot go to a cluster"
        raise InputError(what, where=experiment.where, fix="rename it")
    found: dict[str, str] = {}
    beside = _Neighbours(folder)
    todo = [module, *beside.of(experiment.module, module)]
    while todo:
        path = todo.pop()
        name = path.relative_to(folder).as_posix()
        if name not in found:
            found[name] = _read(path, name)
            todo += _imported(found[name], path, folder)
    _check_size(found, experiment)
    notes = [*beside.notes, *(note for name in sorted(found) for note in _notes(folder, name))]
    return Sources(dict(sorted(found.items())), tuple(notes))


class _Neighbours:
    """The Python files beside a module and below, and why some of them do not go."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.notes: list[str] = []

    def of(self, name: str, module: Path) -> Iterator[Path]:
        if name.endswith(".py") or "." not in name:
            top = module.parent
        else:
            top = self._folder / name.partition(".")[0]
        # A module beside rvk8s.yaml would take the whole repository: only what it imports, then.
        if top != self._folder and _is_below(top, self._folder):
            yield from self._python_files(top)

    def _python_files(self, top: Path) -> Iterator[Path]:
        for parent, folders, files in os.walk(top):
            if "pyvenv.cfg" in files:
                folders.clear()
                continue
            folders[:] = sorted(f for f in folders if _may_hold_sources(f))
            for name in folders:
                if os.path.islink(os.path.join(parent, name)):
                    self._note(Path(parent, name), "is a link: only what is imported from it goes")
            for name in sorted(files):
                if name.endswith(".py") and _NAME.fullmatch(name) and not name.startswith("."):
                    path = Path(parent, name)
                    if path.is_file():
                        yield path
                    else:
                        self._note(path, f"is {_kind(path)}, and does not go")

    def _note(self, path: Path, text: str) -> None:
        self.notes.append(f"{path.relative_to(self._folder).as_posix()} {text}")


def _kind(path: Path) -> str:
    """What a path is that is no file."""
    if path.is_fifo():
        return "a named pipe (FIFO)"
    return "a link to nothing" if path.is_symlink() and not path.exists() else "no file"


def _notes(folder: Path, name: str) -> Iterator[str]:
    """What may surprise of a file that goes."""
    target = os.path.realpath(folder / name)
    if not Path(target).is_relative_to(os.path.realpath(folder)):
        yield f"{name} is a link to {target}, outside of the project, and goes with its text"
    if _SECRET.search(name):
        who = "whoever may read ConfigMaps of the namespace"
        yield f"{name} sounds like a secret, and goes to a ConfigMap: {who} can read it"


def _may_hold_sources(folder: str) -> bool:
    named = _NAME.fullmatch(folder) is not None
    return named and folder not in _NOT_SOURCES and not folder.startswith(".")


def _imported(text: str, path: Path, folder: Path) -> Iterator[Path]:
    """The files of the project that a source's import statements name."""
    try:
        tree = ast.parse(text.encode())  # as Python reads a file: it may begin with a BOM
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # configure says it, with the line
    package = path.parent
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_of(alias.name.split("."), folder, folder)
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".") if node.module else []
            start = folder
            if node.level:
                start = package.parents[node.level - 2] if node.level > 1 else package
            for alias in node.names:
                yield from _files_of([*parts, alias.name], start, folder)


def _files_of(parts: list[str], start: Path, folder: Path) -> Iterator[Path]:
    """The files that `import a.b.c` reads from a folder; c may be a name inside b."""
    places = [str(start)]
    for part in parts:
        spec = importlib.machinery.PathFinder.find_spec(part, places)
        if spec is None:
            return
        if spec.origin and spec.origin.endswith(".py") and _is_below(Path(spec.origin), folder):
            yield Path(spec.origin)
        places = list(spec.submodule_search_locations or ())


def _is_below(path: Path, folder: Path) -> bool:
    return _is_in(path, folder) and not _NOT_SOURCES.intersection(path.relative_to(folder).parts)


def _is_in(path: Path, folder: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(folder)


def _read(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError("is not UTF-8", where=name, fix="save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=name) from None


def _check_size(found: dict[str, str], experiment: Experiment) -> None:
    sizes = {name: len(text.encode()) for name, text in found.items()}
    total = sum(sizes.values())
    if total > _MOST_BYTES:
        largest = ", ".join(sorted(sizes, key=lambda name: -sizes[name])[:3])
        what = f"{len(sizes)} Python files with {total // 1024} KiB ({largest}, ...)"
        fix = (
            f"at most {_MOST_BYTES // 1024} KiB go with a run: give the experiment a folder of its "
            "own, or put the modules in the image and write a dotted name"
        )
        raise InputError(what, where=experiment.where, fix=fix)
