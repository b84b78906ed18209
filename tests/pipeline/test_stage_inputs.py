"""Bad data and bad configs: one clear line each, exit code 2, and no config is written.

test_bad_inputs.py has more of them, as the client shows them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenes
from forks import ForkLauncher, StageServer
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
        module: the source of another experiment.
    """

    message: tuple[str, ...]
    spoil: Callable[[Path], Any] = lambda folder: None
    module: str | None = None


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _label(folder: Path, value: np.ndarray, name: str = "train_a", dtype: str = "uint8") -> None:
    scenes.write(folder / f"label_{name}.tif", value[None].astype(dtype))


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
    "truncated label": Case(
        ("label of validation scene val_a: …label_val_a.tif…read",),
        lambda folder: _cut(folder / "label_val_a.tif"),
    ),
    "label ids below 0 and above 255": Case(
        (
            "train scene train_a: …label…ids -1, …0 to 2",
            "train scene train_b: …label…ids 1000, …0 to 2",
        ),
        lambda folder: (
            _label(folder, np.where(np.arange(192) < 50, -1, 1) * np.ones((192, 1)), dtype="int16"),
            _label(folder, np.full((192, 192), 1000), "train_b", "uint16"),
        ),
    ),
    "no validation scene": Case(
        ("no validation scene; …dataset.validation_scenes",),
        module=_HEAD
        + "    config = experiment.get_config(runner, raw_uri, root_uri)\n"
        + "    config.dataset.validation_scenes = []\n    return config\n",
    ),
    "random windows that only sometimes fit": Case(
        ("train scene train_a: no window of 256…192 x 192; …smaller chips",),
        module=_random("size_lims=(64, 257), padding=0"),
    ),
    "random windows that are too wide": Case(
        ("train scene train_a: no window of 229…192 x 192; …smaller chips",),
        module=_random("h_lims=(64, 225), w_lims=(64, 230), padding=(16, 18)"),
    ),
    "error in get_config": Case(
        ("bad.py:5: ZeroDivisionError: …`x = 1 / 0`…",),
        module=_HEAD + "    x = 1 / 0\n",
    ),
    "two pipelines": Case(
        ("bad.py: get_config…2 pipelines",),
        module=_HEAD + "    return [experiment.get_config(runner, raw_uri, root_uri)] * 2\n",
    ),
    "sys.exit in get_config": Case(
        ("bad.py:5: SystemExit: 5",), module=_HEAD + "    raise SystemExit(5)\n"
    ),
    "files of one scene that differ": Case(
        ("train scene train_a: …image_train_a.tif and …image_more.tif…(uint8 and uint16)",),
        lambda folder: scenes.write(
            folder / "image_more.tif", np.ones((3, 192, 192), np.uint16), left=192
        ),
        module=_changed(
            "config.dataset.train_scenes[0].raster_source.uris = "
            "[f'{raw_uri}/image_train_a.tif', f'{raw_uri}/image_more.tif']"
        ),
    ),
    "no options for predict": Case(
        ("predict_options: …not set; …chip_sz",),
        module=_changed("config.predict_options = None"),
    ),
    "predictions that would leave gaps": Case(
        ("predict_options: 64…cropped by 8…gaps…stride of 64",),
        module=_changed("config.predict_options.crop_sz = 8"),
    ),
    "a scene's id that leads out of the run's folder": Case(
        ("id of validation scene ../../../zz: …separator…",),
        module=_changed("config.dataset.validation_scenes[0].id = '../../../zz'"),
    ),
    "a scene group and a class that lead out of the run's folder": Case(
        ("scene_groups ../g: …separator…", "class_config.names a/../../x: …separator…"),
        module=_changed(
            "config.dataset.scene_groups['../g'] = {'train_a'}; "
            "config.dataset.class_config.names[0] = 'a/../../x'"
        ),
    ),
    "a label of another place": Case(
        ("train scene train_a: …label…another place",),
        lambda folder: scenes.write(
            folder / "label_train_a.tif", np.ones((1, 192, 192), np.uint8), left=96
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, server: StageServer, tiny_data: Path, tmp_path: Path) -> None:
    case = CASES[name]
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    case.spoil(data)
    plan = make_plan(tmp_path / "root", data)
    if case.module is not None:
        (tmp_path / "bad.py").write_text(case.module)
        plan = make_plan(tmp_path / "root", data, module="bad.py", project_dir=str(tmp_path))
    write_run_json(plan)
    launcher = ForkLauncher(plan, server, tmp_path / "logs")
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


def test_several_processes_need_a_backend_that_can(
    server: StageServer, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copy(_TINY.parents[1] / "cluster/rvbackend/experiment.py", tmp_path / "theirs.py")
    (tmp_path / "own.py").write_text(
        "import theirs\ndef get_config(runner, raw_uri, root_uri, **args):\n"
        "    return theirs.get_config(runner, raw_uri, root_uri)\n"
    )
    stages = tuple(Stage(name, ranks=2 if name == "train" else 1) for name in STAGES)
    plan = make_plan(
        *(tmp_path / "root", tiny_data),
        **{"module": "own.py", "project_dir": str(tmp_path), "stages": stages},
    )
    write_run_json(plan)
    launcher = ForkLauncher(plan, server, tmp_path / "logs")
    assert launcher.run_one("configure") == ExitCode.BAD_INPUT
    failed = storage.read_json(plan.layout.failed("configure"))
    assert failed
    assert says(failed["message"], "backend: PyTorchSemanticSegmentationConfig…2 processes…")


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
