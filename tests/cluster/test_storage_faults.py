"""Storage that is full or slow while a run on the cluster uses it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cluster.node import ADDRESS
from cluster.s3 import BUCKET, S3
from cluster.sites import SiteFactory, upload_tiny
from cluster.team import Site
from tcpproxy import proxy_to

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


@pytest.mark.endurance
def test_slow_storage(site_factory: SiteFactory) -> None:
    """A run through a slow connection takes its time and succeeds."""
    site: Site = site_factory("slow")
    if site.bed.node is None:
        pytest.skip("NOT TESTED: slow storage, because this cluster's storage is not ours")
    with proxy_to(site.bed.endpoint, host=ADDRESS) as proxy:
        proxy.bytes_per_second = 300_000
        site.write_tiny({"storage": {"endpoint": proxy.url}})
        run = site.submit("tiny")
        assert site.wait(run)["state"] == "Succeeded", site.report(run)
        assert proxy.sent > 1e6, "the model went up through it"
