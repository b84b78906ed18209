"""rvk8s.storage.uploads: checkpoints go up in the background; storage may be away for a while."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3server import S3Server
from tcpproxy import Proxy, proxy_to

from rvk8s import storage
from rvk8s.errors import InputError, StorageUnavailable
from rvk8s.storage import s3_objects, uploads
from rvk8s.storage.uploads import Uploads


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr(uploads, "_FIRST_PAUSE", 0.1)
    with proxy_to(s3.endpoint) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        yield between
    s3_objects._clients.clear()


@pytest.fixture
def uri(s3: S3Server) -> str:
    return f"{s3.bucket('uploads')}/{uuid.uuid4()}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "train"
    storage.write_bytes(str(path / "last.pt"), b"1")
    storage.write_bytes(str(path / "tensorboard" / "events"), b"1")
    return path


def test_the_last_state_is_there_at_the_end(folder: Path, uri: str, proxy: Proxy) -> None:
    upload = Uploads(folder, uri)
    for number in range(5):
        storage.write_bytes(str(folder / "last.pt"), b"state %d" % number)
        upload()
    upload.finish()
    assert storage.read_bytes(f"{uri}/last.pt") == b"state 4"
    assert storage.list_files(uri) == {"last.pt": 7, "tensorboard/events": 1}
    assert [path.name for path in folder.parent.iterdir()] == ["train"], "no snapshot is left"


def test_a_call_does_not_wait_for_storage_that_hangs(folder: Path, uri: str, proxy: Proxy) -> None:
    upload = Uploads(folder, uri)
    proxy.silent.set()
    began = time.monotonic()
    upload()
    storage.write_bytes(str(folder / "last.pt"), b"newer")
    upload()
    assert time.monotonic() - began < 1
    proxy.silent.clear()
    upload.finish()
    assert storage.read_bytes(f"{uri}/last.pt") == b"newer"


def test_what_is_uploaded_is_of_one_moment(folder: Path, uri: str, proxy: Proxy) -> None:
    """best.pt goes first: a restart relies on it being as old as last.pt or older."""
    storage.write_bytes(str(folder / "best.pt"), b"old")
    upload = Uploads(folder, uri, last=("last.pt",))
    proxy.silent.set()
    upload()
    for name in ("best.pt", "last.pt"):
        storage.write_bytes(str(folder / name), b"new")
    proxy.silent.clear()
    assert upload._thread is not None
    upload._thread.join()
    assert storage.read_bytes(f"{uri}/best.pt") == b"old"
    assert storage.read_bytes(f"{uri}/last.pt") == b"1"


def test_storage_that_is_away_for_a_while(
    folder: Path, uri: str, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    upload = Uploads(folder, uri)
    proxy.away.set()
    upload()
    assert upload._thread is not None
    upload._thread.join()
    assert "not uploaded: " in caplog.text
    upload()
    proxy.away.clear()
    upload.finish()
    assert storage.exists(f"{uri}/last.pt")


def test_storage_that_stays_away(folder: Path, uri: str, proxy: Proxy) -> None:
    upload = Uploads(folder, uri, patience=0.2)
    proxy.away.set()
    with pytest.raises(StorageUnavailable, match=r"did not answer.* \(away for "):
        upload.finish()


def test_what_is_refused_ends_the_work(folder: Path, proxy: Proxy) -> None:
    upload = Uploads(folder, "s3://no-such-bucket/train")
    upload()
    with pytest.raises(InputError, match="there is no bucket"):
        upload.finish()
    with pytest.raises(InputError, match="there is no bucket"):
        upload()
