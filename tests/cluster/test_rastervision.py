"""`rastervision run kubernetes` on a real cluster, with Raster Vision's own PyTorch backend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cluster.sites import SiteFactory
from cluster.team import Site

from rvk8s import storage

pytestmark = pytest.mark.timeout(1800)
EXPERIMENT = Path(__file__).parent / "rvbackend" / "experiment.py"


def test_raster_visions_own_backend(site_factory: SiteFactory) -> None:
    site: Site = site_factory("rv")
    site.write_project({"unused": {"module": str(EXPERIMENT), "args": {"raw_uri": "x"}}})
    root = f"{site.root_uri}/exp"
    command = [str(Path(sys.executable).with_name("rastervision")), "run", "kubernetes"]
    command += [str(EXPERIMENT), "-a", "raw_uri", f"{site.bed.bucket}/tiny", "-a", "root_uri", root]
    done = subprocess.run(
        command, cwd=site.folder, env=site.environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    job = next(line.split()[0] for line in done.stdout.splitlines() if line.startswith("job.batch"))
    run = job.partition("/")[2]
    site.rvk8s("wait", run, "--for=ended", "--timeout=900s", "--root-uri", root, check=False)
    record = site.read_json(f"{root}/{run}/run.json")
    assert record is not None
    assert record["state"] == "Succeeded", site.report(run)
    files = storage.list_files(root)
    assert "train/model-bundle.zip" in files
    assert "bundle/model-bundle.zip" in files
    assert any(name.startswith("predict/") for name in files)
    assert any(name.startswith("eval/") for name in files)
