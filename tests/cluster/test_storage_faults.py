"""Storage that is full or slow while a run on the cluster uses it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cluster.node import ADDRESS
from cluster.s3 import BUCKET, S3
from cluster.sites import SiteFactory, upload_tiny
from cluster.team import Site
from tcpproxy import Proxy, proxy_to

pytestmark = pytest.mark.timeout(1800)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system in memory; needs root."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_storage_gets_full(
    site_factory: SiteFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model does not fit any more: the run ends with code 28 and says so."""
    site: Site = site_factory("full")
    if site.bed.node is None:
        pytest.skip("NOT TESTED: full storage, because this cluster's storage is not ours")
    with small_disk(tmp_path, "4m"):
        small = S3(tmp_path / "s3", ADDRESS, 7071)
        small.start()
        try:
            bed = replace(site.bed, endpoint=small.endpoint, bucket=f"s3://{BUCKET}", s3=small)
            site = replace(site, bed=bed)
            monkeypatch.setenv("AWS_ENDPOINT_URL", small.endpoint)
            upload_tiny(bed)
            site.write_tiny({})
            run = site.submit("tiny")
            record = site.wait(run)
            assert record["state"] == "Failed", site.report(run)
            assert record["exitCode"] == 28, record["message"]
            assert "no space or quota left" in record["message"]
            assert "\n" not in record["message"]
        finally:
            small.stop()


def test_slow_storage_that_goes_away_in_the_middle_of_an_upload(site_factory: SiteFactory) -> None:
    """A run through a slow connection takes its time; what went up half is sent again."""
    site: Site = site_factory("slow")
    if site.bed.node is None:
        pytest.skip("NOT TESTED: slow storage, because this cluster's storage is not ours")
    with proxy_to(site.bed.endpoint, host=ADDRESS) as proxy:
        proxy.bytes_per_second = 300_000
        cut = Cut(proxy, "model-bundle.zip", 1_000_000)
        site.write_tiny({"storage": {"endpoint": proxy.url}})
        run = site.submit("tiny")
        assert site.wait(run)["state"] == "Succeeded", site.report(run)
        assert cut.done, "storage went away while a file went up"
        assert sum(cut.begins(head) for head in proxy.heads) >= 2


class Cut:
    """Takes a proxy away for some seconds, once, after so many bytes of a file have gone up.

    Args:
        file: how the name of the uploaded object ends.
        after: bytes of it that go through.
    """

    def __init__(self, proxy: Proxy, file: str, after: int, seconds: float = 15.0):
        self._proxy, self._file, self._left, self._seconds = proxy, file, after, seconds
        self._going = self.done = False
        proxy.spoil_request = self._look

    def begins(self, head: str) -> bool:
        """Whether a request's head is that of the upload."""
        method, path = head.split(" ", 2)[:2]
        return method == "PUT" and urlsplit(path).path.endswith(self._file)

    def _look(self, data: bytes) -> bytes:
        if self.done:
            return data
        self._going |= any(self.begins(head) for head in self._proxy.heads)
        self._left -= len(data) if self._going else 0
        if self._left < 0:
            self.done = True
            self._proxy.away.set()
            threading.Timer(self._seconds, self._proxy.away.clear).start()
        return data
