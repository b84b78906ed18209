"""The plan that `rastervision run kubernetes` makes of a pipeline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rastervision.pipeline.pipeline import Pipeline
from rastervision.pipeline.pipeline_config import PipelineConfig


@pytest.mark.parametrize(("given", "splits"), [(1, 4), (2, 2)])
def test_splits_of_values_hold_where_none_are_given(
    given: int, splits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rastervision.kubernetes.runner import Settings, prepare  # a plugin: after pipeline

    monkeypatch.chdir(tmp_path)
    Path("values.yaml").write_text("stages: {chip: {splits: 4}, predict: {splits: 4}}\n")
    settings = Settings(image="registry.example.com/x:1", namespace="n", values=("values.yaml",))
    root = "s3://bucket/exp"
    pipeline = Pipeline(PipelineConfig(root_uri=root), str(tmp_path))
    submission = prepare(settings, f"{root}/pipeline-config.json", pipeline, (), given, "exp")
    assert {submission.plan.stage(name).splits for name in ("chip", "predict")} == {splits}


def test_the_command_that_follows_the_run_names_its_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rastervision.kubernetes.runner import KubernetesRunner, Settings

    from rvk8s import cluster, submit

    settings = Settings(image="registry.example.com/x:1", namespace="n", context="my prod")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Settings, "read", classmethod(lambda cls: settings))
    monkeypatch.setattr(cluster.Cluster, "connect", classmethod(lambda cls, **_: None))
    monkeypatch.setattr(submit, "send", lambda *_: [])
    pipeline = Pipeline(PipelineConfig(root_uri="s3://bucket/exp"), str(tmp_path))
    KubernetesRunner().run("s3://bucket/exp/pipeline-config.json", pipeline, [])
    said = capsys.readouterr().err
    assert re.search(r": rvk8s status raster-vision-\S+ -w -n n --context 'my prod'", said)
