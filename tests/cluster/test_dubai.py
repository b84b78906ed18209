"""Real scenes on a real cluster: the scores are those of one machine."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster.sites import SiteFactory
from cluster.team import gang, shape

from rvk8s import storage

ROOT = Path(__file__).parents[2]
#: Seconds: a run shares two cores with everything else.
pytestmark = pytest.mark.timeout(1800)
DUBAI = {
    # Small enough for two shared cores; large enough that scores are not chance.
    "train_ids": "tile1,tile2",
    "windows": 240,
    "chip_sz": 96,
    "num_epochs": 2,
    "tta": False,
    # 5.4 million weights; the experiment's own 30.9 million take 2.2 times the CPU time.
    "arch": "deeplabv3",
    "backbone": "squeezenet1_1",
}


def test_dubai_scores_as_on_one_machine(
    site_factory: SiteFactory, dubai: Path, tmp_path: Path
) -> None:
    """Scenes in S3; `rvk8s run` with 4 ranks on this machine, beside 2 pods x 2 ranks."""
    site = replace(site_factory("dubai"), forked=False)
    raw = f"{site.bed.bucket}/dubai"
    storage.upload_dir(dubai, raw)
    shutil.copytree(ROOT / "examples" / "dubai", site.folder / "dubai")
    experiment = {"module": "dubai/experiment.py", "args": {"raw_uri": raw, **DUBAI}}
    site.write_project({"dubai": experiment})
    local = tmp_path / "runs"
    site.rvk8s("run", "dubai", "--ranks", "4", "--root-uri", str(local), timeout=1500)
    (here,) = (path.name for path in local.iterdir() if path.is_dir())
    with gang():
        run = site.submit("dubai", "--gpus", "4")
        record = site.wait(run, 1500)
    site.check_whole(run)
    assert shape(record) == (4, 2, 4)
    pictures = storage.list_files(f"{site.root_uri}/{run}/eval/pictures")
    assert pictures
    assert all(name.endswith(".png") for name in pictures)
    there, at_home = site.scores(run), site.scores(here, str(local))
    found = [scores["overall"]["macroF1"] for scores in (there, at_home)]
    print(f"macro F1 on the cluster {found[0]:.4f}, on one machine {found[1]:.4f}")
    assert abs(found[0] - found[1]) <= 0.02
    # Two epochs end elsewhere on each kind of processor.
    assert min(found) > 2 * _of_one_class(there), "it has learned to tell classes apart"


def _of_one_class(scores: dict[str, Any]) -> float:
    """The macro F1 of the most frequent class, predicted everywhere."""
    support = [one["support"] for one in scores["classes"] if one["support"]]
    share = max(support) / sum(support)
    return float(2 * share / (1 + share) / len(support))
