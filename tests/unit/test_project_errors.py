"""Every mistake in an rvk8s.yaml is one line: file, line, key, what, fix; all of them at once."""

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from rvk8s import project
from rvk8s.errors import InputError, InputErrors
from rvk8s.project import schema

HEAD = "apiVersion: rvk8s/v1\nexperiments:\n"
EXP = HEAD + "  one:\n    module: exp.py\n"
CODE = "def get_config(runner, raw_uri, lr=1.0, batch_sz=8): ...\n"

#: (file, the code's text, the errors without the file's name)
CASES: dict[str, tuple[str, str, list[str]]] = {
    "not a mapping": ("- a\n- b\n", CODE, [":1: is a list; give a mapping"]),
    "nothing required": (
        "rootUri: runs\n",
        CODE,
        [
            ":1: the key apiVersion is missing; add apiVersion: rvk8s/v1",
            ":1: the key experiments is missing; add it",
        ],
    ),
    "another version": (
        EXP.replace("/v1", "/v2"),
        CODE,
        [":1: apiVersion: is the string 'rvk8s/v2'; write rvk8s/v1"],
    ),
    "unknown key": (
        EXP + "rootURI: runs\n",
        CODE,
        [":5: rootURI: unknown key rootURI; did you mean rootUri?"],
    ),
    "keys of the chart": (
        EXP + "launcher: job\npools: {}\nexperiment: {}\n",
        CODE,
        [
            ":5: launcher: unknown key launcher; write it below values: `values: {launcher: ...}`",
            ":6: pools: unknown key pools; write it below values: `values: {pools: ...}`",
            ":7: experiment: unknown key experiment; did you mean experiments?",
        ],
    ),
    "unknown key like none": (
        EXP + "    zebra: 1\n",
        CODE,
        [
            ":5: experiments.one.zebra: unknown key zebra; known keys are module, args, splits,"
            " gpus, retries, deadlineSeconds, variants"
        ],
    ),
    "wrong types": (
        EXP + "    args: 12\n    gpus: two\n    splits: [1]\n    variants:\n",
        CODE,
        [
            ":5: experiments.one.args: is 12; give a mapping",
            ":6: experiments.one.gpus: is the string 'two'; give a whole number",
            ":7: experiments.one.splits: is a list; give a whole number or a mapping",
            ":8: experiments.one.variants: is empty; give a mapping",
        ],
    ),
    "bounds": (
        EXP + "    gpus: -1\n    splits: {chip: 0, train: 2}\n    retries: true\n",
        CODE,
        [
            ":5: experiments.one.gpus: is -1; give at least 0",
            ":6: experiments.one.splits.train: unknown key train; known keys are chip, predict",
            ":6: experiments.one.splits.chip: is 0; give at least 1",
            ":7: experiments.one.retries: is true; give a whole number or a mapping",
        ],
    ),
    "no experiments": (HEAD[:-1] + " {}\n", CODE, [":2: experiments: is empty; add one"]),
    "no module": (
        HEAD + "  one:\n    args: {}\n",
        CODE,
        [":3: experiments.one: the key module is missing; add it"],
    ),
    "two of one name": (
        EXP + "  one:\n    module: exp.py\n",
        CODE,
        [":5: experiments.one: is there twice: first on line 3; rename or remove one"],
    ),
    "bad names": (
        EXP + "  Two:\n    module: exp.py\n  " + "x" * 41 + ":\n    module: exp.py\n",
        CODE,
        [
            ":5: experiments.Two: 'Two' cannot be a name; give lower case letters, digits and"
            " '-', starting with a letter, at most 40",
            f":7: experiments.{'x' * 41}: '{'x' * 41}' cannot be a name; give lower case letters,"
            " digits and '-', starting with a letter, at most 40",
        ],
    ),
    "names that collide": (
        EXP + "    variants: {b: {}}\n  one-b:\n    module: exp.py\n",
        CODE,
        [":6: experiments.one-b: would be run as one-b, which line 5 is; rename one of the two"],
    ),
    "a joined name that is too long": (
        EXP + f"    variants: {{{'y' * 38}: {{}}}}\n",
        CODE,
        [
            f":5: experiments.one.variants.{'y' * 38}: one-{'y' * 38} has 42 letters; shorten it"
            " to 40: it becomes part of names in the cluster"
        ],
    ),
    "root URI": (
        EXP + "rootUri: gs://bucket\n",
        CODE,
        [":5: rootUri: gs:// is not supported; give a folder or s3://bucket/prefix"],
    ),
    "no bucket": (
        EXP + "rootUri: s3://\n",
        CODE,
        [":5: rootUri: s3:// names no bucket; give s3://bucket"],
    ),
    "half a URI": (
        EXP + "rootUri: s3:/bucket\n",
        CODE,
        [
            ":5: rootUri: s3:/bucket is half of a URI; give s3://bucket/prefix, or a folder"
            " (./ before a name with a colon)"
        ],
    ),
    "image": (
        EXP + "image: a b\n",
        CODE,
        [":5: image: is the string 'a b'; it has to match ^\\S+$"],
    ),
    "a namespace that is too long": (
        EXP + f"namespace: {'n' * 64}\n",
        CODE,
        [":5: namespace: has 64 letters; shorten it to 63"],
    ),
    "missing file": (
        EXP.replace("exp.py", "exq.py"),
        CODE,
        [":4: experiments.one.module: no file exq.py in {folder}; did you mean exp.py?"],
    ),
    "missing file in a folder": (
        EXP.replace("exp.py", "a/b/zebra.py"),
        CODE,
        [
            ":4: experiments.one.module: no file a/b/zebra.py in {folder};"
            " give a path relative to this file"
        ],
    ),
    "missing module": (
        EXP.replace("exp.py", "json.nothing"),
        CODE,
        [
            ":4: experiments.one.module: no module json.nothing in {folder} or in this Python;"
            " give a .py file relative to this one, or a dotted name"
        ],
    ),
    "a path without .py": (
        EXP.replace("exp.py", "a/exp"),
        CODE,
        [
            ":4: experiments.one.module: a/exp is neither a .py file nor a dotted name;"
            " write a/exp.py"
        ],
    ),
    "no get_config": (
        EXP,
        "def config(runner): ...\n",
        [
            "exp.py: no get_config or get_configs; define get_config(runner, ...) that returns a"
            " pipeline config"
        ],
    ),
    "no runner": (
        EXP,
        "\ndef get_config(): ...\n",
        ["exp.py:2: get_config takes no runner; write def get_config(runner, ...)"],
    ),
    "not Python": (
        EXP,
        "def get_config(runner:\n",
        ["exp.py:1: not Python: '(' was never closed; in `def get_config(runner:`"],
    ),
    "unknown arguments": (
        EXP + "    args: {batch_size: 1, runner: x}\n    variants: {v: {args: {raw_url: x}}}\n",
        CODE,
        [
            ":5: experiments.one.args.batch_size: get_config takes no argument batch_size;"
            " did you mean batch_sz?",
            ":5: experiments.one.args.runner: runner is not yours to give; rvk8s gives it",
            ":6: experiments.one.variants.v.args.raw_url: get_config takes no argument raw_url;"
            " did you mean raw_uri?",
        ],
    ),
    "root_uri is ours": (
        EXP + "    args: {root_uri: x}\n",
        CODE,
        [
            ":5: experiments.one.args.root_uri: root_uri is not yours to give;"
            " rvk8s gives the run's own folder; set rootUri or --root-uri"
        ],
    ),
    "everything at once": (
        "apiVersion: v1\nexperiments:\n  one:\n    modul: exp.py\n  two:\n    module: exp.py\n"
        "    args: {lrr: 1}\n    gpus: x\nimages: x\n",
        CODE,
        [
            ":1: apiVersion: is the string 'v1'; write rvk8s/v1",
            ":3: experiments.one: the key module is missing; add it",
            ":4: experiments.one.modul: unknown key modul; did you mean module?",
            ":7: experiments.two.args.lrr: get_config takes no argument lrr; did you mean lr?",
            ":8: experiments.two.gpus: is the string 'x'; give a whole number",
            ":9: images: unknown key images; did you mean image?",
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_mistakes(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, code, lines = CASES[case]
    (tmp_path / "exp.py").write_text(code)
    (tmp_path / "rvk8s.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputErrors) as caught:
        project.load(Path("rvk8s.yaml"))
    expected = [
        ("rvk8s.yaml" if line.startswith(":") else "") + line.replace("{folder}", str(tmp_path))
        for line in lines
    ]
    assert str(caught.value).splitlines() == expected
    assert caught.value.exit_code == 2


def rules_in(part: Any) -> Iterator[tuple[str, Any]]:
    """The rules of a schema and of those below it: (keyword, its value)."""
    for keyword, value in part.items():
        if keyword in ("properties", "$defs"):
            for below in value.values():
                yield from rules_in(below)
        elif keyword in ("additionalProperties", "propertyNames") and isinstance(value, dict):
            yield from rules_in(value)
        elif keyword not in ("$schema", "$ref", "title", "description"):
            yield keyword, value


def test_every_rule_of_the_schema_has_words() -> None:
    text = resources.files("rvk8s.project").joinpath("project.schema.json").read_text()
    rules = dict(rules_in(json.loads(text)))
    assert {"minimum", "maxLength", "pattern", "const", "type", "minProperties"} <= set(rules)
    elsewhere = {"additionalProperties", "required"}  # the cases above
    for rule in set(rules) - elsewhere:
        what, fix = schema._what_and_fix("value", rule, rules[rule])
        assert what
        assert fix


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.yaml: cannot be read: No such file"):
        project.load(tmp_path / "no.yaml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        project.load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("a: é\n".encode("latin-1"))
    with pytest.raises(InputError, match="byte 3 is not UTF-8; save it as UTF-8"):
        project.load(tmp_path / "latin.yaml")
