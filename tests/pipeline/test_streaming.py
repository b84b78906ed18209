"""Imagery on S3 through GDAL's /vsis3: what is streamed, with which settings, how it fails."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import scenes
from placed import checker_of
from rastervision.core.box import Box
from rastervision.core.data import (
    ClassConfig,
    DatasetConfig,
    RasterioSourceConfig,
    SceneConfig,
    SemanticSegmentationLabelSourceConfig,
)
from rastervision.core.rv_pipeline import SemanticSegmentationConfig, WindowSamplingConfig
from rastervision.fastai_backend import FastaiSemanticSegmentationConfig
from rastervision.kubernetes import gdal, streaming
from rastervision.kubernetes.failures import explain
from s3server import S3Server
from said import says
from tcpproxy import Proxy, proxy_to

from rvk8s import storage
from rvk8s.contract import Env
from rvk8s.errors import StorageUnavailable
from rvk8s.storage import s3_objects

SIZE = 3000
CLASSES = ClassConfig(names=["a", "b"], null_class="a")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """(3, SIZE, SIZE): 27 MB that do not compress."""
    return np.random.default_rng(0).integers(1, 255, (3, SIZE, SIZE), dtype=np.uint8)


@pytest.fixture
def bucket(s3: S3Server, image: np.ndarray) -> str:
    """A bucket with an image in tiles and one in strips, and a label for both."""
    uri = s3.bucket("imagery")
    folder = s3.data / "imagery"
    if not (folder / "label.tif").exists():
        scenes.write(folder / "tiles.tif", image)
        scenes.write(folder / "strips.tif", image, tiled=False)
        scenes.write(folder / "label.tif", image[:1] % 2)
    return uri


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy_to(s3.endpoint) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        prepare(monkeypatch)
        yield between
    s3_objects._clients.clear()


def prepare(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gdal.prepare() does, for one test."""
    for name, value in gdal.settings().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")


def scene(uri: str, label: str | None = None) -> SceneConfig:
    source = None
    if label:
        labels = RasterioSourceConfig(uris=label)
        source = SemanticSegmentationLabelSourceConfig(raster_source=labels)
    return SceneConfig(id="one", raster_source=RasterioSourceConfig(uris=uri), label_source=source)


def pipeline(
    train: list[SceneConfig], validation: Sequence[SceneConfig] = (), **backend: Any
) -> SemanticSegmentationConfig:
    return SemanticSegmentationConfig(
        root_uri="/nowhere",
        dataset=DatasetConfig(
            class_config=CLASSES, train_scenes=train, validation_scenes=list(validation)
        ),
        backend=FastaiSemanticSegmentationConfig(**backend),
    )


def read(uri: str, window: Box, folder: Path) -> np.ndarray:
    source = RasterioSourceConfig(uris=uri, allow_streaming=True).build(str(folder))
    return source[window]


def test_only_tiles_are_streamed(bucket: str, proxy: Proxy, tiny_data: Path) -> None:
    tiles = scene(f"{bucket}/tiles.tif", f"{bucket}/label.tif")
    strips = scene(f"{bucket}/strips.tif")
    local = scene(str(tiny_data / "image_val_a.tif"))
    missing = scene(f"{bucket}/missing.tif")
    told = scene(f"{bucket}/tiles.tif")
    told.raster_source = RasterioSourceConfig(uris=f"{bucket}/tiles.tif", allow_streaming=False)
    streaming.stream_tiles(pipeline([tiles, strips], [local, missing, told]))
    assert tiles.raster_source.allow_streaming
    assert tiles.label_source.raster_source.allow_streaming
    for other in (strips, local, missing, told):
        assert not other.raster_source.allow_streaming
    assert proxy.received < 2_000_000


def test_streaming_can_be_turned_off(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(Env.STREAM, "0")
    tiles = scene(f"{bucket}/tiles.tif")
    streaming.stream_tiles(pipeline([tiles]))
    assert not tiles.raster_source.allow_streaming
    assert not streaming.streamed_for_check(tiles).raster_source.allow_streaming


def test_what_is_read_again_or_by_forked_processes_is_downloaded(bucket: str, proxy: Proxy) -> None:
    sampling = WindowSamplingConfig(size=300, stride=300)
    tiles = scene(f"{bucket}/tiles.tif")
    config = pipeline([tiles], sampling=sampling, data={"num_workers": 2})
    streaming.stream_tiles(config)
    assert not tiles.raster_source.allow_streaming
    assert streaming.check(config) == []
    tiles.raster_source = RasterioSourceConfig(uris=f"{bucket}/tiles.tif", allow_streaming=True)
    (error,) = streaming.check(config)
    assert says(str(error), "data.num_workers…2…allow_streaming; …num_workers…")
    assert streaming.check(pipeline([tiles], sampling=sampling)) == []
    assert streaming.check(pipeline([tiles], data={"num_workers": 2})) == []


@pytest.mark.parametrize("layout", ["tiles", "strips"])
def test_the_check_downloads_nothing(bucket: str, proxy: Proxy, layout: str) -> None:
    checker = checker_of(CLASSES)
    one = scene(f"{bucket}/{layout}.tif", f"{bucket}/label.tif")
    checker.check_scene(one, "train", None)
    assert checker.errors == []
    assert checker.labels._counts["train"].all()
    # A window of strips takes whole rows.
    most = {"tiles": 0.5, "strips": 0.9}[layout]
    assert proxy.received < most * 4 * SIZE * SIZE
    assert not any(f"HEAD /imagery/{layout}" in head for head in proxy.heads), "boto3 downloads"


def test_the_check_finds_what_is_wrong(bucket: str, proxy: Proxy, s3: S3Server) -> None:
    whole = (s3.data / "imagery" / "tiles.tif").read_bytes()
    (s3.data / "imagery" / "cut.tif").write_bytes(whole[: len(whole) // 2])
    for name, message in (
        ("missing", r"s3://imagery/missing\.tif .*not exist; .*URI"),
        ("cut", r"s3://imagery/cut\.tif cannot be read: .*; .*complete"),
    ):
        checker = checker_of(CLASSES)
        checker.check_scene(scene(f"{bucket}/{name}.tif"), "train", None)
        (error,) = checker.errors
        assert re.search(message, str(error))


def test_pixels(bucket: str, proxy: Proxy, image: np.ndarray, tmp_path: Path) -> None:
    found = read(f"{bucket}/tiles.tif", Box(700, 650, 1000, 950), tmp_path)
    np.testing.assert_array_equal(found, image[:, 700:1000, 650:950].transpose(1, 2, 0))
    assert proxy.received < 3_000_000
    heads = [head for head in proxy.heads if "tiles.tif" in head]
    assert all(head.startswith("GET /imagery/tiles.tif ") for head in heads), "path style"
    assert all("x-amz-request-payer" not in head.lower() for head in heads)


def test_a_scene_of_several_files(
    bucket: str, proxy: Proxy, s3: S3Server, image: np.ndarray, monkeypatch: Any, tmp_path: Path
) -> None:
    """Its files are read where they lie, with the credentials that boto3 finds; or downloaded."""
    folder = s3.data / "imagery"
    scenes.write(folder / "left.tif", image[:, :, :1600])
    scenes.write(folder / "right.tif", image[:, :, 1600:], left=1600)
    uris = [f"{bucket}/left.tif", f"{bucket}/right.tif"]
    both = [
        SceneConfig(id=str(len(files)), raster_source=RasterioSourceConfig(uris=files))
        for files in (uris, [*uris, f"{bucket}/strips.tif"])
    ]
    streaming.stream_tiles(pipeline(both))
    assert [scene.raster_source.allow_streaming for scene in both] == [True, False]
    _use_profile(s3, monkeypatch, tmp_path)
    built = both[0].raster_source.build(str(tmp_path))
    assert built.session is not None
    for window in (Box(1400, 1450, 1700, 1750), Box(2900, 2900, 3020, 3010)):
        want = np.zeros((*window.size, 3), np.uint8)
        part = image[:, window.ymin : window.ymax, window.xmin : window.xmax].transpose(1, 2, 0)
        want[: part.shape[0], : part.shape[1]] = part
        np.testing.assert_array_equal(built[window], want)
    assert proxy.received < 4_000_000
    whole = RasterioSourceConfig(uris=uris).build(str(tmp_path))[Box(0, 0, SIZE, SIZE)]
    np.testing.assert_array_equal(whole, image.transpose(1, 2, 0))


def test_the_reader_pays(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    read(f"{bucket}/tiles.tif", Box(0, 0, 64, 64), tmp_path)
    heads = [head for head in proxy.heads if "GET /imagery/tiles.tif" in head]
    assert heads
    assert all("x-amz-request-payer: requester" in head.lower() for head in heads)


def test_virtual_hosts(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(Env.S3_PATH_STYLE, "0")
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url.replace("127.0.0.1", "localhost"))
    prepare(monkeypatch)
    with pytest.raises(rasterio.errors.RasterioIOError):  # the server knows no virtual hosts
        read(f"{bucket}/tiles.tif", Box(0, 0, 64, 64), tmp_path)
    assert any("host: imagery.localhost" in head.lower() for head in proxy.heads)


def _use_profile(s3: S3Server, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Move the credentials from the environment to a file."""
    keys = s3.environ["AWS_ACCESS_KEY_ID"], s3.environ["AWS_SECRET_ACCESS_KEY"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    text = "[team]\naws_access_key_id = {}\naws_secret_access_key = {}\n"
    (folder / "credentials").write_text(text.format(*keys))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "team")
    s3_objects._clients.clear()


def test_credentials_of_a_profile(
    bucket: str, proxy: Proxy, s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _use_profile(s3, monkeypatch, tmp_path)
    assert read(f"{bucket}/tiles.tif", Box(0, 0, 64, 64), tmp_path).any()
    assert storage.exists(f"{bucket}/tiles.tif")


def test_credentials_of_a_workload_identity(
    bucket: str, proxy: Proxy, s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a pod of an EKS service account has them: a token in a file and the name of a role.

    The security token service, which is Amazon's alone, answers with the S3 server's own keys.
    """
    keys = s3.environ["AWS_ACCESS_KEY_ID"], s3.environ["AWS_SECRET_ACCESS_KEY"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "token").write_text("the pod's token")
    with _TokenService(*keys) as (url, asked):
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/stages")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        s3_objects._clients.clear()
        assert storage.exists(f"{bucket}/tiles.tif")
        assert read(f"{bucket}/tiles.tif", Box(0, 0, 64, 64), tmp_path).any()
    assert all("the+pod%27s+token" in body and "role%2Fstages" in body for body in asked)
    assert asked


def test_a_server_that_goes_away(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = RasterioSourceConfig(uris=f"{bucket}/tiles.tif", allow_streaming=True)
    built = source.build(str(tmp_path))
    config = {"dataset": {"train_scenes": [{"raster_source": source.dict()}]}}
    (tmp_path / "pipeline-config.json").write_text(json.dumps(config))
    monkeypatch.setenv(Env.RUN_URI, str(tmp_path))
    proxy.away.set()
    with pytest.raises(rasterio.errors.RasterioIOError) as within:
        built[Box(1500, 1500, 1600, 1600)]
    known = explain(within.value)
    assert isinstance(known, StorageUnavailable)
    assert f"{bucket}/tiles.tif" in str(known)
    with pytest.raises(rasterio.errors.RasterioIOError) as at_first:
        read(f"{bucket}/strips.tif", Box(0, 0, 64, 64), tmp_path)
    assert isinstance(explain(at_first.value), StorageUnavailable)
    with pytest.raises(StorageUnavailable):
        checker_of(CLASSES).check_scene(scene(f"{bucket}/strips.tif"), "train", None)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {"AWS_VIRTUAL_HOSTING": "TRUE"}),
        (
            {"AWS_ENDPOINT_URL": "https://s3.example:9000/"},
            {
                "AWS_VIRTUAL_HOSTING": "FALSE",
                "AWS_S3_ENDPOINT": "s3.example:9000",
                "AWS_HTTPS": "YES",
                "AWS_REGION": "us-east-1",
            },
        ),
        (
            {
                "AWS_ENDPOINT_URL": "http://s3.example",
                Env.S3_PATH_STYLE: "0",
                "AWS_DEFAULT_REGION": "eu-central-1",
                "AWS_NO_SIGN_REQUEST": "1",
                "AWS_CA_BUNDLE": "/ca.pem",
            },
            {
                "AWS_VIRTUAL_HOSTING": "TRUE",
                "AWS_S3_ENDPOINT": "s3.example",
                "AWS_HTTPS": "NO",
                "AWS_REGION": "eu-central-1",
                "AWS_NO_SIGN_REQUEST": "YES",
                "CURL_CA_BUNDLE": "/ca.pem",
            },
        ),
    ],
)
def test_settings(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], expected: dict[str, str]
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    found = {
        name: value
        for name, value in gdal.settings().items()
        if name.startswith("AWS_") or name == "CURL_CA_BUNDLE"
    }
    assert found == expected


@pytest.mark.parametrize(
    "config",
    [
        "[profile lab]\nregion = fr-par\nendpoint_url = {}\n",
        "[profile lab]\nregion = fr-par\nservices = a\n[services a]\ns3 =\n  endpoint_url = {}\n",
    ],
    ids=["of all services", "of S3"],
)
def test_a_server_that_a_profile_names(
    bucket: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    (tmp_path / "config").write_text(config.format(s3.endpoint))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_REGION")
    # Where a profile is named, the environment's keys are not looked for.
    credentials = tmp_path / "credentials"
    key, secret = s3.environ["AWS_ACCESS_KEY_ID"], s3.environ["AWS_SECRET_ACCESS_KEY"]
    credentials.write_text(f"[lab]\naws_access_key_id={key}\naws_secret_access_key={secret}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    s3_objects._clients.clear()
    assert gdal.settings()["AWS_REGION"] == s3_objects.client().meta.region_name == "fr-par"
    monkeypatch.setenv("AWS_REGION", "us-east-1")  # the only one that this server accepts
    s3_objects._clients.clear()
    prepare(monkeypatch)
    assert storage.exists(f"{bucket}/tiles.tif")
    assert read(f"{bucket}/tiles.tif", Box(0, 0, 20, 20), tmp_path).any()


class _TokenService:
    """A security token service on loopback; gives its URL and the bodies of its requests."""

    def __init__(self, key: str, secret: str):
        asked: list[str] = []
        answer = (
            '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            "<AssumeRoleWithWebIdentityResult><Credentials>"
            f"<AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>"
            "<SessionToken></SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>"
            "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        ).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.send_response(200)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._asked, self._server = asked, HTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> tuple[str, list[str]]:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}", self._asked

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
