"""Values of the chart from presets, rvk8s.yaml and --values: which is stronger, and where it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from said import says

from rvk8s import cli, project, yaml_loader
from rvk8s.errors import InputErrors
from rvk8s.project.values_files import read_layers
from rvk8s.values import chart_dir, deep_merged

ROOT = Path(__file__).parents[2]
PRESETS = {path.stem: path for path in (ROOT / "helm/rvk8s/presets").glob("*.yaml")}
HEAD = "apiVersion: rvk8s/v1\nrootUri: s3://b/runs\nimage: r.io/x:1\n"
EXPERIMENT = "experiments: {one: {module: exp.py, variants: {v: {}}}}\n"
VALUES = """\
values:
  storage: {endpoint: "https://minio.lan:9000", secretName: mine, region: lan}
  pools:
    gpu: {gpusPerNode: 2, nccl: {DEBUG: INFO}}
"""


def written(folder: Path, middle: str) -> Path:
    (folder / "exp.py").write_text("def get_config(runner): ...\n")
    path = folder / "rvk8s.yaml"
    path.write_text(HEAD + middle + EXPERIMENT)
    return path


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_weaker_than_the_file(name: str, tmp_path: Path) -> None:
    preset = yaml_loader.load(PRESETS[name].read_text())
    loaded = project.load(written(tmp_path, f"preset: {name}\n{VALUES}"))
    pool = preset["pools"]["gpu"]
    for values in (loaded.values, *(one.values for one in loaded.experiments)):
        assert values["storage"] == {
            "endpoint": "https://minio.lan:9000",
            "secretName": "mine",
            "region": "lan",
        }
        gpu = values["pools"]["gpu"]
        assert gpu["gpusPerNode"] == 2
        assert gpu["nccl"] == {**pool.get("nccl", {}), "DEBUG": "INFO"}
        assert gpu["nodeSelector"] == pool["nodeSelector"]
        assert gpu["tolerations"] == pool["tolerations"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_nothing_of_storage(name: str) -> None:
    assert set(yaml_loader.load(PRESETS[name].read_text())) == {"pools"}


def test_a_preset_of_one_s_own(tmp_path: Path) -> None:
    (tmp_path / "pools.yaml").write_text("queue: q\npools: {gpu: {gpusPerNode: 8}}\n")
    loaded = project.load(written(tmp_path, f"preset: pools.yaml\n{VALUES}"))
    assert loaded.values["queue"] == "q"
    assert loaded.values["pools"]["gpu"]["gpusPerNode"] == 2
    loaded = project.load(written(tmp_path, "preset: ./pools.yaml\n"))
    assert loaded.values == {"queue": "q", "pools": {"gpu": {"gpusPerNode": 8}}}


@pytest.mark.parametrize(
    ("preset", "line"),
    [
        ("gkee", "rvk8s.yaml:4: preset: …gke…"),
        ("minikube", "rvk8s.yaml:4: preset: …preset…minikube…"),
        ("12", "rvk8s.yaml:4: preset: …12…give…string…"),
        ('""', "rvk8s.yaml:4: preset: …empty…value…"),
        ("no.yaml", "rvk8s.yaml:4: preset: …no.yaml…{}…"),
        ("list.yaml", "list.yaml: …mapping…values…"),
        ("twice.yaml", "twice.yaml:2: a: …1…rename…remove…"),
    ],
)
def test_mistakes(preset: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.yaml").write_text("[a]\n")
    (tmp_path / "twice.yaml").write_text("a: 1\na: 2\n")
    written(tmp_path, f"preset: {preset}\n")
    with pytest.raises(InputErrors) as caught:
        project.load(Path("rvk8s.yaml"))
    (said,) = str(caught.value).splitlines()
    assert says(said, line.format(tmp_path))


def test_what_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """preset < values < --values: the order of `helm -f preset -f values -f other`."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path, f"preset: nvidia\n{VALUES}")
    (tmp_path / "more.yaml").write_text("pools: {gpu: {cpuPerGpu: '3'}}\n")
    with pytest.raises(SystemExit) as exited:
        cli.main(["plan", "one", "--gpus", "4", "--values", "more.yaml", "-o", "values"])
    assert exited.value.code == 0
    values = yaml_loader.load(capfd.readouterr().out)
    layers = [yaml_loader.load(text) for text in (PRESETS["nvidia"].read_text(), VALUES)]
    expected = deep_merged(layers[0], layers[1]["values"])
    expected["pools"]["gpu"]["cpuPerGpu"] = "3"
    assert {key: values[key] for key in ("pools", "storage")} == json.loads(json.dumps(expected))


@pytest.mark.parametrize(
    ("middle", "words", "shape"),
    [
        ("", [], (8, 1, 6, 1)),  # train's GPUs, predict's, its splits, chip's
        ("", ["--gpus", "0"], (0, 0, 6, 1)),
        ("", ["--gpus", "4"], (4, 1, 6, 1)),
        ("", ["--splits", "1"], (8, 1, 1, 1)),
        ("gpus: 0, splits: {predict: 1}, ", [], (0, 0, 1, 1)),
        ("gpus: 0, splits: 3, ", ["--gpus", "8", "--splits", "chip=1"], (8, 1, 3, 1)),
    ],
)
def test_none_and_one_are_stronger_than_values_where_they_are_asked_for(
    middle: str,
    words: list[str],
    shape: tuple[int, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, "namespace: n\n")
    path.write_text(path.read_text().replace("{module", f"{{{middle}module"))
    values = "stages: {train: {gpus: 8}, predict: {gpus: 1, splits: 6}}\n"
    (tmp_path / "more.yaml").write_text(values)
    with pytest.raises(SystemExit) as exited:
        cli.main(["plan", "one", "--values", "more.yaml", *words, "-o", "json"])
    assert exited.value.code == 0
    stages = {one["name"]: one for one in json.loads(capfd.readouterr().out)["stages"]}
    train, predict = stages["train"], stages["predict"]
    found = (train["gpus"], predict["gpus"], predict["splits"], stages["chip"]["splits"])
    assert found == shape


LINES = """\
apiVersion: rvk8s/v1
rootUri: s3://b/runs
image: r.io/x:1
preset: own.yaml
values:
  storage:
    endpoint: minio:9000
  pools:
    gpu: {gpusPerNode: 2, tolerations: [{effect: never}]}
experiments:
  one:
    module: exp.py
    splits:
      chip: 5000
"""


@pytest.mark.parametrize(
    ("words", "starts"),
    [
        (
            ["one"],
            [
                "own.yaml:2: queue: ",
                "rvk8s.yaml:7: values.storage.endpoint: 'minio:9000'…",
                "rvk8s.yaml:9: values.pools.gpu.tolerations.0.effect: value…must…",
                "rvk8s.yaml:14: experiments.one.splits.chip: ",
                "more.yaml:1: stoage: …storage…",
            ],
        ),
        (
            ["one", "--splits", "2000"],
            [
                "own.yaml:2: queue: ",
                "rvk8s.yaml:7: values.storage.endpoint: 'minio:9000'…",
                "rvk8s.yaml:9: values.pools.gpu.tolerations.0.effect: value…must…",
                "values.stages.chip.splits (--splits): ",
                "values.stages.predict.splits (--splits): ",
                "more.yaml:1: stoage: …storage…",
            ],
        ),
    ],
)
def test_what_the_chart_refuses_has_its_line(
    words: list[str],
    starts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp.py").write_text("def get_config(runner): ...\n")
    (tmp_path / "rvk8s.yaml").write_text(LINES)
    (tmp_path / "own.yaml").write_text("# a preset\nqueue: Bad Name\n")
    (tmp_path / "more.yaml").write_text("stoage: {}\n")
    with pytest.raises(SystemExit) as exited:
        cli.main(["submit", *words, "--values", "more.yaml", "--dry-run"])
    assert exited.value.code == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == len(starts)
    for start in starts:
        assert any(says(line, f"error: {start}…") for line in lines), lines


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (["one"], "rvk8s.yaml:7: experiments.one.gpus: 3…whole…nodes…2…"),
        (["one-v"], "rvk8s.yaml:8: experiments.one.variants.v.gpus: 5…GPUs…fill…"),
        (["one", "--gpus", "7"], "values.stages.train.gpus (--gpus): 7…GPUs…fill…"),
        (["one", "--gpus", "2", "--pool", "x"], "values.stages.train.pool (--pool): …no pool x"),
        (["one", "--gpus", "2", "--image", "a b"], "values.image.stage (--image): 'a b'"),
    ],
)
def test_an_experiment_s_own_line(
    words: list[str],
    start: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp.py").write_text("def get_config(runner): ...\n")
    experiments = (
        "experiments:\n  one: {module: exp.py,\n    gpus: 3,\n    variants: {v: {gpus: 5}}}\n"
    )
    values = "values: {pools: {gpu: {gpusPerNode: 2}}}\n"
    (tmp_path / "rvk8s.yaml").write_text(HEAD.replace("image", values + "image") + experiments)
    with pytest.raises(SystemExit) as exited:
        cli.main(["plan", *words, "-o", "values"])
    assert exited.value.code == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert says(said, f"error: {start}…")


def test_the_layers_know_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, f"preset: eks\n{VALUES}")
    own, preset = project.load(Path("rvk8s.yaml")).layers
    path = ("pools", "gpu", "nccl", "DEBUG")
    assert own.where(path) == "rvk8s.yaml:8: values.pools.gpu.nccl.DEBUG"
    assert preset.where(path) is None
    toleration = ("pools", "gpu", "tolerations", "0", "key")
    where = r"preset eks:\d+: pools\.gpu\.tolerations\.0\.key"
    assert re.fullmatch(where, str(preset.where(toleration)))
    assert preset.where(("pools", "gpu", "tolerations", "1")) is None
    (tmp_path / "a.yaml").write_text("queue: a\n")
    (tmp_path / "b.yaml").write_text("queue: b\n")
    layers = read_layers(["a.yaml", "b.yaml"])
    assert [layer.where(("queue",)) for layer in layers] == ["b.yaml:1: queue", "a.yaml:1: queue"]


def test_the_guide_s_file_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/guide/cluster.md").read_text(), re.S)
    (tmp_path / "rvk8s.yaml").write_text(text)
    (tmp_path / "experiments").mkdir()
    module = tmp_path / "experiments" / "segmentation.py"
    module.write_text("def get_config(runner, data_uri, validation): ...\n")
    loaded = project.load(tmp_path / "rvk8s.yaml")
    assert loaded.values["storage"] == {"region": "eu-central-1"}
    assert "karpenter.k8s.aws/instance-gpu-name" in loaded.values["pools"]["gpu"]["nodeSelector"]


def test_presets_are_in_the_chart_s_folder() -> None:
    assert {path.stem for path in (chart_dir() / "presets").glob("*.yaml")} == set(PRESETS)
    assert set(PRESETS) == {"eks", "gke", "aks", "nvidia"}
