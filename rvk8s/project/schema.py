"""A JSON Schema's complaints about a YAML document, as errors with line, key and fix."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from rvk8s.errors import InputError
from rvk8s.project.signature import nearest
from rvk8s.project.yamldoc import Document, KeyPath

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

_NOUNS = {
    "string": "a string",
    "integer": "a whole number",
    "object": "a mapping",
    "array": "a list",
    "boolean": "true or false",
    "number": "a number",
    "null": "nothing",
}


def schema_errors(
    document: Document, schema: str, place_of: Callable[[str], str | None] = lambda key: None
) -> Iterator[InputError]:
    """Where a document breaks a schema.

    Args:
        schema: the schema's file in this package; draft 2020-12.
        place_of: the fix for a key that is unknown at the top but known elsewhere.
    """
    for error in _validator(schema).iter_errors(document.value):
        yield from _translated(document, error, place_of)


@cache
def _validator(schema: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    text = resources.files("rvk8s.project").joinpath(schema).read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))


def _translated(
    document: Document, error: ValidationError, place_of: Callable[[str], str | None]
) -> Iterator[InputError]:
    path: KeyPath = tuple(error.absolute_path)
    value: Any = error.instance
    schema: Any = error.schema  # the part with the rule
    rule, limit = error.validator, error.validator_value
    if rule == "additionalProperties":
        known = list(schema["properties"])
        for key in value:
            if key not in known:
                place = None if path else place_of(key)
                fix = place or nearest(key, known, "known keys are")
                yield document.error((*path, key), f"unknown key {key}", fix)
    elif rule == "required":
        # jsonschema gives one error for each missing key, which only its message names.
        for key in schema["required"]:
            if key not in value and repr(key) in error.message:
                constant = schema["properties"][key].get("const")
                fix = f"add {key}: {constant}" if constant else "add it"
                yield document.error(path, f"the key {key} is missing", fix)
    elif error.parent is None and "propertyNames" in error.absolute_schema_path:
        yield _bad_name(document, path, value)
    else:
        yield document.error(path, *_what_and_fix(value, str(rule), limit))


def _bad_name(document: Document, path: KeyPath, name: str) -> InputError:
    fix = "give lower case letters, digits and '-', starting with a letter, at most 40"
    return document.error((*path, name), f"{name!r} cannot be a name", fix)


def _what_and_fix(value: Any, rule: str, limit: Any) -> tuple[str, str | None]:
    if rule == "type":
        wanted = [limit] if isinstance(limit, str) else list(limit)
        fix = "give " + " or ".join(_NOUNS[kind] for kind in wanted)
        return ("is empty" if value is None else f"is {_shown(value)}"), fix
    if rule == "const":
        return f"is {_shown(value)}", f"write {limit}"
    if rule == "minimum":
        return f"is {value}", f"give at least {limit}"
    if rule in ("minLength", "minProperties"):
        return "is empty", "add one" if rule == "minProperties" else "give a value"
    if rule == "maxLength":
        return f"has {len(value)} letters", f"shorten it to {limit}"
    if rule == "pattern":
        return f"is {_shown(value)}", f"it has to match {limit}"
    raise AssertionError(f"no words for the schema's rule {rule}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"the string {value!r}" if isinstance(value, str) else str(value)
