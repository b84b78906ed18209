"""The command line starts fast because it imports little."""

import json
import subprocess
import sys

import pytest

#: What each start may never import; the second line is for the commands that read rvk8s.yaml too.
HEAVY = ["torch", "rastervision.core", "rastervision.pipeline", "fastai", "numpy", "kubernetes"]
HEAVY += ["boto3", "helm_python", "matplotlib", "pydantic"]
ALSO = ["yaml", "rich", "jsonschema"]


def imported(args: list[str]) -> set[str]:
    code = (
        "import sys, json, atexit\n"
        "from rvk8s.cli import main\n"
        "atexit.register(lambda: print(json.dumps(list(sys.modules)), file=sys.stderr))\n"
        f"main({args!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr))


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["run", "--help"], ["logs", "-h"]])
def test_help_imports_click_and_nothing_else(args: list[str]) -> None:
    modules = imported(args)
    assert "click" in modules
    assert modules.isdisjoint(HEAVY + ALSO)


def test_a_plan_is_made_without_a_stage_s_libraries() -> None:
    modules = imported(["plan", "dubai", "-o", "json", "--root-uri", "/tmp/runs"])
    assert "jsonschema" in modules
    assert modules.isdisjoint([*HEAVY, "rich"])
