"""The driver's files are stored in the background: what storage that is away does to that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rvk8s import storage
from rvk8s.engines import saver
from rvk8s.engines.saver import BackgroundSaver
from rvk8s.errors import InputError, StorageUnavailable


class Storage:
    """Storage that can be away; files are stored for real.

    Attributes:
        errors: what writing a file gives as long as it is in here, by the file's name.
        tries: writes so far.
    """

    def __init__(self) -> None:
        self.errors: dict[str, Exception] = {}
        self.tries = 0
        self._write = storage.write_json

    def write_json(self, uri: str, value: Any) -> None:
        self.tries += 1
        if error := self.errors.get(Path(uri).name):
            raise error
        self._write(uri, value)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(saver, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(saver, "_LAST_PAUSE", 0.05)
    made = Storage()
    monkeypatch.setattr(storage, "write_json", made.write_json)
    return made


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_patience_begins_with_the_first_failure(tmp_path: Path, flaky: Storage) -> None:
    """Nothing to store for longer than the patience is no fault of storage's."""
    uri = str(tmp_path / "run.json")
    with BackgroundSaver(patience=0.5) as one:
        one.save(uri, {"n": 1})
        until(lambda: not one.pending())
        time.sleep(0.7)
        flaky.errors["run.json"] = StorageUnavailable("away")
        before = flaky.tries
        one.save(uri, {"n": 2})
        until(lambda: flaky.tries >= before + 2)
        assert one.pending()
        flaky.errors.clear()
        until(lambda: not one.pending())
    assert storage.read_json(uri) == {"n": 2}


def test_an_error_is_over_once_the_file_is_stored(tmp_path: Path, flaky: Storage) -> None:
    uri = str(tmp_path / "run.json")
    with BackgroundSaver(patience=0.1) as one:
        flaky.errors["run.json"] = StorageUnavailable("away")
        began = time.monotonic()
        one.save(uri, {"n": 1})
        with pytest.raises(StorageUnavailable, match="away"):
            until(lambda: not one.pending())
        assert time.monotonic() - began >= 0.1
        flaky.errors.clear()
        until(lambda: Path(uri).exists())
        until(lambda: not one.pending())


def test_a_file_that_is_refused_stays_so_whatever_becomes_of_others(
    tmp_path: Path, flaky: Storage
) -> None:
    flaky.errors["a.json"] = InputError("denied")
    with BackgroundSaver(patience=60.0) as one:
        one.save(str(tmp_path / "a.json"), {})
        one.save(str(tmp_path / "b.json"), {})
        until(lambda: (tmp_path / "b.json").exists())
        tries = flaky.tries
        until(lambda: flaky.tries > tries + 1)
        for _ in range(20):
            with pytest.raises(InputError, match="denied"):
                one.pending()
            time.sleep(0.005)


def test_it_ends_with_its_block(tmp_path: Path, flaky: Storage) -> None:
    flaky.errors["run.json"] = StorageUnavailable("away")
    with BackgroundSaver(patience=60.0) as one:
        one.save(str(tmp_path / "run.json"), {})
        until(lambda: flaky.tries > 0)
    until(lambda: "saver" not in {thread.name for thread in threading.enumerate()})
