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
LOOK = "look at the path; relative ones start at the folder of rvk8s.yaml"
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
    what = f"{{data}}/image_{name}.tif has 3 bands, channel_order names 3"
    return f"{where}: {what}; channel_order may name 0 to 2"


#: Found by the client: no process is started.
CLIENT = {
    "unknown experiment": Row(
        ("rvk8s.yaml: no experiment tinny; did you mean tiny?",), name="tinny"
    ),
    "unknown variant": Row(
        ("rvk8s.yaml: no experiment tiny-smal; did you mean tiny-small?",), name="tiny-smal"
    ),
    "bad YAML": Row(
        (
            "rvk8s.yaml:4: bad YAML: expected the node content, but found '<stream end>'; look at "
            "the indentation, quotes and colons there",
        ),
        file="apiVersion: rvk8s/v1\nexperiments:\n  tiny: [\n",
    ),
    "no such file": Row(
        (
            "no.yaml: cannot be read: No such file or directory; give an rvk8s.yaml with --file, "
            "or write one with `rvk8s init`",
        ),
        words=("-f", "no.yaml"),
    ),
    "missing module": Row(
        (
            "rvk8s.yaml:4: experiments.tiny.module: no file experimnt.py in {project}; "
            "did you mean experiment.py?",
        ),
        file=FILE.replace("experiment.py", "experimnt.py"),
    ),
    "unknown argument": Row(
        ("-a batch_size: get_config takes no argument batch_size; did you mean batch_sz?",),
        words=("-a", "batch_size", "8"),
    ),
    "missing argument": Row(
        (
            "rvk8s.yaml:3: experiments.tiny: get_config needs the argument raw_uri; "
            "add it to args, or give -a raw_uri VALUE",
        ),
        file=FILE,
    ),
    "syntax error": Row(
        (f"experiment.py:{len(CODE.splitlines()) + 1}: not Python: invalid syntax; in `def no(:`",),
        code=CODE + "def no(:\n",
    ),
    "no such run": Row(
        ("--run-id: no run tiny-9 in {root}; `rvk8s list` shows the runs",),
        words=("--run-id", "tiny-9"),
    ),
    "a stage of no run": Row(
        ("--from: is for a run that exists; name it with --run-id; `rvk8s list` shows them",),
        words=("--from", "train"),
    ),
    "unknown stage": Row(
        (
            f"Invalid value for '--from': 'trian' is not one of {', '.join(map(repr, STAGES))}; "
            "see `rvk8s run --help`",
        ),
        words=("--from", "trian"),
    ),
    "too many GPUs": Row(
        ("--gpus: 9999 asked for, this machine has .*; .*",), words=("--gpus", "9999")
    ),
    "no splits": Row(
        (
            "--splits: '0' is not a number of splits; give a number of at least 1: --splits 4 or "
            "--splits chip=4,predict=2",
        ),
        words=("--splits", "0"),
    ),
    "root of another kind": Row(
        ("--root-uri: gs:// is not supported; give a folder or s3://bucket/prefix",),
        words=("--root-uri", "gs://bucket"),
    ),
    "root below a file": Row(
        (
            "{data}/image_val_a.tif/runs: cannot be written: Not a directory; "
            "give another folder with --root-uri or rootUri",
        ),
        words=("--root-uri", "{data}/image_val_a.tif/runs"),
    ),
}

#: Found by the configure stage: the run's folder is removed again.
CONFIGURE = {
    "missing GeoTIFF": Row(
        ("train scene train_b: {data}/image_train_b.tif does not exist; " + LOOK,),
        spoil=spoil.missing,
    ),
    "truncated GeoTIFF": Row(
        (
            "train scene train_b: {data}/image_train_b.tif cannot be read: .*; "
            "is it complete, and a GeoTIFF\\? copy it again",
        ),
        spoil=spoil.truncated,
    ),
    "not a GeoTIFF": Row(
        (
            "train scene train_b: {data}/image_train_b.tif cannot be read: .* not recognized as "
            "being in a supported file format; is it complete, and a GeoTIFF\\? copy it again",
        ),
        spoil=spoil.not_an_image,
    ),
    "label of another size": Row(
        (
            "train scene train_b: the image has 192 x 192 pixels, its label 128 x 96; "
            "give the label of this image, or crop one to the other",
        ),
        spoil=spoil.other_size,
    ),
    "label ids outside the class config": Row(
        (
            "train scene train_b: its label holds the ids 3, 4, 5, 6, the class config has 0 to 2;"
            " name the classes in the class config, or map the ids with a ReclassTransformer",
        ),
        spoil=spoil.other_ids,
    ),
    "labels without a class": Row(
        (
            "no training label has any class but the null class; "
            "look at the label files and at the class config's names and colors",
        ),
        {"classes": NULL},
        spoil=spoil.only_null,
    ),
    "class without a name": Row(
        ("class_config.names: class 1 has an empty name; give it one: reports name it so",),
        {"classes": {"names": ["field", ""]}},
    ),
    "two classes of one name": Row(
        ("class_config.names: 'field' is there twice; rename one",),
        {"classes": {"names": ["field", "field"]}},
    ),
    "no training scene": Row(
        ("there is no training scene; give dataset.train_scenes at least one scene",),
        {"train": ""},
    ),
    "a scene twice": Row(
        (
            "experiment.py: ConfigError: All training scene ids must be unique; "
            "look at the config that it returns",
        ),
        {"train": "train_a,train_a"},
    ),
    "zero windows": Row(
        _each(
            "no window of 512 pixels fits its 192 x 192; use smaller chips, or set sampling.padding"
        ),
        {"chip_sz": 512},
    ),
    "bands out of range": Row(
        tuple(map(_bands, (*IN_EACH, "validation scene val_b"))), {"channels": [3, 0, 1]}
    ),
    "all-nodata scene": Row(
        (
            "train scene train_b: all its pixels are nodata (0); "
            "leave the scene out, or look at the file and its channel_order",
        ),
        spoil=spoil.no_data,
    ),
    "wrong img size": Row(
        (
            BACKEND
            + "data.img_sz: Input should be greater than or equal to 32 (it is 8)"
            + IN_BACKEND,
        ),
        {"data": {"img_sz": 8}},
    ),
    "negative batch size": Row(
        (
            BACKEND
            + "solver.batch_sz: Input should be greater than or equal to 1 (it is -1)"
            + IN_BACKEND,
        ),
        {"batch_sz": -1},
    ),
    "bad argument type": Row(
        (
            BACKEND + "solver.num_epochs: Input should be a valid integer, unable to parse string "
            "as an integer (it is 'many')" + IN_BACKEND,
        ),
        words=("-a", "num_epochs", "many"),
    ),
    "unknown config key": Row(
        (BACKEND + "solver.num_epoch: unknown key, did you mean num_epochs?" + IN_BACKEND,),
        {"solver": {"num_epoch": 5}},
    ),
    "unknown arch": Row(
        (
            BACKEND
            + "model.arch: Input should be 'unet' or 'deeplabv3' (it is 'unet3')"
            + IN_BACKEND,
        ),
        {"model": {"arch": "unet3"}},
    ),
    "options that cannot work": Row(
        (
            "model.backbone: backbone VisionTransformer can't be cut into a feature pyramid; "
            "use a convolutional one, such as resnet18, resnet50, densenet121 or efficientnet_b0",
            "model.pretrained_uri: no.pth does not exist; " + LOOK,
            "solver.ignore_class_index: 9 is not a class id; use 0 to 2",
            "solver.precision: fp16 needs a GPU, and there is none; "
            "use auto, which takes bf16 or fp32 on a CPU",
            "solver.class_weights: 1 weights for 3 classes (field, house, null); "
            "give one for each class, in the order of their ids",
            "data.oversample.rare_class_ids: 7: no such class id; use 0 to 2",
        ),
        {
            "model": {"backbone": "vit_b_16", "pretrained_uri": "no.pth"},
            "data": {"oversample": {"rare_class_ids": [7], "rare_target_prop": 0.5}},
            "solver": {"ignore_class_index": 9, "class_weights": [1.0], "precision": "fp16"},
        },
        words=("--gpus", "0"),
    ),
    "unknown backbone": Row(
        (
            "model.backbone: torchvision has no 'resnet19'; "
            "use one of its classifiers, such as resnet18, resnet50 or efficientnet_b0",
        ),
        {"model": {"backbone": "resnet19"}},
    ),
    "Python error in get_config": Row(
        (f"experiment.py:{_NUMBER - 1}: KeyError: 'b'; in `" + "sizes = {{'a': 1}}['b']`",),
        code=CODE.replace("    course = ", "    sizes = {'a': 1}['b']\n    course = "),
    ),
    "Python error at import": Row(
        (
            "experiment.py:5: ModuleNotFoundError: No module named 'torchvizion'; "
            "in `import torchvizion`",
        ),
        code=CODE.replace("from typing", "import torchvizion\nfrom typing"),
    ),
    "get_config returns nothing": Row(
        (
            "experiment.py: TypeError: All objects returned by get_configs in "
            "{project}/experiment.py must be PipelineConfigs; look at the config that it returns",
        ),
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
