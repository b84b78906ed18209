"""Why a stage failed reaches Kubernetes, too: storage may refuse to take it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from rastervision.kubernetes import failure_report, stage
from rastervision.kubernetes.context import Context

from rvk8s import storage
from rvk8s.contract import Env, now
from rvk8s.errors import InputError, StorageUnavailable

REFUSED = InputError("access denied (InvalidAccessKeyId)", where="s3://bucket/runs/run-1")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that Kubernetes gives a container, and a stage whose process may be signalled."""
    path = tmp_path / "termination-log"
    path.touch()
    monkeypatch.setattr(failure_report, "TERMINATION_LOG", path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return path


@pytest.mark.parametrize("error", [REFUSED, StorageUnavailable("s3 is away"), ValueError("x")])
def test_a_stage_leaves_a_termination_message(
    error: Exception, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands there also where failed.json cannot be written."""

    def refuse(*_: object) -> None:
        raise REFUSED

    monkeypatch.setattr(storage, "write_json", refuse)
    environ = {str(Env.RUN_URI): str(tmp_path / "run-1")}
    for context in (None, Context.from_environ("chip", environ)):
        log.write_text("")
        code = stage._fail(context, error, now(), [])
        assert str(error) in log.read_text()
        assert code != 0


def test_a_long_message_is_cut(log: Path) -> None:
    failure_report.write_termination_message("ä" * 9000)
    assert 4000 < log.stat().st_size <= 4096


def test_outside_of_kubernetes_nothing_is_written(log: Path) -> None:
    log.unlink()
    failure_report.write_termination_message("why")
    assert not log.exists()
