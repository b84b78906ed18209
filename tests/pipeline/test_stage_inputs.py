"""Bad data and bad configs: one clear line each, exit code 2, and no config is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenes
from forks import ForkLauncher, StageServer
from s3server import S3Server
from said import says
from tinyrun import make_plan, outputs, write_run_json

from rvk8s import storage
from rvk8s.contract import STAGES, Env, ExitCode
from rvk8s.plan import Stage


@dataclass(frozen=True)
class Case:
    """One mistake.

    Attributes:
        message: parts of what is said.
        spoil: damages the data, which is a copy.
        args: arguments of get_config.
        module: the source of another experiment.
    """

    message: tuple[str, ...]
    spoil: Callable[[Path], Any] = lambda folder: None
    args: dict[str, Any] = field(default_factory=dict)
    module: str | None = None


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _label(folder: Path, value: np.ndarray, name: str = "train_a", dtype: str = "uint8") -> None:
    scenes.write(folder / f"label_{name}.tif", value[None].astype(dtype))


def _null_labels(folder: Path) -> None:
    for name in ("train_a", "train_b"):
        _label(folder, np.full((192, 192), 2), name)


_TINY = Path(__file__).parent / "tiny"
_IMPORTS = f"import sys\nsys.path.append({str(_TINY)!r})\nimport experiment\n"
_HEAD = _IMPORTS + "def get_config(runner, raw_uri, root_uri, **args):\n"


def _random(limits: str) -> str:
    """The source of an experiment that chips random windows."""
    return (
        "from rastervision.core.rv_pipeline import WindowSamplingConfig\n"
        + _HEAD
        + "    config = experiment.get_config(runner, raw_uri, root_uri)\n"
        + "    config.chip_options.sampling = WindowSamplingConfig(\n"
        + f"        method='random', size=64, max_windows=4, {limits}\n"
        + "    )\n    return config\n"
    )


def _changed(line: str) -> str:
    """The source of the tiny experiment with one more line."""
    made = "    config = experiment.get_config(runner, raw_uri, root_uri)\n"
    return f"{_HEAD}{made}    {line}\n    return config\n"


CASES = {
    "missing image": Case(
        ("train scene train_a: ", "image_train_a.tif does not exist"),
        lambda folder: (folder / "image_train_a.tif").unlink(),
    ),
    "truncated image": Case(
        ("train scene train_b: ", "image_train_b.tif cannot be read", "is it complete"),
        lambda folder: _cut(folder / "image_train_b.tif"),
    ),
    "truncated label": Case(
        ("label of validation scene val_a: ", "label_val_a.tif cannot be read"),
        lambda folder: _cut(folder / "label_val_a.tif"),
    ),
    "not an image": Case(
        ("image_train_a.tif cannot be read", "not recognized"),
        lambda folder: (folder / "image_train_a.tif").write_text("hello"),
    ),
    "label of another size": Case(
        ("train scene train_a: …192…192…pixels…label…100…192…",),
        lambda folder: _label(folder, np.zeros((192, 100))),
    ),
    "label ids outside the class config": Case(
        ("train scene train_a: …holds…7…9…config…0…2…",),
        lambda folder: _label(folder, np.where(np.arange(192) < 50, 7, 9) * np.ones((192, 1))),
    ),
    "label ids below 0 and above 255": Case(
        (
            "train scene train_a: …holds…-1…config…0…2…",
            "train scene train_b: …label…1000…config…0…2…",
        ),
        lambda folder: (
            _label(folder, np.where(np.arange(192) < 50, -1, 1) * np.ones((192, 1)), dtype="int16"),
            _label(folder, np.full((192, 192), 1000), "train_b", "uint16"),
        ),
    ),
    "labels with no class": Case(("…training…label…",), _null_labels),
    "all-nodata scene": Case(
        ("train scene train_a: …pixels…nodata…0…",),
        lambda folder: scenes.write(
            folder / "image_train_a.tif", np.zeros((3, 192, 192), np.uint8)
        ),
    ),
    "no validation scene": Case(
        ("…dataset.validation_scenes…",),
        module=_HEAD
        + "    config = experiment.get_config(runner, raw_uri, root_uri)\n"
        + "    config.dataset.validation_scenes = []\n    return config\n",
    ),
    "no training scene": Case(("there is no training scene",), args={"train": ""}),
    "zero windows": Case(
        ("train scene train_a: …window…512…pixels…192…192…", "smaller chips"),
        args={"chip_sz": 512},
    ),
    "random windows that only sometimes fit": Case(
        ("train scene train_a: …window…256…pixels…192…192…", "smaller chips"),
        module=_random("size_lims=(64, 257), padding=0"),
    ),
    "random windows that are too wide": Case(
        ("train scene train_a: …window…229…pixels…192…192…", "smaller chips"),
        module=_random("h_lims=(64, 225), w_lims=(64, 230), padding=(16, 18)"),
    ),
    "bands out of range": Case(
        ("…3…channel_order…5…channel_order…0…2…",),
        args={"channels": [0, 1, 5]},
    ),
    "negative batch size": Case(
        ("experiment.py:", "solver.batch_sz: ", "greater than or equal to 1 (it is -4)"),
        args={"batch_sz": -4},
    ),
    "error in get_config": Case(
        ("bad.py:5: ZeroDivisionError: …`x = 1 / 0`…",),
        module=_HEAD + "    x = 1 / 0\n",
    ),
    "error at import": Case(
        ("bad.py:1: ModuleNotFoundError: …'nothere'…`import nothere`…",),
        module="import nothere\n" + _HEAD + "    return None\n",
    ),
    "wrong type returned": Case(
        ("bad.py", "must be PipelineConfigs"), module=_HEAD + "    return {}\n"
    ),
    "two pipelines": Case(
        ("bad.py: get_config…2…",),
        module=_HEAD + "    return [experiment.get_config(runner, raw_uri, root_uri)] * 2\n",
    ),
    "sys.exit in get_config": Case(
        ("bad.py:5: SystemExit: 5",), module=_HEAD + "    raise SystemExit(5)\n"
    ),
    "files of one scene that differ": Case(
        (
            "train scene train_a: ",
            "image_train_a.tif and ",
            "image_more.tif…uint8…uint16…",
        ),
        lambda folder: scenes.write(
            folder / "image_more.tif", np.ones((3, 192, 192), np.uint16), left=192
        ),
        module=_changed(
            "config.dataset.train_scenes[0].raster_source.uris = "
            "[f'{raw_uri}/image_train_a.tif', f'{raw_uri}/image_more.tif']"
        ),
    ),
    "no options for predict": Case(
        ("predict_options: …chip_sz…",),
        module=_changed("config.predict_options = None"),
    ),
    "predictions that would leave gaps": Case(
        ("predict_options: 64…cropped…8…stride…64…",),
        module=_changed("config.predict_options.crop_sz = 8"),
    ),
    "a label of another place": Case(
        ("train scene train_a: …another…pixels…another…",),
        lambda folder: scenes.write(
            folder / "label_train_a.tif", np.ones((1, 192, 192), np.uint8), left=96
        ),
    ),
    "unreadable S3 URI": Case(
        ("train scene train_a: s3://nowhere/x/image_train_a.tif: …s3://nowhere…",),
        args={"raw_uri": "s3://nowhere/x"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(
    name: str, server: StageServer, tiny_data: Path, tmp_path: Path, s3: S3Server
) -> None:
    case = CASES[name]
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    case.spoil(data)
    plan = make_plan(tmp_path / "root", data, args=case.args)
    if case.module is not None:
        (tmp_path / "bad.py").write_text(case.module)
        plan = make_plan(tmp_path / "root", data, module="bad.py", project_dir=str(tmp_path))
    write_run_json(plan)
    launcher = ForkLauncher(plan, server, tmp_path / "logs", s3.environ)
    code = launcher.run_one("configure")
    failed = storage.read_json(plan.layout.failed("configure"))
    assert failed
    assert code == failed["exitCode"] == ExitCode.BAD_INPUT, failed["message"]
    for part in case.message:
        assert says(failed["message"], f"…{part}…")
    log = (launcher.logs / "configure-0.txt").read_text()
    assert "Traceback" not in log
    assert failed["message"].splitlines()[0] in log
    assert not storage.exists(plan.layout.config_uri)
    assert not storage.exists(plan.layout.done("configure"))


@pytest.mark.slow
def test_random_windows_that_just_fit(server: StageServer, tiny_data: Path, tmp_path: Path) -> None:
    """Resized to the same pixels, too, by a process that has imported torch last of all."""
    (tmp_path / "fits.py").write_text(
        _random("h_lims=(64, 225), w_lims=(64, 229), padding=(16, 18)")
    )
    plan = make_plan(tmp_path / "root", tiny_data, module="fits.py", project_dir=str(tmp_path))
    write_run_json(plan)
    launcher = ForkLauncher(plan, server, tmp_path / "logs")
    for stage in ("configure", "analyze", "chip"):
        assert launcher.run_one(stage) == 0
    made = outputs(plan.layout.at("chip"))
    storage.delete_tree(plan.layout.at("chip"))
    storage.delete_file(plan.layout.done("chip"))
    environ = {**os.environ, Env.RUN_URI: plan.run_uri, Env.THREADS: "1"}
    command = [sys.executable, "-m", "rastervision.kubernetes.stage", "chip"]
    done = subprocess.run(command, env=environ, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert outputs(plan.layout.at("chip")) == made


def test_get_config_is_told_how_many_processes_train(
    server: StageServer, tiny_data: Path, tmp_path: Path
) -> None:
    head = _HEAD.replace("**args", "ranks=1, **args")
    source = (
        f"{head}    return experiment.get_config(runner, raw_uri, root_uri, batch_sz=2 * ranks)\n"
    )
    (tmp_path / "counts.py").write_text(source)
    for ranks in (3, 4):  # the second time it is configured anew
        stages = tuple(Stage(name, ranks=ranks if name == "train" else 1) for name in STAGES)
        plan = make_plan(
            *(tmp_path / "root", tiny_data),
            **{"module": "counts.py", "project_dir": str(tmp_path), "stages": stages},
        )
        write_run_json(plan)
        assert ForkLauncher(plan, server, tmp_path / "logs").run_one("configure") == 0
        config = json.loads(storage.read_bytes(plan.layout.config_uri))
        assert config["backend"]["solver"]["batch_sz"] == 2 * ranks


def test_all_mistakes_at_once(server: StageServer, tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    (data / "image_train_a.tif").unlink()
    _cut(data / "label_val_a.tif")
    _label(data, np.zeros((192, 100)), "train_b")
    plan = make_plan(tmp_path / "root", data)
    write_run_json(plan)
    ForkLauncher(plan, server, tmp_path / "logs").run_one("configure")
    failed = storage.read_json(plan.layout.failed("configure"))
    assert failed
    lines = failed["message"].splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "train scene train_a",
        "train scene train_b",
        "label of validation scene val_a",
    ]


def test_a_class_that_occurs_nowhere_is_a_warning(
    server: StageServer, tiny_data: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    for name in ("train_a", "train_b"):
        _label(data, np.zeros((192, 192)), name)
    plan = make_plan(tmp_path / "root", data)
    write_run_json(plan)
    launcher = ForkLauncher(plan, server, tmp_path / "logs")
    assert launcher.run_one("configure") == 0
    log = (launcher.logs / "configure-0.txt").read_text()
    assert "class house (1) does not occur in training" in log
