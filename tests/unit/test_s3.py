"""rvk8s.storage: s3_objects and s3_transfer with a real S3 server, over a faulty way to it."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3server import S3Server
from tcpproxy import Proxy, proxy_to

from rvk8s import storage
from rvk8s.contract import Env
from rvk8s.errors import InputError, StorageUnavailable
from rvk8s.storage import s3_objects, s3_retries, s3_settings, s3_transfer

#: The least that S3 allows, so that the tests need not send much.
PART = 5 << 20
DATA = hashlib.shake_256(b"rvk8s").digest(3 * PART + 1000)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_transfer, "PART", PART)
    monkeypatch.setattr(s3_retries, "_BACKOFF", 0.01)


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy in front of the server; the environment names it."""
    with proxy_to(s3.endpoint) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        yield between
    s3_objects._clients.clear()


@pytest.fixture
def uri(s3: S3Server) -> str:
    return f"{s3.bucket('transfers')}/{uuid.uuid4()}"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(DATA)
    return path


def _unfinished(uri: str) -> list[dict[str, Any]]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    answer = s3_objects.client().list_multipart_uploads(Bucket=bucket, Prefix=prefix)
    return list(answer.get("Uploads", ()))


def test_large_files_go_and_come_in_parts(
    uri: str, large: Path, tmp_path: Path, proxy: Proxy
) -> None:
    storage.copy(str(large), f"{uri}/large")
    storage.copy(f"{uri}/large", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == DATA
    assert sum("partNumber=" in head for head in proxy.heads) == 4
    assert sum("range: bytes=" in head.lower() for head in proxy.heads) == 4
    assert sum("content-md5" in head.lower() for head in proxy.heads) == 4
    assert set(os.listdir(tmp_path)) == {"large", "back"}


def test_the_parts_of_very_large_files_grow() -> None:
    assert s3_transfer.part_size(1 << 30) == PART
    size = 1 << 40
    part = s3_transfer.part_size(size)
    assert part % (1 << 20) == 0
    assert size / part <= 10_000


@pytest.mark.parametrize("size", [1000, len(DATA)])
def test_what_arrives_damaged_is_sent_again(
    uri: str, tmp_path: Path, proxy: Proxy, size: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA[:size])
    proxy.spoil_request = spoiler = _Spoiler(DATA[500:520])
    storage.copy(str(path), f"{uri}/file")
    assert spoiler.done
    assert storage.read_bytes(f"{uri}/file") == DATA[:size]


@pytest.mark.parametrize("size", [1000, len(DATA)])
def test_what_comes_damaged_is_fetched_again(
    uri: str, tmp_path: Path, proxy: Proxy, size: int
) -> None:
    storage.write_bytes(f"{uri}/file", DATA[:size])
    proxy.spoil_answer = spoiler = _Spoiler(DATA[500:520])
    storage.copy(f"{uri}/file", str(tmp_path / "back"))
    assert spoiler.done
    assert (tmp_path / "back").read_bytes() == DATA[:size]
    proxy.spoil_answer = spoiler = _Spoiler(DATA[500:520])
    assert storage.read_bytes(f"{uri}/file") == DATA[:size]
    assert spoiler.done


@pytest.mark.parametrize("size", [1000, len(DATA)])
def test_what_lies_damaged_is_not_taken(s3: S3Server, uri: str, tmp_path: Path, size: int) -> None:
    storage.write_bytes(f"{uri}/file", DATA[:size])
    stored = s3.data / uri.removeprefix("s3://") / "file"
    with stored.open("r+b") as file:
        file.seek(700)
        file.write(b"damage")
    with pytest.raises(InputError, match="is damaged: its SHA-256"):
        storage.copy(f"{uri}/file", str(tmp_path / "back"))
    with pytest.raises(InputError, match="is damaged: its SHA-256"):
        storage.read_bytes(f"{uri}/file")
    assert not (tmp_path / "back").exists()


def test_what_others_have_uploaded_is_taken(s3: S3Server, uri: str, tmp_path: Path) -> None:
    stored = s3.data / uri.removeprefix("s3://") / "file"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(DATA)
    storage.copy(f"{uri}/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == DATA


def test_a_large_file_that_is_there_is_not_sent_again(
    uri: str, large: Path, tmp_path: Path, proxy: Proxy
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    large.rename(folder / "large")
    storage.upload_dir(folder, uri)
    before = proxy.sent
    storage.upload_dir(folder, uri)
    assert proxy.sent - before < 10_000
    (folder / "large").write_bytes(DATA[::-1])
    storage.upload_dir(folder, uri)
    assert storage.read_bytes(f"{uri}/large") == DATA[::-1]


def test_an_upload_that_was_broken_off_is_gone_on_with(
    uri: str, large: Path, monkeypatch: pytest.MonkeyPatch, proxy: Proxy
) -> None:
    _break_off(uri, large, monkeypatch)
    (there,) = _unfinished(uri)
    before = proxy.sent
    storage.copy(str(large), f"{uri}/large")
    assert proxy.sent - before < len(DATA) - 2 * PART + 100_000, "parts that were there went again"
    assert storage.read_bytes(f"{uri}/large") == DATA
    assert _unfinished(uri) == [], there


def test_an_upload_of_another_content_is_aborted(
    uri: str, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _break_off(uri, large, monkeypatch)
    large.write_bytes(DATA[::-1])
    storage.copy(str(large), f"{uri}/large")
    assert storage.read_bytes(f"{uri}/large") == DATA[::-1]
    assert _unfinished(uri) == []


def test_an_upload_that_only_starts_alike(
    uri: str, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _break_off(uri, large, monkeypatch)
    large.write_bytes(DATA[: 2 * PART] + DATA[2 * PART :][::-1])
    storage.copy(str(large), f"{uri}/large")
    assert storage.read_bytes(f"{uri}/large") == large.read_bytes()
    assert _unfinished(uri) == []


def test_deleting_a_folder_aborts_its_uploads(
    uri: str, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _break_off(uri, large, monkeypatch)
    storage.delete_tree(uri)
    assert _unfinished(uri) == []


def test_a_connection_that_is_cut_off(uri: str, tmp_path: Path, proxy: Proxy) -> None:
    storage.write_bytes(f"{uri}/file", DATA)
    cut = [True]

    def cut_once(data: bytes) -> bytes:
        if cut[0] and len(data) > 10_000:
            cut[0] = False
            raise OSError
        return data

    proxy.spoil_answer = cut_once
    storage.copy(f"{uri}/file", str(tmp_path / "back"))
    assert not cut[0]
    assert (tmp_path / "back").read_bytes() == DATA


def test_a_slow_server(uri: str, proxy: Proxy, tmp_path: Path) -> None:
    storage.write_bytes(f"{uri}/file", DATA[:PART])
    proxy.bytes_per_second = 4 * PART
    storage.copy(f"{uri}/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == DATA[:PART]


def test_a_server_that_goes_away(uri: str, large: Path, proxy: Proxy) -> None:
    storage.exists(uri)
    proxy.away.set()
    with pytest.raises(StorageUnavailable, match=r"did not answer.*AWS_ENDPOINT_URL"):
        storage.copy(str(large), f"{uri}/large")
    proxy.away.clear()
    storage.copy(str(large), f"{uri}/large")
    assert storage.read_bytes(f"{uri}/large") == DATA
    assert _unfinished(uri) == []


def test_an_upload_to_a_server_that_hangs_is_gone_on_with(
    uri: str, large: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        s3_objects, "_LIMITS", {"read_timeout": 0.5, "retries": {"max_attempts": 0}}
    )
    proxy.spoil_request = lambda data: b"" if b"<CompleteMultipartUpload" in data else data
    with pytest.raises(StorageUnavailable, match="did not answer"):
        storage.copy(str(large), f"{uri}/large")
    proxy.spoil_request = lambda data: data
    before = proxy.sent
    storage.copy(str(large), f"{uri}/large")
    assert proxy.sent - before < 100_000, "parts that were there went again"
    assert storage.read_bytes(f"{uri}/large") == DATA


def test_a_server_that_hangs_holds_nobody_up(uri: str, proxy: Proxy, large: Path) -> None:
    """An exception of a signal ends the wait for threads that wait for the server."""
    storage.exists(uri)
    proxy.silent.set()
    main = threading.get_ident()
    threading.Timer(0.5, lambda: _interrupt(main)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        storage.download_dir(uri, large.parent / "down")
    files = _folder_of_files(large.parent / "files")
    threading.Timer(0.5, lambda: _interrupt(main)).start()
    with pytest.raises(KeyboardInterrupt):
        storage.upload_dir(files, uri)
    assert time.monotonic() - began < 5


def test_the_reader_pays(
    uri: str, large: Path, tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"{uri}/before", b"1")
    assert not any("x-amz-request-payer" in head.lower() for head in proxy.heads)
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    proxy.heads.clear()
    storage.copy(str(large), f"{uri}/large")
    storage.copy(f"{uri}/large", str(tmp_path / "back"))
    storage.copy(f"{uri}/large", f"{uri}/copy")
    storage.list_files(uri)
    storage.exists(f"{uri}/large")
    storage.delete_tree(uri)
    methods = {head.split()[0] for head in proxy.heads}
    assert methods >= {"PUT", "GET", "HEAD", "POST"}
    for head in proxy.heads:
        assert "x-amz-request-payer: requester" in head.lower(), head


@pytest.mark.parametrize(("style", "place"), [("1", "path"), ("0", "host"), ("", "path")])
def test_where_the_bucket_is_named(
    monkeypatch: pytest.MonkeyPatch, style: str, place: str, s3: S3Server
) -> None:
    monkeypatch.setenv(Env.S3_PATH_STYLE, style)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.example:9000")
    url = s3_objects.client().generate_presigned_url(
        "get_object", Params={"Bucket": "bucket", "Key": "key"}
    )
    start = {
        "path": "http://storage.example:9000/bucket/key?",
        "host": "http://bucket.storage.example:9000/key?",
    }
    assert url.startswith(start[place])
    assert s3_settings.is_path_style() == (place == "path")


def test_a_user_who_may_only_read(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, large: Path
) -> None:
    uri = s3.readable("shared")
    storage.write_bytes(f"{uri}/a", b"1")
    for name, value in s3.reader_environ.items():
        monkeypatch.setenv(name, value)
    s3_objects._clients.clear()
    try:
        assert storage.read_bytes(f"{uri}/a") == b"1"
        assert storage.list_files(uri) == {"a": 1}
        refused = r"denied \(AccessDenied\); .*access to s3://shared"
        with pytest.raises(InputError, match=refused):
            storage.write_bytes(f"{uri}/b", b"1")
        with pytest.raises(InputError, match=refused):
            storage.copy(str(large), f"{uri}/large")
        with pytest.raises(InputError, match=refused):
            storage.check_writable(f"{uri}/runs")
        with pytest.raises(InputError, match=refused):
            storage.delete_file(f"{uri}/a")
    finally:
        s3_objects._clients.clear()


class _Spoiler:
    """Changes the first occurrence of some bytes, once."""

    def __init__(self, piece: bytes):
        self.piece, self.done = piece, False

    def __call__(self, data: bytes) -> bytes:
        if not self.done and self.piece in data:
            self.done = True
            return data.replace(self.piece, bytes(len(self.piece)), 1)
        return data


def _break_off(uri: str, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin an upload that ends with two of four parts sent, as a killed process leaves it."""
    bucket, _, key = f"{uri}/large".removeprefix("s3://").partition("/")
    s3 = s3_objects.client()
    digest = hashlib.sha256(DATA).hexdigest()
    answer = s3.create_multipart_upload(
        Bucket=bucket, Key=key, Metadata={s3_transfer._SHA256: digest}
    )
    for number in (1, 2):
        data = DATA[(number - 1) * PART : number * PART]
        s3.upload_part(
            Bucket=bucket, Key=key, UploadId=answer["UploadId"], PartNumber=number, Body=data
        )


def _interrupt(thread: int) -> None:
    import signal

    signal.pthread_kill(thread, signal.SIGINT)


def _folder_of_files(folder: Path) -> Path:
    folder.mkdir()
    for number in range(4):
        (folder / str(number)).write_bytes(b"1")
    return folder
