"""rvk8s.yaml -> Project."""

import json
import os
from importlib import resources
from pathlib import Path

import pytest
from said import says

from rvk8s import project
from rvk8s.errors import InputError
from rvk8s.project.signature import Signature

FILE = """\
apiVersion: rvk8s/v1
rootUri: runs/here
image: registry.example.com/team/rvk8s:1.0.0
experiments:
  potsdam:
    module: lab/exp.py
    args: {raw_uri: s3://b/raw, lr: 1e-3, ids: [2_10, 3_10]}
    splits: 4
    gpus: 2
    retries: {train: 3}
    deadlineSeconds: 600
    variants:
      small: {args: {lr: 0.1, test: true}, splits: {predict: 2}, retries: 1}
      plain: {}
  other:
    module: lab.exp
"""
CODE = "def get_config(runner, root_uri, raw_uri, lr=1.0, ids=(), test=False): ...\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "exp.py").write_text(CODE)
    (tmp_path / "rvk8s.yaml").write_text(FILE)
    return tmp_path


def test_load(folder: Path) -> None:
    loaded = project.load(folder / "rvk8s.yaml")
    potsdam, small, plain, other = loaded.experiments
    assert [e.name for e in loaded.experiments] == [
        "potsdam",
        "potsdam-small",
        "potsdam-plain",
        "other",
    ]
    assert loaded.root_uri == potsdam.root_uri == str(folder / "runs" / "here")
    assert loaded.image == small.image == "registry.example.com/team/rvk8s:1.0.0"
    assert potsdam.args == {"raw_uri": "s3://b/raw", "lr": 1e-3, "ids": ["2_10", "3_10"]}
    assert potsdam.splits == {"chip": 4, "predict": 4}
    assert potsdam.deadline_seconds["train"] == potsdam.deadline_seconds["configure"] == 600
    assert (potsdam.gpus, potsdam.retries) == (2, {"train": 3})
    assert (potsdam.project_dir, potsdam.module) == (str(folder), "lab/exp.py")
    assert potsdam.signature == Signature(
        "get_config", ("root_uri", "raw_uri", "lr", "ids", "test"), ("root_uri", "raw_uri")
    )
    # A variant changes key by key and stage by stage.
    assert small.args == {**potsdam.args, "lr": 0.1, "test": True}
    assert small.splits == {"chip": 4, "predict": 2}
    assert (small.retries["train"], small.retries["eval"]) == (1, 1)
    assert (small.gpus, small.variant_of) == (2, "potsdam")
    assert plain.args == potsdam.args
    assert (other.splits, other.gpus, other.variant_of) == ({}, None, None)


def test_a_number_of_the_file_may_be_written_with_a_point(folder: Path) -> None:
    text = FILE.replace("splits: 4", "splits: 4.0").replace("gpus: 2", "gpus: 2.0")
    (folder / "rvk8s.yaml").write_text(text)
    potsdam = project.load(folder / "rvk8s.yaml").experiments[0]
    assert repr((potsdam.splits["chip"], potsdam.gpus)) == "(4, 2)"


def test_select(folder: Path) -> None:
    loaded = project.load(folder / "rvk8s.yaml")
    assert [e.name for e in loaded.select("potsdam")] == ["potsdam"]
    assert [e.name for e in loaded.select("potsdam-small")] == ["potsdam-small"]
    assert [e.name for e in loaded.select(match="*s*m*")] == [
        "potsdam",
        "potsdam-small",
        "potsdam-plain",
    ]


@pytest.mark.parametrize(
    ("name", "match", "message"),
    [
        ("potsdam-smal", None, "…experiment potsdam-smal; …potsdam-small?"),
        ("xyz", None, "…experiment xyz; …potsdam, potsdam-small"),
        (None, "resnet*", "…experiment…'resnet*'; …potsdam,"),
        (None, None, "no experiment…; …potsdam,"),
        ("potsdam", "*", "…name and -m…both"),
    ],
)
def test_select_nothing(folder: Path, name: str | None, match: str | None, message: str) -> None:
    with pytest.raises(InputError) as caught:
        project.load(folder / "rvk8s.yaml").select(name, match)
    assert says(str(caught.value), f"{message}…")


def test_find_goes_up(folder: Path) -> None:
    assert project.find(folder / "lab") == folder / "rvk8s.yaml"
    (folder / "rvk8s.yaml").unlink()
    with pytest.raises(InputError, match=r"no rvk8s\.yaml in .*; .*rvk8s init"):
        project.find(folder / "lab")


def test_find_says_what_it_could_not_look_into(folder: Path) -> None:
    (folder / "lab" / "exp.py").unlink()
    closed = folder / "lab"
    (folder / "rvk8s.yaml").rename(closed / "rvk8s.yaml")
    closed.chmod(0)
    root = os.geteuid() == 0
    try:
        if root:  # who may read everything
            os.seteuid(65534)
        with pytest.raises(InputError) as caught:
            project.find(closed)
    finally:
        if root:
            os.seteuid(0)
        closed.chmod(0o700)
    assert says(str(caught.value), f"no rvk8s.yaml in {closed}…({closed}…read); …-f FILE…")


def test_the_root_uri_is_found_in_a_file_with_mistakes(folder: Path) -> None:
    path = folder / "rvk8s.yaml"
    path.write_text("rootUri: s3://bucket/a/\nexperiments: 12\n")
    assert project.root_uri_of(path) == "s3://bucket/a"
    path.write_text("experiments: 12\n")
    assert project.root_uri_of(path) is None
    path.write_text("rootUri: 12\n")
    with pytest.raises(InputError, match="rootUri: is not a string"):
        project.root_uri_of(path)
    path.write_text("rootUri: gs://b\n")
    with pytest.raises(InputError, match="gs:// is not supported"):
        project.root_uri_of(path)


def test_the_schema_is_one_and_closed() -> None:
    from jsonschema import Draft202012Validator

    schema = json.loads(
        resources.files("rvk8s.project").joinpath("project.schema.json").read_text()
    )
    Draft202012Validator.check_schema(schema)
    open_ones = [
        name
        for name, part in {"": schema, **schema["$defs"]}.items()
        if "properties" in part and part.get("additionalProperties") is not False
    ]
    assert open_ones == []


def test_our_own_file() -> None:
    root = Path(__file__).parents[2]
    loaded = project.load(root / "rvk8s.yaml")
    assert {"potsdam", "dubai"} <= {e.name for e in loaded.experiments}
