"""A stage says again and again that it is alive, and what it says locally arrives on S3."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rastervision.kubernetes import heartbeat
from rastervision.kubernetes.context import Context
from rastervision.kubernetes.heartbeat import Heartbeat
from s3server import S3Server

from rvk8s import storage
from rvk8s.contract import Env, RunLayout
from rvk8s.heartbeat import LOST_AFTER


def test_it_beats_and_uploads_while_the_stage_works(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 3 * heartbeat.INTERVAL < LOST_AFTER, "one that is late is not lost"
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.05)
    log = tmp_path / "log.txt"
    log.write_text("first line\n")
    monkeypatch.setenv(Env.LOG_FILE, str(log))
    layout = RunLayout(f"{s3.bucket('beats')}/runs/one")
    beat, uploaded = layout.heartbeat("train"), layout.log("train")
    with Heartbeat(Context("train", layout), tmp_path) as working:
        first = storage.read_json(beat)
        assert first is not None
        working.progress_file.write_text('{"epoch": 1}')
        wait_for(lambda: storage.read_json(layout.progress("train")) == {"epoch": 1})
        # The log is uploaded after the progress.
        wait_for(lambda: storage.exists(uploaded))
        wait_for(lambda: storage.read_bytes(uploaded) == b"first line\n")
        log.write_text("first line\nsecond line\n")
        working.progress_file.write_text('{"epoch": 2}')
        wait_for(lambda: storage.read_json(layout.progress("train")) == {"epoch": 2})
        wait_for(lambda: b"second" in storage.read_bytes(uploaded))
        # Times are whole seconds.
        wait_for(lambda: (storage.read_json(beat) or first)["at"] > first["at"])
        log.write_text("last words\n")
    assert storage.read_bytes(uploaded) == b"last words\n", "what is said at the end arrives too"


def test_a_run_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log and the progress lie there already; a heartbeat that is gone comes again."""
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.05)
    layout = RunLayout(str(tmp_path / "one"))
    with Heartbeat(Context("train", layout), tmp_path) as working:
        assert str(working.progress_file) == layout.progress("train")
        storage.delete_file(layout.heartbeat("train"))
        wait_for(lambda: storage.exists(layout.heartbeat("train")))


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
