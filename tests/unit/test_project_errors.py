"""Every mistake in an rvk8s.yaml is one line: file, line, key, what, fix; all of them at once."""

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from said import check_lines

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
            ":1: …apiVersion…missing; …apiVersion: rvk8s/v1",
            ":1: …experiments…missing…",
        ],
    ),
    "another version": (
        EXP.replace("/v1", "/v2"),
        CODE,
        [":1: apiVersion: …'rvk8s/v2'; …rvk8s/v1"],
    ),
    "unknown key": (
        EXP + "rootURI: runs\n",
        CODE,
        [":5: rootURI: …rootURI; …rootUri?"],
    ),
    "keys of the chart": (
        EXP + "launcher: job\npools: {}\nexperiment: {}\n",
        CODE,
        [
            ":5: launcher: …`values: {launcher: ...}`…",
            ":6: pools: …`values: {pools: ...}`…",
            ":7: experiment: …experiments?",
        ],
    ),
    "unknown key like none": (
        EXP + "    zebra: 1\n",
        CODE,
        [":5: experiments.one.zebra: …deadlineSeconds…"],
    ),
    "wrong types": (
        EXP + "    args: 12\n    gpus: two\n    splits: [1]\n    variants:\n",
        CODE,
        [
            ":5: experiments.one.args: …12; …mapping",
            ":6: experiments.one.gpus: …'two'; …whole number",
            ":7: experiments.one.splits: …list; …whole number…mapping",
            ":8: experiments.one.variants: …empty; …mapping",
        ],
    ),
    "bounds": (
        EXP + "    gpus: -1\n    splits: {chip: 0, train: 2}\n    retries: true\n",
        CODE,
        [
            ":5: experiments.one.gpus: …-1; …at least 0",
            ":6: experiments.one.splits.train: unknown…chip, predict",
            ":6: experiments.one.splits.chip: …0; …at least 1",
            ":7: experiments.one.retries: …true; …whole number…mapping",
        ],
    ),
    "no experiments": (HEAD[:-1] + " {}\n", CODE, [":2: experiments: …empty…"]),
    "no module": (
        HEAD + "  one:\n    args: {}\n",
        CODE,
        [":3: experiments.one: …module…missing…"],
    ),
    "two of one name": (
        EXP + "  one:\n    module: exp.py\n",
        CODE,
        [":5: experiments.one: …twice…line 3; …"],
    ),
    "bad names": (
        EXP + "  Two:\n    module: exp.py\n  " + "x" * 41 + ":\n    module: exp.py\n",
        CODE,
        [
            ":5: experiments.Two: 'Two'…'-'…40…",
            f":7: experiments.{'x' * 41}: '{'x' * 41}'…'-'…40",
        ],
    ),
    "names that collide": (
        EXP + "    variants: {b: {}}\n  one-b:\n    module: exp.py\n",
        CODE,
        [":6: experiments.one-b: …line 5…; rename…"],
    ),
    "a joined name that is too long": (
        EXP + f"    variants: {{{'y' * 38}: {{}}}}\n",
        CODE,
        [f":5: experiments.one.variants.{'y' * 38}: one-{'y' * 38}…42 letters; shorten…40…"],
    ),
    "root URI": (
        EXP + "rootUri: gs://bucket\n",
        CODE,
        [":5: rootUri: gs://…not supported; …s3://bucket/prefix"],
    ),
    "no bucket": (
        EXP + "rootUri: s3://\n",
        CODE,
        [":5: rootUri: s3://…no bucket; …s3://bucket"],
    ),
    "half a URI": (
        EXP + "rootUri: s3:/bucket\n",
        CODE,
        [":5: rootUri: s3:/bucket…half…; …s3://bucket/prefix…./…"],
    ),
    "image": (
        EXP + "image: a b\n",
        CODE,
        [":5: image: …'a b'…^\\S+$…"],
    ),
    "a namespace that is too long": (
        EXP + f"namespace: {'n' * 64}\n",
        CODE,
        [":5: namespace: …64 letters; …63"],
    ),
    "missing file": (
        EXP.replace("exp.py", "exq.py"),
        CODE,
        [":4: experiments.one.module: …no file exq.py…{folder}; …exp.py?"],
    ),
    "missing file in a folder": (
        EXP.replace("exp.py", "a/b/zebra.py"),
        CODE,
        [":4: experiments.one.module: …no file a/b/zebra.py…{folder}; …"],
    ),
    "missing module": (
        EXP.replace("exp.py", "json.nothing"),
        CODE,
        [":4: experiments.one.module: …no module json.nothing…{folder}…"],
    ),
    "a path without .py": (
        EXP.replace("exp.py", "a/exp"),
        CODE,
        [":4: experiments.one.module: a/exp…; …a/exp.py"],
    ),
    "no get_config": (
        EXP,
        "def config(runner): ...\n",
        ["exp.py: no get_config…; …get_config(runner, ...)…"],
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
            ":5: experiments.one.args.batch_size: get_config…batch_size; …batch_sz?",
            ":5: experiments.one.args.runner: runner…; rvk8s…",
            ":6: experiments.one.variants.v.args.raw_url: get_config…raw_url; …raw_uri?",
        ],
    ),
    "root_uri is ours": (
        EXP + "    args: {root_uri: x}\n",
        CODE,
        [":5: experiments.one.args.root_uri: root_uri…rvk8s…rootUri…--root-uri…"],
    ),
    "everything at once": (
        "apiVersion: v1\nexperiments:\n  one:\n    modul: exp.py\n  two:\n    module: exp.py\n"
        "    args: {lrr: 1}\n    gpus: x\nimages: x\n",
        CODE,
        [
            ":1: apiVersion: …'v1'; …rvk8s/v1",
            ":3: experiments.one: …module…missing…",
            ":4: experiments.one.modul: …modul; …module?",
            ":7: experiments.two.args.lrr: get_config…lr?",
            ":8: experiments.two.gpus: …'x'; …whole number",
            ":9: images: …image?",
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
    check_lines(str(caught.value).splitlines(), expected)
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
    with pytest.raises(InputError, match=r"no\.yaml: .*No such file"):
        project.load(tmp_path / "no.yaml")
    with pytest.raises(InputError, match="Is a directory"):
        project.load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("a: é\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"byte 3 .*UTF-8"):
        project.load(tmp_path / "latin.yaml")
