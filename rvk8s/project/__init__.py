"""rvk8s.yaml -> Project: what experiments there are, checked before anything is started.

The file's form is described by project.schema.json, which is what validates it; what a schema
cannot say (modules, arguments, names that collide) is checked here. All mistakes of a file are
reported at once, each with its line and the fix.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rvk8s.contract import SPLITTABLE, STAGES
from rvk8s.errors import InputError, InputErrors
from rvk8s.plan import absolute_root
from rvk8s.project.experiment import Experiment
from rvk8s.project.schema import schema_errors
from rvk8s.project.signature import Signature, find_module, nearest, read_signature
from rvk8s.project.values_files import Layer, combined, read_preset
from rvk8s.project.yamldoc import Document, KeyPath, read
from rvk8s.values import chart_dir

FILE_NAME = "rvk8s.yaml"
#: A run id is the name and 22 more characters, and has to stay below the 63 of a DNS label.
_LONGEST_NAME = 40


@dataclass(frozen=True)
class Project:
    """A checked rvk8s.yaml.

    Attributes:
        path: the file.
        root_uri: where runs are written, absolute; None where the file does not say.
        image: the container image; None where the file does not say.
        namespace: of runs on a cluster; None where the file does not say.
        values: of the chart, for runs on a cluster: those of the file over those of its preset.
        experiments: each experiment followed by its variants, in the file's order.
        document: the file's text, which knows lines.
        layers: where values come from, the strongest first.
    """

    path: Path
    root_uri: str | None
    image: str | None
    namespace: str | None
    values: Mapping[str, Any]
    experiments: tuple[Experiment, ...]
    document: Document
    layers: tuple[Layer, ...]

    def select(self, name: str | None = None, match: str | None = None) -> list[Experiment]:
        """The experiment or variant of a name, or all whose names match a pattern.

        Raises:
            InputError: there is none; or neither or both of name and match are given.
        """
        names = [experiment.name for experiment in self.experiments]
        if (name is None) == (match is None):
            fix = f"give one of {', '.join(names)}, or -m with a pattern such as '*{names[0]}*'"
            what = "no experiment is named" if name is None else "a name and -m are both given"
            raise InputError(what, fix=fix)
        if match is not None:
            found = [e for e in self.experiments if fnmatch.fnmatchcase(e.name, match)]
            if not found:
                fix = f"there are {', '.join(names)}"
                raise InputError(
                    f"no experiment matches {match!r}", where=_label(self.path), fix=fix
                )
            return found
        if name not in names:
            fix = nearest(str(name), names, "there are")
            raise InputError(f"no experiment {name}", where=_label(self.path), fix=fix)
        return [self.experiments[names.index(name)]]


def find(start: Path | None = None) -> Path:
    """The rvk8s.yaml of a folder (default: the working folder) or of the nearest one above it.

    Raises:
        InputError: there is none.
    """
    start = (start or Path.cwd()).absolute()
    closed = []
    for folder in (start, *start.parents):
        try:
            if (folder / FILE_NAME).is_file():
                return folder / FILE_NAME
        except PermissionError:
            closed.append(str(folder))
    fix = "change to its folder, give -f FILE, or write one with `rvk8s init`"
    but = f" ({', '.join(closed)} cannot be read)" if closed else ""
    raise InputError(f"no {FILE_NAME} in {start} or above it{but}", fix=fix)


def load(path: Path) -> Project:
    """The project of an rvk8s.yaml.

    Raises:
        InputError: the file cannot be read or is not YAML.
        InputErrors: everything else that is wrong with it, in the order of its lines.
    """
    document = read(path, _label(path))
    errors = [*document.errors, *schema_errors(document, "project.schema.json", _place_of)]
    experiments: list[Experiment] = []
    root_uri = None
    layers = [Layer(document, ("values",))]
    folder = _folder(path)
    if isinstance(document.value, dict):
        root_uri = _root_uri(document, folder, errors)
        layers += _preset(document, folder, errors)
        builder = _Builder(document, folder, root_uri, combined(layers))
        experiments = list(builder.experiments())
        errors += builder.errors
    if errors:
        raise InputErrors(sorted(errors, key=_line))
    value = document.value
    return Project(
        path=path,
        root_uri=root_uri,
        image=value.get("image"),
        namespace=value.get("namespace"),
        values=combined(layers),
        experiments=tuple(experiments),
        document=document,
        layers=tuple(layers),
    )


def root_uri_of(path: Path) -> str | None:
    """Only the rootUri of a file, absolute: a mistake elsewhere does not hide the runs.

    Raises:
        InputError: the file cannot be read, is not YAML, or its rootUri is not a URI.
    """
    document = read(path, _label(path))
    errors: list[InputError] = []
    value = document.value if isinstance(document.value, dict) else {}
    if not isinstance(value.get("rootUri", ""), str):
        raise document.error(("rootUri",), "is not a string", "give a folder or s3://bucket/prefix")
    root_uri = _root_uri(document, _folder(path), errors)
    if errors:
        raise errors[0]
    return root_uri


def namespace_of(path: Path) -> str | None:
    """Only the namespace of a file; None where it has none.

    Raises:
        InputError: the file cannot be read, is not YAML, or its namespace is not a text.
    """
    document = read(path, _label(path))
    value = document.value.get("namespace") if isinstance(document.value, dict) else None
    if value is not None and not isinstance(value, str):
        raise document.error(("namespace",), "is not a string", "give a namespace's name")
    return value


def _place_of(key: str) -> str | None:
    """Where a key belongs that is none of the file's: the chart's stand below values."""
    schema = json.loads((chart_dir() / "values.schema.json").read_text(encoding="utf-8"))
    known = set(schema["properties"]) - {"experiment", "run"}  # those a plan fills in
    return f"write it below values: `values: {{{key}: ...}}`" if key in known else None


def _label(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _folder(path: Path) -> Path:
    return Path(os.path.abspath(path)).parent


def _root_uri(document: Document, folder: Path, errors: list[InputError]) -> str | None:
    value = document.value.get("rootUri")
    if not isinstance(value, str) or not value:
        return None  # absent, or the schema's error
    try:
        return absolute_root(value, str(folder), document.where(("rootUri",)))
    except InputError as error:
        errors.append(error)
        return None


def _preset(document: Document, folder: Path, errors: list[InputError]) -> list[Layer]:
    try:
        layer = read_preset(document, folder)
    except InputErrors as several:
        errors += several.errors
    except InputError as error:
        errors.append(error)
    else:
        return [layer] if layer else []
    return []


class _Builder:
    """Makes the experiments of a document and finds what the schema cannot.

    It is also run on a file that breaks the schema, so that all mistakes are found at once: what
    has the wrong type is passed over.
    """

    def __init__(
        self, document: Document, folder: Path, root_uri: str | None, values: Mapping[str, Any]
    ):
        self.document, self.folder, self.root_uri, self.values = document, folder, root_uri, values
        self.errors: list[InputError] = []
        self._signatures: dict[str, Signature | None] = {}
        self._names: dict[str, KeyPath] = {}

    def experiments(self) -> Iterator[Experiment]:
        for name, value in _dict(self.document.value.get("experiments")).items():
            value = _dict(value)
            path: KeyPath = ("experiments", name)
            signature = self._signature(value.get("module"), (*path, "module"))
            yield self._experiment(name, value, path, signature)
            for variant, changes in _dict(value.get("variants")).items():
                merged = _merged(value, _dict(changes))
                variant_path = (*path, "variants", variant)
                joined = f"{name}-{variant}"
                yield self._experiment(joined, merged, variant_path, signature, name)

    def _experiment(
        self,
        name: str,
        value: dict[str, Any],
        path: KeyPath,
        signature: Signature | None,
        variant_of: str | None = None,
    ) -> Experiment:
        self._check_name(name, path, variant_of)
        document = self.document
        if signature:
            # Arguments that a variant has from its experiment are reported there.
            own = _dict(_dict(_at(document.value, path)).get("args"))
            places = {key: document.where((*path, "args", key)) for key in own}
            self.errors += signature.refusals(own, places)
        return Experiment(
            name=name,
            module=_below(str(value.get("module")), self.folder),
            signature=signature or Signature("get_config", any_name=True),
            where=document.where(path),
            project_dir=str(self.folder),
            args=_dict(value.get("args")),
            splits=_by_stage(value.get("splits"), SPLITTABLE),
            gpus=_by_stage(value.get("gpus"), ["train"]).get("train"),
            retries=_by_stage(value.get("retries"), STAGES),
            deadline_seconds=_by_stage(value.get("deadlineSeconds"), STAGES),
            root_uri=self.root_uri,
            image=document.value.get("image"),
            values=self.values,
            variant_of=variant_of,
        )

    def _check_name(self, name: str, path: KeyPath, variant_of: str | None) -> None:
        if name in self._names:
            what = f"would be run as {name}, which line {self.document.line(self._names[name])} is"
            self.errors.append(self.document.error(path, what, "rename one of the two"))
        elif variant_of and len(name) > _LONGEST_NAME:
            what = f"{name} has {len(name)} letters"
            fix = f"shorten it to {_LONGEST_NAME}: it becomes part of names in the cluster"
            self.errors.append(self.document.error(path, what, fix))
        self._names.setdefault(name, path)

    def _signature(self, module: Any, path: KeyPath) -> Signature | None:
        if not isinstance(module, str) or not module:
            return None  # the schema's error
        if module not in self._signatures:
            try:
                self._signatures[module] = self._read_signature(module, path)
            except InputError as error:
                self._signatures[module] = None
                self.errors.append(error)
        return self._signatures[module]

    def _read_signature(self, module: str, path: KeyPath) -> Signature:
        source = find_module(module, self.folder)
        if source is not None:
            return read_signature(source, _label(source))
        if module.endswith(".py"):
            what = f"no file {module} in {self.folder}"
            close = difflib.get_close_matches(module, _python_files(self.folder, module), 1, 0.8)
            fix = f"did you mean {close[0]}?" if close else "give a path relative to this file"
        elif "/" in module:
            what, fix = f"{module} is neither a .py file nor a dotted name", f"write {module}.py"
        else:
            what = f"no module {module} in {self.folder} or in this Python"
            fix = "give a .py file relative to this one, or a dotted name"
        raise self.document.error(path, what, fix)


def _line(error: InputError) -> tuple[str, int]:
    """Sorts by file and line."""
    file, _, line = str(error.where).partition(": ")[0].rpartition(":")
    return (file, int(line)) if line.isdecimal() else (str(error.where), 0)


def _python_files(folder: Path, module: str) -> list[str]:
    """The sources that a wrong path may mean: those beside it and its namesakes one folder on."""
    near = (folder / module).parent
    while not os.path.isdir(near):
        near = near.parent
    namesakes = (path for path in near.glob("*/*.py") if path.name == Path(module).name)
    found = [*near.glob("*.py"), *namesakes]
    files = (path for path in found if path.is_file() and not path.name.startswith("."))
    return sorted(os.path.relpath(path, folder) for path in files)


def _below(module: str, folder: Path) -> str:
    """A module's path from the folder, where it leads there otherwise, as ./one.py does."""
    path = os.path.relpath(os.path.join(folder, module), folder)
    return path if module.endswith(".py") and path.partition("/")[0] != ".." else module


def _merged(experiment: dict[str, Any], variant: dict[str, Any]) -> dict[str, Any]:
    """An experiment with a variant's changes: args key by key, splits and the like by stage."""
    merged = {**experiment, **variant}
    merged["args"] = {**_dict(experiment.get("args")), **_dict(variant.get("args"))}
    for key in ("splits", "retries", "deadlineSeconds"):
        stages = SPLITTABLE if key == "splits" else STAGES
        both = (_by_stage(value.get(key), stages) for value in (experiment, variant))
        merged[key] = {stage: number for one in both for stage, number in one.items()}
    return merged


def _by_stage(value: Any, stages: Iterable[str]) -> dict[str, int]:
    if isinstance(value, int | float):  # 4.0 is a whole number in JSON Schema
        return dict.fromkeys(stages, int(value))
    return {stage: int(n) for stage, n in _dict(value).items() if isinstance(n, int | float)}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _at(value: Any, path: KeyPath) -> Any:
    for part in path:
        value = value[part]
    return value
