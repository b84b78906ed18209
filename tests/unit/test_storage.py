"""rvk8s.storage over a local folder and over a real S3 server: the same tests for both."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
from s3server import S3Server

from rvk8s import storage
from rvk8s.errors import DiskFull, InputError, StorageUnavailable
from rvk8s.storage import local_files, s3_objects


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "root")
    server: S3Server = request.getfixturevalue("s3")
    return f"{server.bucket('storage')}/{uuid.uuid4()}"


def test_bytes_go_and_come_back(root: str) -> None:
    storage.write_bytes(f"{root}/a/b.bin", b"one")
    storage.write_bytes(f"{root}/a/b.bin", b"two\0")
    assert storage.read_bytes(f"{root}/a/b.bin") == b"two\0"
    assert storage.list_files(root) == {"a/b.bin": 4}


def test_what_is_missing(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{root}/none")
    assert storage.read_json(f"{root}/none") is None
    assert not storage.exists(f"{root}/none")
    assert storage.list_dirs(f"{root}/none") == []
    assert storage.list_files(f"{root}/none") == {}
    storage.delete_file(f"{root}/none")
    storage.delete_tree(f"{root}/none")


def test_json_that_is_broken_counts_as_none(root: str) -> None:
    storage.write_bytes(f"{root}/x.json", b'{"half":')
    assert storage.read_json(f"{root}/x.json") is None
    storage.write_json(f"{root}/x.json", {"whole": 1})
    assert storage.read_json(f"{root}/x.json") == {"whole": 1}


def test_folders(root: str) -> None:
    for name in ("b/1", "b/2/3", "a/1", "top"):
        storage.write_bytes(f"{root}/{name}", b"x")
    assert storage.list_dirs(root) == ["a", "b"]
    assert storage.exists(f"{root}/b")
    assert storage.exists(f"{root}/top")
    assert not storage.exists(f"{root}/to"), "a name is no prefix"
    storage.delete_tree(f"{root}/b")
    assert storage.list_files(root) == {"a/1": 1, "top": 1}
    storage.delete_file(f"{root}/top")
    assert storage.list_files(root) == {"a/1": 1}


def test_a_folder_goes_up_and_comes_down(root: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(30):
        path = source / f"d{number % 3}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(1000 + number))
    (source / "index.json").write_text("{}")
    storage.upload_dir(source, f"{root}/up")
    storage.download_dir(f"{root}/up", tmp_path / "down")
    assert _contents(tmp_path / "down") == _contents(source)

    (source / "d0" / "0.bin").write_bytes(b"changed")
    (source / "d1" / "1.bin").unlink()
    storage.upload_dir(source, f"{root}/up", delete=True)
    storage.download_dir(f"{root}/up", tmp_path / "down", delete=True)
    assert _contents(tmp_path / "down") == _contents(source)


def test_downloading_again_skips_what_did_not_change(s3: S3Server, tmp_path: Path) -> None:
    uri = f"{s3.bucket('storage')}/{uuid.uuid4()}"
    storage.write_bytes(f"{uri}/a", b"aaaa")
    storage.download_dir(uri, tmp_path)
    stamp = (tmp_path / "a").stat().st_ino
    storage.download_dir(uri, tmp_path)
    assert (tmp_path / "a").stat().st_ino == stamp


def test_uploading_again_skips_what_did_not_change(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    for name in ("a", "b"):
        (tmp_path / "source" / name).write_bytes(b"1")
    known: storage.Known = {}
    storage.upload_dir(tmp_path / "source", root, known=known)
    sent: list[str] = []
    copy = storage.copy
    monkeypatch.setattr(storage, "copy", lambda *args: (sent.append(args[0]), copy(*args)))
    (tmp_path / "source" / "b").write_bytes(b"22")
    storage.upload_dir(tmp_path / "source", root, known=known)
    assert [Path(path).name for path in sent] == ["b"]
    assert storage.list_files(root) == {"a": 1, "b": 2}


def test_json_goes_up_last(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    for name in ("a.json", "z.bin", "m.bin"):
        (tmp_path / "source" / name).write_bytes(b"1")
    order: list[str] = []
    copy = storage.copy
    monkeypatch.setattr(storage, "copy", lambda *args: (copy(*args), order.append(args[0])))
    storage.upload_dir(tmp_path / "source", root)
    assert order[-1].endswith("a.json")


def test_publish_moves(root: str, tmp_path: Path) -> None:
    path = tmp_path / "staged"
    path.write_bytes(b"x" * 100)
    storage.publish(path, f"{root}/deep/file")
    assert not path.exists()
    assert storage.read_bytes(f"{root}/deep/file") == b"x" * 100


def test_large_files_go_in_parts(s3: S3Server, tmp_path: Path) -> None:
    data = os.urandom(20 << 20)
    (tmp_path / "large").write_bytes(data)
    uri = f"{s3.bucket('storage')}/{uuid.uuid4()}/large"
    storage.copy(str(tmp_path / "large"), uri)
    storage.copy(uri, f"{uri}-2")
    assert storage.read_bytes(f"{uri}-2") == data


@pytest.mark.slow
def test_more_files_than_a_page(s3: S3Server) -> None:
    uri = f"{s3.bucket('storage')}/{uuid.uuid4()}"
    folder = s3.data / uri.removeprefix("s3://")
    folder.mkdir(parents=True)
    for number in range(1100):
        (folder / f"{number:04}").touch()
    assert len(storage.list_files(uri)) == 1100
    storage.delete_tree(uri)
    assert storage.list_files(uri) == {}


def test_a_reader_never_sees_half_a_file(root: str) -> None:
    uri, size, over = f"{root}/file", 200_000, threading.Event()
    storage.write_bytes(uri, b"0" * size)

    def write() -> None:
        for number in range(40):
            storage.write_bytes(uri, b"%d" % (number % 10) * size)
        over.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not over.is_set():
        data = storage.read_bytes(uri)
        assert len(data) == size
        assert len(set(data)) == 1
    thread.join()


def test_missing_bucket(s3: S3Server) -> None:
    with pytest.raises(InputError, match="no bucket s3://nowhere"):
        storage.write_bytes("s3://nowhere/x", b"")
    with pytest.raises(InputError, match="no bucket s3://nowhere"):
        storage.list_files("s3://nowhere/x")


def test_denied(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket("storage")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3_objects._clients.clear()
    try:
        with pytest.raises(InputError, match=r"s3://storage/x: access denied .*credentials"):
            storage.read_bytes(f"{bucket}/x")
    finally:
        s3_objects._clients.clear()


def test_no_credentials(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3_objects._clients.clear()
    try:
        with pytest.raises(InputError, match=r"no credentials .*; .*AWS_ACCESS_KEY_ID"):
            storage.read_bytes("s3://storage/x")
    finally:
        s3_objects._clients.clear()


def test_no_answer(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{reserved.getsockname()[1]}")
        with pytest.raises(StorageUnavailable, match="did not answer"):
            storage.read_bytes("s3://storage/x")


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file .*folder should"):
        storage.write_bytes(str(tmp_path / "file" / "x"), b"")


def test_unwritable_root() -> None:
    # Root may write to every folder, but not to this one.
    with pytest.raises(InputError, match="/proc/rvk8s"):
        storage.check_writable("/proc/rvk8s")


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskFull, match="no space left"):
        storage.write_bytes(str(tmp_path / "x"), b"")
    assert os.listdir(tmp_path) == []


def test_temporary_names_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / f".x{local_files._SUFFIX}").touch()
    assert storage.list_files(str(tmp_path)) == {}


def test_boto3_is_imported_only_for_s3() -> None:
    code = (
        "import sys; from rvk8s import storage; storage.exists('/'); print('boto3' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_names_others_is_uploaded_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a.json", "best.pt", "last.pt", "z.bin"]
    for name in names:
        storage.write_bytes(str(tmp_path / "source" / name), b"")
    copied: list[str] = []
    monkeypatch.setattr(storage, "copy", lambda source, target: copied.append(Path(target).name))
    storage.upload_dir(tmp_path / "source", "s3://bucket/train", last=(".json", "last.pt"))
    assert sorted(copied) == names
    assert set(copied[:2]) == {"best.pt", "z.bin"}
