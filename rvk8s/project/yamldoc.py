"""A YAML file as plain values that know their lines.

Scalars are read by YAML 1.2's core schema, as Kubernetes and Helm read them, not by PyYAML's 1.1:
`1e-4` is a number, `no` and `2026-11-23` are strings, and so is a Potsdam tile named `2_10`
(which 1.1 reads as the integer 210).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rvk8s.errors import InputError

#: Where a value stands: its keys and list positions from the top.
KeyPath = tuple[str | int, ...]

_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
#: https://yaml.org/spec/1.2.2/#103-core-schema, without .inf and .nan, which JSON does not have.
_NUMBERS: tuple[tuple[re.Pattern[str], Callable[[str], int | float]], ...] = (
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+"), lambda text: int(text, 0)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
)


@dataclass
class Document:
    """What a YAML file holds.

    Attributes:
        label: how errors name the file.
        value: dicts with string keys, lists, strings, numbers, booleans, None.
        errors: keys that stand twice or are no strings; the last one of a name is in value.
    """

    label: str
    value: Any = None
    errors: list[InputError] = field(default_factory=list)
    _lines: dict[KeyPath, int] = field(default_factory=dict)

    def line(self, path: KeyPath) -> int:
        """The line of a key (of a list's item: where it begins), else of the nearest above it."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def find(self, keys: Sequence[str | int]) -> KeyPath | None:
        """The path of a value, with the positions in lists as numbers; None where it is not."""
        value, path = self.value, list[str | int]()
        for key in keys:
            if isinstance(value, list) and str(key).isdecimal() and int(key) < len(value):
                path.append(int(key))
            elif isinstance(value, dict) and key in value:
                path.append(key)
            else:
                return None
            value = value[path[-1]]
        return tuple(path)

    def where(self, path: KeyPath) -> str:
        """`rvk8s.yaml:12: experiments.potsdam`, as InputError's `where` takes it."""
        key = ".".join(str(part) for part in path)
        return f"{self.label}:{self.line(path)}" + (f": {key}" if key else "")

    def error(self, path: KeyPath, what: str, fix: str | None = None) -> InputError:
        return InputError(what, where=self.where(path), fix=fix)


def read(path: Path, label: str) -> Document:
    """The document in a file.

    Raises:
        InputError: the file cannot be read, is empty, is not YAML or holds several documents.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        fix = "save it as UTF-8"
        raise InputError(f"byte {error.start} is not UTF-8", where=label, fix=fix) from None
    except OSError as error:
        fix = "give an rvk8s.yaml with --file, or write one with `rvk8s init`"
        raise InputError(f"cannot be read: {error.strerror}", where=label, fix=fix) from None
    return parse(text, label)


def parse(text: str, label: str) -> Document:
    """The document in a text; see read()."""
    try:
        return _parsed(text, label)
    except RecursionError:
        raise InputError("is nested too deeply", where=label, fix="close its brackets") from None


def _parsed(text: str, label: str) -> Document:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{label}:{mark.line + 1}" if mark else label
        what = f"bad YAML: {error.problem or error.context}"
        fix = "look at the indentation, quotes and colons there"
        raise InputError(what, where=where, fix=fix) from None
    except yaml.YAMLError as error:
        raise InputError(f"bad YAML: {' '.join(str(error).split())}", where=label) from None
    if node is None:
        raise InputError("is empty", where=label, fix="`rvk8s init` writes one to start from")
    document = Document(label)
    document.value = _Reader(document).read(node, (), ())
    return document


class _Reader:
    def __init__(self, document: Document):
        self.document = document

    def read(self, node: yaml.Node, path: KeyPath, parents: tuple[yaml.Node, ...]) -> Any:
        """The value of a node; parents are the nodes around it, to find an alias to one of them."""
        self.document._lines.setdefault(path, node.start_mark.line + 1)
        if any(node is parent for parent in parents):
            raise self.document.error(path, "holds itself", "remove the alias")
        if node.tag.startswith("!"):
            raise self.document.error(path, f"the tag {node.tag} means nothing here", "remove it")
        parents = (*parents, node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, parents)
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            return [self.read(item, (*path, index), parents) for index, item in items]
        assert isinstance(node, yaml.ScalarNode)  # the third and last kind of node
        return _scalar(node)

    def _mapping(
        self, node: yaml.MappingNode, path: KeyPath, parents: tuple[yaml.Node, ...]
    ) -> dict[str, Any]:
        document = self.document
        value: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                what = f"line {line} has a key that is not a string"
                document.errors.append(document.error(path, what))
                continue
            key = key_node.value
            key_path = (*path, key)
            document._lines[key_path] = line
            if key in value:
                what = f"is there twice: first on line {first[key]}"
                document.errors.append(document.error(key_path, what, "rename or remove one"))
            first.setdefault(key, line)
            value[key] = self.read(value_node, key_path, parents)
        return value


def _scalar(node: yaml.ScalarNode) -> Any:
    text = node.value
    if node.style is not None:  # quoted or a block: a string whatever it looks like
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    for pattern, convert in _NUMBERS:
        if pattern.fullmatch(text):
            return convert(text)
    return text
