"""Runs `rvk8s run` on bad inputs and looks at what a user would see.

The client and its engine are real processes. The stages that the engine starts are forked from
stage_server.py: its command is replaced by one that asks for a fork, so that a row costs a
second instead of Raster Vision's import.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import CLIENT, Forked
from forks import StageServer
from said import check_lines

from rvk8s.contract import Env

HERE = Path(__file__).parent
TINY = HERE.parent / "tiny"
#: Starts the command line with another program for the stages.
_CLI = "import sys; sys.executable = sys.argv.pop(1); from rvk8s.cli import main; main()"
_STAGE = """#!/bin/sh
exec {python} -S -E {client} {socket} "$4"
"""
#: The same where train is a program of its own, as for a user; and the client that starts it.
_STAGE_BUT_TRAIN = """#!/bin/sh
[ "$4" = train ] && exec {python} "$@"
exec {stage} "$@"
"""
_RVK8S = """#!/bin/sh
exec {python} -c '{cli}' {stage} "$@"
"""
#: `python -m MODULE` that asks for a fork, and Raster Vision's program by it.
_PYTHON = """#!/bin/sh
exec {python} -S -E {client} {socket} "$@"
"""
_RASTER_VISION = """#!/bin/sh
exec python -m rastervision.pipeline.cli "$@"
"""


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        code: exit status.
        errors: the lines that begin with "error: ", without that.
        text: all of stdout and stderr.
    """

    code: int
    errors: list[str]
    text: str


@dataclass
class Bench:
    """Commands, stages and data for the table.

    Attributes:
        folder: everything lies below it.
        data: the good scenes.
        memory: bytes that train may take beyond what it has when it begins; None: no limit.
    """

    folder: Path
    data: Path
    server: StageServer
    memory: int | None = None

    @property
    def stage_program(self) -> Path:
        return self.folder / "stage"

    @property
    def rvk8s(self) -> Path:
        """`rvk8s` whose stages are forked, but for train; alone in its folder."""
        return self.folder / "bin" / "rvk8s"

    @property
    def raster_vision(self) -> Path:
        """A folder with `rastervision` and the `python` that it starts, both forked."""
        return self.folder / "raster-vision"

    def project(self, name: str, args: Mapping[str, Any], code: str = "", text: str = "") -> Path:
        """A project folder with one experiment `tiny`.

        Args:
            args: for get_config; raw_uri is added, unless it is None here.
            code: source of the experiment; default: bad_experiment.py.
            text: rvk8s.yaml; default: one that is right.
        """
        folder = self.folder / "projects" / name
        folder.mkdir(parents=True)
        shutil.copy(TINY / "experiment.py", folder / "tiny_experiment.py")
        (folder / "experiment.py").write_text(code or (HERE / "bad_experiment.py").read_text())
        experiment = {
            "module": "experiment.py",
            "args": {k: v for k, v in {"raw_uri": str(self.data), **args}.items() if v is not None},
            "variants": {"small": {}},
        }
        value = {"apiVersion": "rvk8s/v1", "experiments": {"tiny": experiment}}
        (folder / "rvk8s.yaml").write_text(text or yaml.safe_dump(value, sort_keys=False))
        return folder

    def scenes(self, name: str) -> Path:
        """A copy of the good scenes, to be spoilt."""
        folder = self.folder / "data" / name
        shutil.copytree(self.data, folder)
        return folder

    def start_really(self, project: Path, *words: str) -> subprocess.Popen[str]:
        """Start `rvk8s WORDS` with stages that are processes of their own."""
        return subprocess.Popen(
            [sys.executable, "-m", "rvk8s.cli", *words],
            cwd=project,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, project: Path, *words: str, **environ: str) -> Outcome:
        """Run `rvk8s WORDS` in a project folder."""
        env = {**os.environ, Env.THREADS: "1", **environ}
        with tempfile.TemporaryFile() as log:
            program = Forked(
                CLIENT, words, cwd=project, env=env, log=log, python=self.stage_program
            )
            try:
                code = program.wait(timeout=120)
            finally:
                program.kill()
            log.seek(0)
            return _outcome(code, log.read().decode())


def outcome(process: subprocess.Popen[str]) -> Outcome:
    """Wait for a command and look at what it said."""
    text, _ = process.communicate(timeout=120)
    return _outcome(process.returncode, text)


def _outcome(code: int, text: str) -> Outcome:
    errors = [
        line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: ")
    ]
    return Outcome(code, errors, text)


@pytest.fixture(scope="session")
def table(
    server: StageServer, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """The Bench of all bad inputs."""
    with bench(tmp_path_factory.mktemp("bad"), tiny_data, server) as made:
        yield made


@contextmanager
def bench(folder: Path, data: Path, server: StageServer) -> Iterator[Bench]:
    """A Bench, with the thread that forks its stages."""
    made = Bench(folder, data, server)
    socket = folder / "socket"

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            request = json.loads(self.rfile.readline())
            self.wfile.write(f"{_fork(made, request)}\n".encode())

    with socketserver.ThreadingUnixStreamServer(str(socket), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        client, but_train = HERE / "stage_client.py", folder / "stage-but-train"
        stage, python = made.stage_program, sys.executable
        _program(stage, _STAGE.format(python=python, client=client, socket=socket))
        _program(but_train, _STAGE_BUT_TRAIN.format(python=python, stage=stage))
        _program(made.rvk8s, _RVK8S.format(python=python, cli=_CLI, stage=but_train))
        fork = _PYTHON.format(python=python, client=client, socket=socket)
        _program(made.raster_vision / "python", fork)
        _program(made.raster_vision / "rastervision", _RASTER_VISION)
        try:
            yield made
        finally:
            listener.shutdown()
            thread.join()


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _fork(bench: Bench, request: dict[str, Any]) -> int:
    """Do a stage, or what another program would, in a fork; its exit code."""
    if "stage" in request:
        environ = {k: v for k, v in request["env"].items() if k != Env.WATCH_PARENT}
        log = environ[Env.LOG_FILE]
        if bench.memory is not None and request["stage"] == "train":
            return _with_little_memory(environ, Path(log), bench.memory)
        request = {"stage": request["stage"], "env": environ, "log": log}
    pid = bench.server.start(request)
    while (code := bench.server.code(pid)) is None:
        time.sleep(0.02)
    return code


def _with_little_memory(environ: Mapping[str, str], log: Path, memory: int) -> int:
    """Train in a process of its own, which may take so many bytes more once it has begun.

    Not in a fork, so that nothing that other tests made counts.
    """
    command = [sys.executable, "-P", "-m", "rastervision.kubernetes.stage", "train"]
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environ, stdout=output, stderr=output)
    while process.poll() is None and "training on the CPU" not in log.read_text():
        time.sleep(0.02)
    if process.poll() is None:
        limit = _address_space(process.pid) + memory
        resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, limit))
    code = process.wait()
    return code if code >= 0 else 128 - code


def _address_space(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def check_errors(found: Outcome, errors: Sequence[str], places: Mapping[str, str]) -> None:
    """These error lines and no others, and no traceback.

    Args:
        errors: {names} of places stand for folders, … for any words.
    """
    assert "Traceback" not in found.text
    check_lines(found.errors, [line.format(**places) for line in errors])


def contents(folder: Path) -> dict[str, str]:
    """Relative path -> hash of every file below a folder, without markers and run.json."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".rvk8s" not in path.parts and path.name != "run.json"
    }
