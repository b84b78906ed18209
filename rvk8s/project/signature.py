"""What a user's get_config takes, read from its source.

The file is parsed and never imported: the client has no Raster Vision.
"""

from __future__ import annotations

import ast
import difflib
import importlib.machinery
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rvk8s.errors import InputError

#: Raster Vision calls the first of these that is there.
_FUNCTIONS = ("get_configs", "get_config")
#: Arguments that we give ourselves.
_OURS = {
    "runner": "rvk8s gives it",
    "root_uri": "rvk8s gives the run's own folder; set rootUri or --root-uri",
    "ranks": "rvk8s gives how many processes train; set gpus or --gpus",
}


@dataclass(frozen=True)
class Signature:
    """The arguments of get_config or get_configs, without the first one, the runner.

    Attributes:
        function: the name of the function.
        names: arguments that can be given by name.
        required: those of them that have no default.
        any_name: it takes others too (**kwargs), or the source does not tell.
    """

    function: str
    names: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    any_name: bool = False

    def refusals(self, args: Iterable[str], where: Mapping[str, str]) -> list[InputError]:
        """An error for each argument that cannot be given; where names their places."""
        errors = []
        for name in args:
            if name in _OURS:
                what = f"{name} is not yours to give"
                errors.append(InputError(what, where=where[name], fix=_OURS[name]))
            elif not self.any_name and name not in self.names:
                what = f"{self.function} takes no argument {name}"
                fix = nearest(name, [n for n in self.names if n not in _OURS])
                errors.append(InputError(what, where=where[name], fix=fix))
        return errors

    def missing(self, args: Iterable[str]) -> list[str]:
        """The required arguments that are not among these."""
        given = set(args)
        return [name for name in self.required if name not in given and name not in _OURS]


def nearest(name: str, known: Sequence[str], noun: str = "it takes") -> str:
    """The fix for an unknown name: the nearest known one, else all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"{noun} {', '.join(known)}" if known else f"{noun} none"


def find_module(module: str, folder: Path) -> Path | None:
    """The source file of a module, without importing anything.

    Args:
        module: a path that ends in .py, relative to folder, or a dotted name, looked for in folder
            and then on sys.path.
    """
    if module.endswith(".py"):
        path = folder / module
        # Not Path.is_file, which raises for names that no file can have.
        return path if os.path.isfile(path) else None
    places: Sequence[str] | None = [str(folder), *sys.path]
    origin = None
    for name in module.split("."):
        spec = places and importlib.machinery.PathFinder.find_spec(name, places)
        if not spec:
            return None
        origin = spec.origin
        places = list(spec.submodule_search_locations or ())
    return Path(origin) if origin and origin.endswith(".py") else None


def read_signature(path: Path, label: str) -> Signature:
    """The signature of the function in a source file that Raster Vision will call.

    Args:
        label: how errors name the file.

    Raises:
        InputError: it is not Python, or it defines neither function.
    """
    try:
        # Bytes, so that Python's own coding declaration counts.
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        where = f"{label}:{error.lineno}" if error.lineno else label
        fix = f"in `{error.text.strip()}`" if error.text else None
        raise InputError(f"not Python: {error.msg}", where=where, fix=fix) from None
    except (RecursionError, MemoryError):  # of Python's parser, long before memory is used up
        raise InputError("not Python: nested too deeply", where=label) from None
    except ValueError as error:
        raise InputError(f"not Python: {error}", where=label) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=label) from None
    bound = dict(_bindings(tree.body))
    for name in _FUNCTIONS:
        if name in bound:
            return _signature(name, bound[name], label)
    if "*" in bound:
        return Signature("get_config", any_name=True)
    fix = "define get_config(runner, ...) that returns a pipeline config"
    raise InputError("no get_config or get_configs", where=label, fix=fix)


def _signature(name: str, node: ast.stmt, label: str) -> Signature:
    # An imported, assigned or decorated function may take anything.
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        return Signature(name, any_name=True)
    spec = node.args
    positional = [*spec.posonlyargs, *spec.args]
    if not positional and not spec.vararg:
        fix = f"write def {name}(runner, ...)"
        where = f"{label}:{node.lineno}"
        raise InputError(f"{name} takes no runner", where=where, fix=fix)
    without_default = positional[: len(positional) - len(spec.defaults)]
    required = [arg.arg for arg in without_default]
    keywords = zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    required += [arg.arg for arg, default in keywords if default is None]
    runner = positional[0].arg if positional else None
    by_name = [arg.arg for arg in [*spec.args, *spec.kwonlyargs]]
    return Signature(
        name,
        names=tuple(arg for arg in by_name if arg != runner),
        required=tuple(arg for arg in required if arg != runner),
        any_name=spec.kwarg is not None,
    )


def _bindings(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """The names that a module binds at its top level and the statements that do it."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        yield name.id, node
        else:
            for block in ("body", "orelse", "finalbody"):
                yield from _bindings(getattr(node, block, ()))
            for handler in getattr(node, "handlers", ()):
                yield from _bindings(handler.body)
