"""YAML is read by the 1.2 core schema, and every value knows its line."""

import pytest
from said import check_lines, says

from rvk8s.errors import InputError
from rvk8s.project.yamldoc import parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("1e-4", 1e-4),
        ("1.", 1.0),
        ("-.5E+2", -50.0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("no", "no"),
        ("yes", "yes"),
        ("2_10", "2_10"),
        ("1:30", "1:30"),
        ("2026-11-23", "2026-11-23"),
        (".nan", ".nan"),
        ('"12"', "12"),
        ("'true'", "true"),
        ("[1, [a, {b: 2}]]", [1, ["a", {"b": 2}]]),
    ],
)
def test_scalars(text: str, value: object) -> None:
    read = parse(f"key: {text}\n", "f.yaml").value["key"]
    assert read == value
    assert type(read) is type(value)


def test_lines() -> None:
    document = parse("# comment\na:\n  b:\n    - x\n    - c: 1\n\nd: &d {e: 1}\nf: *d\n", "f.yaml")
    assert document.value["f"] == {"e": 1}
    assert document.line(("a", "b")) == 3
    assert document.line(("a", "b", 1, "c")) == 5
    assert document.line(("a", "no such")) == 2
    assert document.where(("d", "e")) == "f.yaml:7: d.e"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.yaml: is empty"),
        ("# nothing\n", "f.yaml: is empty"),
        ("a: [1\nb: 2\n", "f.yaml:2: bad YAML: …',' or ']'"),
        ("a: 'x\n", "f.yaml:2: bad YAML: …end of stream"),
        ("a: 1\n\tb: 2\n", "f.yaml:2: bad YAML: …character"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: bad YAML: …another document"),
        ("a: " + "[" * 3000 + "]" * 3000, "f.yaml: …nested…; …brackets"),
        ("a: " + "{a: " * 2000 + "}" * 2000, "f.yaml: …nested…; …brackets"),
        ("a: \0", "f.yaml: bad YAML: …character"),
        ("a: &x [*x]\n", "f.yaml:1: a.0: …itself"),
        ("a: !python/object:os.system x\n", "f.yaml:1: a: …!python/object:os.system"),
    ],
)
def test_not_yaml(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text, "f.yaml")
    assert says(str(caught.value), f"{message}…")
    assert "\n" not in str(caught.value)


def test_keys_twice_and_keys_that_are_no_strings() -> None:
    document = parse("a: 1\nb: {c: 1, c: 2}\na: 3\n[x]: 1\n", "f.yaml")
    assert document.value == {"a": 3, "b": {"c": 2}}
    check_lines(
        [str(error) for error in document.errors],
        ["f.yaml:2: b.c: …twice…2; …", "f.yaml:3: a: …twice…1; …", "f.yaml:1: line 4 …key…string"],
    )
