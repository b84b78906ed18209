"""The page about rvk8s.yaml is what its script writes now, and its example and command work."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from rvk8s import project

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/guide/rvk8s-yaml.md"
MODULE = "def get_config(runner, data_uri, validation, backbone=''): ...\n"


def test_the_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("project_page", ROOT / "scripts/project_page.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE == PAGE
    assert PAGE.read_text() == script.page(), "`make docs` writes it anew"


def test_its_example_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "rvk8s.yaml").write_text(text)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/segmentation.py").write_text(MODULE)
    plain, large = project.load(tmp_path / "rvk8s.yaml").experiments
    assert (plain.splits, plain.deadline_seconds) == ({"predict": 4}, {"train": 36000})
    assert set(plain.retries.values()) == {2}
    assert (large.name, large.gpus) == ("segmentation-large", 4)


def test_its_command_prints_where_the_schema_is(tmp_path: Path) -> None:
    (command,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    said = subprocess.check_output(
        command, shell=True, cwd=tmp_path, text=True, env={**os.environ, "PATH": path}
    )
    assert json.loads(Path(said.strip()).read_text())["title"] == "rvk8s.yaml"
