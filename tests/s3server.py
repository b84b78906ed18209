"""A real S3 server for the tests: versitygw, built from Go modules (cluster/programs.py).

It is built once into a cache (45 s) and listens on loopback. Where Go is missing the tests that
need it are skipped, and pytest's summary says so.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster.programs import CannotBuild, program

_KEY, _SECRET = "testkey", "testsecret"
#: A user who may do only what a bucket's policy allows.
_READER, _READER_SECRET = "reader", "readersecret"


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        endpoint: its URL; AWS_ENDPOINT_URL has it while the fixture lives.
        data: the folder that holds its buckets, each a folder.
    """

    endpoint: str
    data: Path

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables that make boto3 use it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_REGION": "us-east-1",
        }

    @property
    def reader_environ(self) -> dict[str, str]:
        """The same for the user who may only read what readable() names."""
        return {
            **self.environ,
            "AWS_ACCESS_KEY_ID": _READER,
            "AWS_SECRET_ACCESS_KEY": _READER_SECRET,
        }

    def readable(self, name: str) -> str:
        """Make a bucket that the reader may read and list, and return its URI."""
        import boto3

        uri = self.bucket(name)
        arn = f"arn:aws:s3:::{name}"
        statement = {
            "Effect": "Allow",
            "Principal": [_READER],
            "Action": ["s3:GetObject", "s3:ListBucket"],
            "Resource": [arn, f"{arn}/*"],
        }
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=_KEY,
            aws_secret_access_key=_SECRET,
        )
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        client.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
        return uri

    def bucket(self, name: str) -> str:
        """Make a bucket and return its URI."""
        (self.data / name).mkdir(exist_ok=True)
        return f"s3://{name}"


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server, for the whole session."""
    try:
        program("versitygw")
    except CannotBuild as error:
        pytest.skip(f"NOT TESTED: S3, because the S3 server is missing: {error}")
    with start_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@contextmanager
def start_server(folder: Path) -> Iterator[S3Server]:
    """A server that keeps its buckets in a folder.

    Raises:
        CannotBuild: Go is missing.
    """
    data, sidecar, users = folder / "data", folder / "sidecar", folder / "users"
    for made in (data, sidecar, users):
        made.mkdir()
    account = {"access": _READER, "secret": _READER_SECRET, "role": "user"}
    (users / "users.json").write_text(json.dumps({"accessAccounts": {_READER: account}}))
    port = _free_port()
    command = [program("versitygw"), "--access", _KEY, "--secret", _SECRET, "--iam-dir", users]
    command += ["--port", f"127.0.0.1:{port}"]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [*command, "posix", "--sidecar", sidecar, data], stdout=log, stderr=log
        )
        try:
            _wait_for(port, process, folder / "log.txt")
            yield S3Server(f"http://127.0.0.1:{port}", data)
        finally:
            process.terminate()
            process.wait(timeout=10)


@pytest.fixture
def s3(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with the environment that makes boto3 use it."""
    for name, value in s3_process.environ.items():
        monkeypatch.setenv(name, value)
    return s3_process


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(f"the S3 server does not listen: {log.read_text()}")
