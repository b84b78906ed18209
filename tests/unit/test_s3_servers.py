"""rvk8s.storage.s3_objects: servers that know less than Amazon's, and what their answers mean.

The server here refuses what some real ones do: Google's has no DeleteObjects and says 404 where
there is nothing to delete, Cloudflare's once refused x-amz-checksum-mode, older MinIO, Ceph and
PowerScale want a Content-MD5 where boto3 sends a newer checksum, OVH's says 409 to writes of one
object at once. Asked a second time to end an
upload, most say that there is none; versitygw, which the other tests use, says that all is well.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from said import says

from rvk8s import storage
from rvk8s.errors import DiskFull, InputError, StorageRefused, StorageUnavailable
from rvk8s.storage import s3_objects, s3_retries, s3_transfer

_LISTED = "<Contents><Key>{}</Key><Size>{}</Size><LastModified>{}</LastModified></Contents>"
_TIME = "2026-11-25T00:00:00.000Z"
_META = "x-amz-meta-rvk8s-sha256"


class _Server(BaseHTTPRequestHandler):
    """Objects and their SHA-256 in memory, by path; what it does not know is refused."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, tuple[bytes, str]]]
    #: The parts and the SHA-256 of the upload that goes on.
    upload: ClassVar[tuple[dict[int, bytes], str] | None] = None
    #: When an upload is to be ended: make the object and do not answer, or forget the upload.
    loses_answer = forgets_upload = False
    #: How many writes are still refused because of others to the same object.
    busy = 0

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._knows():
            return
        if self.busy:
            type(self).busy -= 1
            self._refuse(409, "OperationAborted")
            return
        if "partNumber" in self._query and self.upload:
            self.upload[0][int(self._query["partNumber"][0])] = data
        else:
            self.objects[self._key] = data, self.headers[_META]
        self._answer(200)

    def do_GET(self) -> None:
        if not self._knows():
            return
        if "list-type" in self._query:
            start = f"{self._key.strip('/')}/{self._query['prefix'][0]}"
            found = {key: data for key, (data, _) in self.objects.items() if key.startswith(start)}
            names = [
                _LISTED.format(escape(key.partition("/")[2]), len(data), _TIME)
                for key, data in found.items()
            ]
            self._answer(200, f"<ListBucketResult>{''.join(names)}</ListBucketResult>".encode())
        elif "uploads" in self._query:
            self._refuse(501, "NotImplemented")
        elif self._key in self.objects:
            self._answer(200, *self.objects[self._key])
        else:
            self._refuse(404, "NoSuchKey")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        if "uploadId" in self._query:
            self._refuse(404, "NoSuchUpload")
        elif self.objects.pop(self._key, None) is None:
            self._refuse(404, "NoSuchKey")
        else:
            self._answer(204)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if "uploads" in self._query:
            type(self).upload = {}, self.headers[_META]
            answer = b"<InitiateMultipartUploadResult><UploadId>1</UploadId>"
            self._answer(200, answer + b"</InitiateMultipartUploadResult>")
        elif self.path == "/":
            self._refuse(403, "AccessDenied")  # sts:AssumeRoleWithWebIdentity
        elif "uploadId" not in self._query:
            self._refuse(400, "NotImplemented")
        elif self.upload is None or self.forgets_upload:
            self._refuse(404, "NoSuchUpload")
        else:
            parts, digest = self.upload
            self.objects[self._key] = b"".join(parts[index] for index in sorted(parts)), digest
            type(self).upload = None
            if self.loses_answer:
                self.close_connection = True
            else:
                self._answer(200, b"<CompleteMultipartUploadResult/>")

    @property
    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/")

    @property
    def _query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    def _knows(self) -> bool:
        unknown = any(name.lower().startswith("x-amz-checksum") for name in self.headers)
        if unknown:
            self._refuse(501, "NotImplemented")
        return not unknown

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def _answer(self, status: int, body: bytes = b"", digest: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Wed, 25 Nov 2026 00:00:00 GMT")
        self.send_header("ETag", '"1"')
        if digest:
            self.send_header(_META, digest)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Server]]:
    """What answers at AWS_ENDPOINT_URL."""

    class Server(_Server):
        objects: ClassVar[dict[str, tuple[bytes, str]]] = {}

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listening.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield Server
        s3_objects._clients.clear()
        listening.shutdown()


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of three parts."""
    monkeypatch.setattr(s3_transfer, "PART", 1 << 20)
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * (10 << 10))
    return path


def test_a_server_that_knows_little(server: type[_Server]) -> None:
    uri = "s3://bucket/runs"
    storage.check_writable(uri)
    storage.delete_file(f"{uri}/a/failed.json")
    names = {f"{number} & <{number}>" for number in range(20)}
    for name in names:
        storage.write_bytes(f"{uri}/a/{name}", name.encode())
    storage.write_bytes(f"{uri}/b", b"kept")
    assert set(storage.list_files(f"{uri}/a")) == names
    assert storage.read_bytes(f"{uri}/a/1 & <1>") == b"1 & <1>"
    storage.delete_tree(f"{uri}/a")
    storage.delete_tree(f"{uri}/a")
    assert storage.list_files(uri) == {"b": 4}


def test_the_answer_to_the_end_of_an_upload_is_lost(server: type[_Server], large: Path) -> None:
    """boto3 asks again and hears that there is no such upload: the object is there."""
    server.loses_answer = True
    storage.copy(str(large), "s3://bucket/large")
    assert storage.read_bytes("s3://bucket/large") == large.read_bytes()


def test_an_upload_that_somebody_else_has_ended(server: type[_Server], large: Path) -> None:
    """What was there before is not taken for what was sent."""
    storage.write_bytes("s3://bucket/large", b"older")
    server.forgets_upload = True
    with pytest.raises(StorageUnavailable, match=r"ended its upload; try again"):
        storage.copy(str(large), "s3://bucket/large")
    assert storage.read_bytes("s3://bucket/large") == b"older"


def test_a_server_that_is_busy_with_the_object(
    server: type[_Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3 does not try again what is answered with 409 or 429."""
    monkeypatch.setattr(s3_retries, "_BACKOFF", 0.01)
    server.busy = 2
    storage.write_bytes("s3://bucket/file", b"1")
    assert storage.read_bytes("s3://bucket/file") == b"1"
    server.busy = 10
    with pytest.raises(StorageUnavailable, match="storage answered OperationAborted"):
        storage.write_bytes("s3://bucket/file", b"2")


@pytest.mark.parametrize(
    ("status", "code", "kind", "text"),
    [
        (403, "QuotaExceeded", DiskFull, "quota left"),  # Ceph
        (400, "XMinioAdminBucketQuotaExceeded", DiskFull, "quota left"),
        (507, "XMinioStorageFull", DiskFull, "quota left"),
        (403, "AccessDenied", StorageRefused, "access to s3://bucket"),
        (403, "RequestTimeTooSkewed", StorageRefused, "set the clock"),
        (404, "NoSuchBucket", InputError, "no bucket s3://bucket"),
        (404, "404", FileNotFoundError, "does not exist"),
        (429, "429", StorageUnavailable, "storage answered 429"),
        (503, "SlowDown", StorageUnavailable, "storage answered SlowDown"),
        (400, "RequestTimeout", StorageUnavailable, "storage answered RequestTimeout"),
        (501, "NotImplemented", InputError, "S3 answered NotImplemented"),
    ],
)
def test_what_an_answer_means(status: int, code: str, kind: type[Exception], text: str) -> None:
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    found = s3_objects.translate(ClientError(answer, "PutObject"), "s3://bucket/key")
    assert type(found) is kind
    assert text in str(found)


def test_a_role_that_is_refused(
    server: type[_Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a cluster whose service account the role does not trust."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "token").write_text("token of the service account")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/team")
    with pytest.raises(InputError, match=r"role .*refused .*AWS_ROLE_ARN"):
        storage.read_bytes("s3://bucket/key")


def test_who_has_to_log_in(
    server: type[_Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    lines = ["[profile team]", "sso_session = team", "sso_account_id = 123456789012"]
    lines += ["sso_role_name = dev", "[sso-session team]", "sso_region = eu-central-1"]
    lines += ["sso_start_url = https://team.example/start"]
    (tmp_path / "config").write_text("\n".join(lines))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "team")
    with pytest.raises(InputError, match=r"no credentials for S3: .*; aws sso login"):
        storage.read_bytes("s3://bucket/key")


def test_a_certificate_that_is_not_trusted() -> None:
    from botocore.exceptions import SSLError

    reason = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate"
    error = SSLError(endpoint_url="https://storage.example/bucket/key", error=reason)
    found = s3_objects.translate(error, "s3://bucket/key")
    assert isinstance(found, StorageUnavailable)
    assert says(str(found), "…https://storage.example…not trusted; …AWS_CA_BUNDLE…")
