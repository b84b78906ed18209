"""The wheel, and not only a developer's install, is one that Raster Vision finds its plugins in."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

FIND = """
import json
from rastervision.pipeline import registry_
config = registry_.get_config("fastai_semantic_segmentation_backend")
import rastervision.fastai_backend as backend, rastervision.kubernetes.stage as stage
import rvk8s.project as project
print(json.dumps({
    "config": config.__name__,
    "files": [m.__file__ for m in (backend, stage, project)],
    "s3": registry_.get_file_system("s3://bucket/key").__module__,
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return path


def test_wheel_holds_both_packages_and_their_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "rastervision/__init__.py" not in names  # a namespace: others are in it too
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"rvk8s", "rastervision"}
    for name in (
        "rvk8s/project/project.schema.json",
        "rvk8s/project/templates/segmentation/rvk8s.yaml",
        "rvk8s/project/templates/classification/experiments/classification.py",
        "rvk8s/charts/rvk8s/Chart.yaml",
        "rvk8s/charts/rvk8s/values.schema.json",
        "rvk8s/charts/rvk8s/templates/_names.tpl",
        "rvk8s/charts/rvk8s/presets/eks.yaml",
        "rastervision/fastai_backend/config.py",
        "rastervision/kubernetes/stage.py",
    ):
        assert name in names


def test_raster_vision_finds_the_plugins_of_the_installed_wheel(
    wheel: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)  # what installing a pure wheel is
    environ = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", FIND], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["config"] == "FastaiSemanticSegmentationConfig"
    assert found["s3"] == "rastervision.kubernetes.s3"
    assert all(Path(file).is_relative_to(site) for file in found["files"])


def test_the_installed_wheel_has_the_presets(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    text = "apiVersion: rvk8s/v1\nimage: r.io/x:1\npreset: gke\nexperiments: {a: {module: a.py}}\n"
    (tmp_path / "rvk8s.yaml").write_text(text)
    (tmp_path / "a.py").write_text("def get_config(runner): ...\n")
    command = [sys.executable, "-m", "rvk8s.cli", "plan", "a", "-o", "values"]
    environ = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [*command, "--root-uri", "s3://b"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "cloud.google.com/gke-accelerator: nvidia-l4" in done.stdout
    where = [sys.executable, "-c", "import rvk8s; print(rvk8s.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert Path(found.stdout.strip()).is_relative_to(site)
