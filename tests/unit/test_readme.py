"""The README's commands work: each is run, or where it would take minutes, planned."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def readme_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def run(command: str, folder: Path) -> str:
    environ = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        shlex.split(command), cwd=folder, env=environ, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("my-project")
    run("rvk8s init", folder)
    return folder


@pytest.mark.parametrize("command", [c for c in readme_commands() if c.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    assert run(f"{command} --dry-run", ROOT)


@pytest.mark.parametrize("command", [c for c in readme_commands() if c.startswith("rvk8s ")])
def test_commands_work_in_a_new_project(command: str, project: Path) -> None:
    if command == "rvk8s init":
        assert (project / "experiments" / "segmentation.py").exists()
    elif command.startswith("rvk8s run"):
        assert "segmentation" in run(f"{command} --dry-run", project)
    elif " RUN" in command:  # of a run that isn't there: only its words can be checked
        run(f"{command.split(' RUN')[0]} --help", project)
    else:
        run(command, project)


def test_nothing_else_is_in_the_readme() -> None:
    starts = {command.split()[0] for command in readme_commands()}
    assert starts == {"make", "rvk8s", "rastervision", ".", "mkdir"}


def test_links_of_the_readme_exist() -> None:
    links = re.findall(r"\]\(([^)h][^)]*)\)", (ROOT / "README.md").read_text())
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing
