"""What a user sees of bad inputs: one line a mistake, the exit code, nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import spoil
from bench import Bench, Outcome, check_errors

from rvk8s.contract import STAGES, ExitCode

CODE = (Path(__file__).parent / "bad" / "bad_experiment.py").read_text()
#: Where the user's code makes the backend's config, and that line.
_NUMBER = next(n for n, line in enumerate(CODE.splitlines(), 1) if "config.backend =" in line)
BACKEND = f"experiment.py:{_NUMBER}: FastaiSemanticSegmentationConfig."
IN_BACKEND = "; in `config.backend = FastaiSemanticSegmentationConfig(`"
FILE = "apiVersion: rvk8s/v1\nexperiments:\n  tiny:\n    module: experiment.py\n"
LOOK = "…rvk8s.yaml…"
NULL = {"names": ["field", "house", "none"], "null_class": "none"}
IN_EACH = ("train scene train_a", "train scene train_b", "validation scene val_a")


@dataclass(frozen=True)
class Row:
    """A bad input of a new run.

    Attributes:
        errors: the lines; {data}, {project} and {root} stand for folders.
        args: arguments in rvk8s.yaml.
        words: of the command line, after those that are right.
        spoil: damages a copy of the data.
        code: the experiment's source.
        file: rvk8s.yaml.
        name: the experiment to run.
    """

    errors: tuple[str, ...]
    args: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    spoil: Callable[[Path], None] | None = None
    code: str = ""
    file: str = ""
    name: str = "tiny"


def _each(text: str) -> tuple[str, ...]:
    return tuple(f"{where}: {text}" for where in (*IN_EACH, "validation scene val_b"))


def _bands(where: str) -> str:
    name = where.rpartition(" ")[2]
    return f"{where}: {{data}}/image_{name}.tif…3 bands, channel_order…3; channel_order…0 to 2"


#: Found by the client: no process is started.
CLIENT = {
    "unknown experiment": Row(("rvk8s.yaml: …tinny; …tiny?",), name="tinny"),
    "unknown variant": Row(("rvk8s.yaml: …tiny-smal; …tiny-small?",), name="tiny-smal"),
    "bad YAML": Row(
        ("rvk8s.yaml:4: …YAML:…'<stream end>'…",),
        file="apiVersion: rvk8s/v1\nexperiments:\n  tiny: [\n",
    ),
    "no such file": Row(
        ("no.yaml: …No such file…rvk8s.yaml…--file…`rvk8s init`…",),
        words=("-f", "no.yaml"),
    ),
    "missing module": Row(
        ("rvk8s.yaml:4: experiments.tiny.module: …experimnt.py…{project}…experiment.py…",),
        file=FILE.replace("experiment.py", "experimnt.py"),
    ),
    "unknown argument": Row(
        ("-a batch_size: get_config…batch_size…batch_sz…",),
        words=("-a", "batch_size", "8"),
    ),
    "missing argument": Row(
        ("rvk8s.yaml:3: experiments.tiny: get_config…raw_uri; …-a raw_uri VALUE",),
        file=FILE,
    ),
    "syntax error": Row(
        (f"experiment.py:{len(CODE.splitlines()) + 1}: not Python: invalid syntax; in `def no(:`",),
        code=CODE + "def no(:\n",
    ),
    "no such run": Row(
        ("--run-id: …tiny-9…{root}…`rvk8s list`…",),
        words=("--run-id", "tiny-9"),
    ),
    "a stage of no run": Row(
        ("--from: …--run-id…`rvk8s list`…",),
        words=("--from", "train"),
    ),
    "unknown stage": Row(
        (f"…'--from': 'trian'…{', '.join(map(repr, STAGES))}; …`rvk8s run --help`",),
        words=("--from", "trian"),
    ),
    "too many GPUs": Row(("--gpus: 9999…this machine has…",), words=("--gpus", "9999")),
    "no splits": Row(
        ("--splits: '0'…1: --splits 4…--splits chip=4,predict=2",),
        words=("--splits", "0"),
    ),
    "root of another kind": Row(
        ("--root-uri: gs://…s3://bucket/prefix…",),
        words=("--root-uri", "gs://bucket"),
    ),
    "root below a file": Row(
        ("{data}/image_val_a.tif/runs: …Not a directory…--root-uri…rootUri…",),
        words=("--root-uri", "{data}/image_val_a.tif/runs"),
    ),
}

#: Found by the configure stage: the run's folder is removed again.
CONFIGURE = {
    "missing GeoTIFF": Row(
        ("train scene train_b: {data}/image_train_b.tif…not exist" + LOOK,),
        spoil=spoil.missing,
    ),
    "truncated GeoTIFF": Row(
        ("train scene train_b: {data}/image_train_b.tif cannot be read: …complete…GeoTIFF…",),
        spoil=spoil.truncated,
    ),
    "not a GeoTIFF": Row(
        ("train scene train_b: {data}/image_train_b.tif …not recognized…GeoTIFF…",),
        spoil=spoil.not_an_image,
    ),
    "label of another size": Row(
        ("train scene train_b: …image…192 x 192…label 128 x 96; …",),
        spoil=spoil.other_size,
    ),
    "label ids outside the class config": Row(
        ("train scene train_b: …label…ids 3, 4, 5, 6, …0 to 2; …ReclassTransformer",),
        spoil=spoil.other_ids,
    ),
    "labels without a class": Row(
        ("no training label…null class; …",),
        {"classes": NULL},
        spoil=spoil.only_null,
    ),
    "labels of one class": Row(
        ("the training labels have one class to learn, …field (0)…; …second class…",),
        spoil=spoil.one_class,
    ),
    "class without a name": Row(
        ("class_config.names: class 1…empty…",),
        {"classes": {"names": ["field", ""]}},
    ),
    "two classes of one name": Row(
        ("class_config.names: 'field'…twice…",),
        {"classes": {"names": ["field", "field"]}},
    ),
    "no training scene": Row(
        ("…no training scene; …dataset.train_scenes…",),
        {"train": ""},
    ),
    "a scene twice": Row(
        ("experiment.py: ConfigError: …training scene ids…unique; …",),
        {"train": "train_a,train_a"},
    ),
    "zero windows": Row(
        _each("no window of 512…192 x 192; …sampling.padding"),
        {"chip_sz": 512},
    ),
    "bands out of range": Row(
        tuple(map(_bands, (*IN_EACH, "validation scene val_b"))), {"channels": [3, 0, 1]}
    ),
    "all-nodata scene": Row(
        ("train scene train_b: …nodata (0); …channel_order",),
        spoil=spoil.no_data,
    ),
    "wrong img size": Row(
        (BACKEND + "data.img_sz: …greater…32 (it is 8)" + IN_BACKEND,),
        {"data": {"img_sz": 8}},
    ),
    "negative batch size": Row(
        (BACKEND + "solver.batch_sz: …greater…1 (it is -1)" + IN_BACKEND,),
        {"batch_sz": -1},
    ),
    "bad argument type": Row(
        (BACKEND + "solver.num_epochs: …integer…'many'…" + IN_BACKEND,),
        words=("-a", "num_epochs", "many"),
    ),
    "unknown config key": Row(
        (BACKEND + "solver.num_epoch: …num_epochs?" + IN_BACKEND,),
        {"solver": {"num_epoch": 5}},
    ),
    "unknown arch": Row(
        (BACKEND + "model.arch: …'unet'…'deeplabv3'…'unet3'…" + IN_BACKEND,),
        {"model": {"arch": "unet3"}},
    ),
    "options that cannot work": Row(
        (
            "model.backbone: …VisionTransformer…resnet18…resnet50…densenet121…efficientnet_b0…",
            "model.pretrained_uri: no.pth…not exist" + LOOK,
            "solver.ignore_class_index: 9…class id; …0 to 2",
            "solver.precision: fp16…GPU…bf16…fp32…CPU…",
            "solver.class_weights: 1 weights…3 classes…",
            "data.oversample.rare_class_ids: 7: no such class…0 to 2",
        ),
        {
            "model": {"backbone": "vit_b_16", "pretrained_uri": "no.pth"},
            "data": {"oversample": {"rare_class_ids": [7], "rare_target_prop": 0.5}},
            "solver": {"ignore_class_index": 9, "class_weights": [1.0], "precision": "fp16"},
        },
        words=("--gpus", "0"),
    ),
    "unknown backbone": Row(
        ("model.backbone: …'resnet19'…resnet18…resnet50…efficientnet_b0…",),
        {"model": {"backbone": "resnet19"}},
    ),
    "Python error in get_config": Row(
        (f"experiment.py:{_NUMBER - 1}: KeyError: 'b'; in `" + "sizes = {{'a': 1}}['b']`",),
        code=CODE.replace("    course = ", "    sizes = {'a': 1}['b']\n    course = "),
    ),
    "Python error at import": Row(
        ("experiment.py:5: ModuleNotFoundError: …'torchvizion'…`import torchvizion`…",),
        code=CODE.replace("from typing", "import torchvizion\nfrom typing"),
    ),
    "get_config returns nothing": Row(
        ("experiment.py: TypeError: …get_configs…{project}/experiment.py…PipelineConfigs…",),
        code=CODE.replace("return config", "return None"),
    ),
}


@pytest.mark.parametrize("name", [*CLIENT, *CONFIGURE])
def test_a_new_run(name: str, table: Bench, tmp_path: Path) -> None:
    row = {**CLIENT, **CONFIGURE}[name]
    found, places = _start(row, table, tmp_path)
    assert found.code == ExitCode.BAD_INPUT, found.text
    check_errors(found, row.errors, places)
    assert not Path(places["root"]).exists()


def _start(row: Row, table: Bench, tmp_path: Path) -> tuple[Outcome, dict[str, str]]:
    """Run `rvk8s run` on the input of a row."""
    data, args = table.data, row.args
    if row.spoil:
        data = table.scenes(tmp_path.name)
        row.spoil(data)
        args = {**args, "raw_uri": str(data)}
    project = table.project(tmp_path.name, args, row.code, row.file)
    places = {"data": str(data), "project": str(project), "root": str(tmp_path / "runs")}
    words = [word.format(**places) for word in row.words]
    root = () if "--root-uri" in words else ("--root-uri", places["root"])
    return table.run(project, "run", row.name, *root, *words), places
