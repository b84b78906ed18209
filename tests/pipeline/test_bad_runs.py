"""What a user sees when a run meets bad files, a bad place or a machine that is too small."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import spoil
from bench import Bench, check_errors, contents, outcome
from s3server import S3Server
from said import says

from rvk8s.contract import STAGES, ExitCode

DENIED = "AWS_ACCESS_KEY_ID…AWS_SECRET_ACCESS_KEY…AWS_PROFILE…"
NO_ANSWER = "AWS_ENDPOINT_URL…try again"


@dataclass(frozen=True)
class Prepared:
    """A run that is done, of a project; and a copy of its folder."""

    project: Path
    run: Path
    copy: Path

    def restore(self) -> None:
        shutil.rmtree(self.run)
        shutil.copytree(self.copy, self.run)


@dataclass(frozen=True)
class Row:
    """Bad files in a run that is done, and the command that goes on with it.

    Attributes:
        spoil: damages the run.
        words: of the command line, after --run-id ID.
        error: the line; {run} and {id} stand for its folder and name.
        name: the experiment.
    """

    spoil: Callable[[Path], None]
    words: tuple[str, ...]
    error: str
    name: str = "tiny"


ROWS = {
    "corrupt checkpoint": Row(
        spoil.damaged_checkpoint,
        (),
        "stage train: …{run}/train/last.pt…damaged…remove last.pt…",
    ),
    "checkpoint of another architecture": Row(
        spoil.checkpoint_of_unet,
        (),
        "stage train: …{run}/train/last.pt…arch unet…deeplabv3; …{run}/train …",
    ),
    "corrupt model bundle at predict": Row(
        spoil.damaged_bundle,
        ("--rerun", "predict"),
        "stage predict: …{run}/train/model-bundle.zip…damaged…--rerun train",
    ),
    "no model bundle at predict": Row(
        spoil.no_bundle,
        ("--rerun", "predict"),
        "stage predict: …{run}/train/model-bundle.zip…not exist…--rerun train",
    ),
    "no model bundle at bundle": Row(
        spoil.no_bundle,
        ("--rerun", "bundle"),
        "stage bundle: {run}/train/model-bundle.zip…not exist…--rerun train",
    ),
    "chips missing at train": Row(
        spoil.no_chips,
        ("--rerun", "train"),
        "stage train: …{run}/chip …missing…--rerun chip",
    ),
    "damaged chips": Row(
        spoil.damaged_chips,
        ("--rerun", "train"),
        "stage train: {run}/chip/train-0000-0002-of-0002: "
        "…images.raw…110592 bytes, not 221184; …--rerun chip",
    ),
    "a stage before --from that is not done": Row(
        spoil.no_train_marker,
        ("--from", "predict"),
        "--from: …train of {id}…not done; …--from train",
    ),
    "no pipeline config": Row(
        spoil.no_config,
        ("--rerun", "eval"),
        "stage chip: {run}/pipeline-config.json: …missing…--rerun configure",
    ),
    "damaged pipeline config": Row(
        spoil.damaged_config,
        ("--rerun", "chip"),
        "stage chip: {run}/pipeline-config.json: …damaged…--rerun configure",
    ),
    "damaged run.json": Row(spoil.damaged_record, (), "{run}/run.json: …damaged…new run"),
    "a run of another experiment": Row(
        spoil.nothing,
        (),
        "--run-id: {id} is a run of tiny, not of tiny-small…`rvk8s run tiny …`",
        name="tiny-small",
    ),
    "other arguments than it was begun with": Row(
        spoil.nothing,
        ("-a", "batch_sz", "2", "--splits", "chip=2"),
        '--run-id: {id} …batch_sz not given (now "2"), chip…1…(now 2); '
        "…`rvk8s run tiny …`…--rerun train…",
    ),
}


@pytest.fixture(scope="module")
def done(table: Bench) -> Prepared:
    project, root = table.project("prepared", {}), table.folder / "prepared"
    found = table.run(project, "run", "tiny", "--root-uri", str(root))
    assert found.code == 0, found.text
    (run,) = root.iterdir()
    copy = table.folder / "copy"
    shutil.copytree(run, copy)
    return Prepared(project, run, copy)


@pytest.mark.parametrize("name", ROWS)
def test_a_run_that_is_there(name: str, table: Bench, done: Prepared) -> None:
    row, run = ROWS[name], done.run
    done.restore()
    row.spoil(run)
    before = contents(run)
    words = ["--root-uri", str(run.parent), "--run-id", run.name, *row.words]
    found = table.run(done.project, "run", row.name, *words)
    assert found.code == ExitCode.BAD_INPUT, found.text
    check_errors(found, [row.error], {"run": str(run), "id": run.name})
    # What --rerun names is forgotten, as it says; all else is as it was, and nothing is new.
    first = row.words[1] if "--rerun" in row.words else "end"
    forgotten = STAGES[STAGES.index(first) :] if first in STAGES else ()
    assert contents(run) == {k: v for k, v in before.items() if k.split("/")[0] not in forgotten}


def test_weights_that_cannot_be_downloaded(table: Bench, tmp_path: Path) -> None:
    project = table.project("pretrained", {"model": {"pretrained": True}})
    words = ["--root-uri", str(tmp_path / "runs")]
    environ = {"TORCH_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
    found = table.run(project, "run", "tiny", *words, **environ)
    assert found.code == ExitCode.BAD_INPUT
    error = "stage train: model.pretrained: …squeezenet1_1…urlopen…; …false…model.pretrained_uri…"
    check_errors(found, [error], {})
    assert list((tmp_path / "runs").glob("*/train/*")) == []


@pytest.mark.slow
def test_out_of_memory_names_the_batch_that_fits(table: Bench, tmp_path: Path) -> None:
    project = table.project("memory", {"batch_sz": 16, "data": {"img_sz": 512}})
    table.memory = 1000 << 20
    try:
        found = table.run(project, "run", "tiny", "--root-uri", str(tmp_path / "runs"))
    finally:
        table.memory = None
    assert found.code == ExitCode.OUT_OF_MEMORY, found.text
    (line,) = found.errors
    assert says(line, "stage train: …16 chips of 512 pixels…solver.batch_sz to …")
    # Measured, or where even that is refused in what is left of the memory: half.
    assert re.search(r"to ([248] \(and solver.grad_accum to [248] |8 or less)", line)
    assert list((tmp_path / "runs").glob("*/train/*.pt")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "code", "error", "half"),
    [
        (
            "ro",
            ExitCode.BAD_INPUT,
            "{root}: …Read-only file system…--root-uri or rootUri",
            False,
        ),
        (
            "size=4k,nr_inodes=2",
            ExitCode.DISK_FULL,
            "no space left…{root}; …root URI",
            False,
        ),
        (
            "size=1m",
            ExitCode.DISK_FULL,
            "stage train: no space left…{root}/…/train/best.pt; …root URI",
            True,
        ),
    ],
    ids=["read-only root", "full disk", "disk that fills up in training"],
)
def test_a_bad_place(
    options: str, code: int, error: str, half: bool, table: Bench, tmp_path: Path
) -> None:
    project = table.project(f"place-{tmp_path.name}", {})
    with _mounted(tmp_path / "place", options) as place:
        root = place / "runs"
        found = table.run(project, "run", "tiny", "--root-uri", str(root))
        assert found.code == code, found.text
        check_errors(found, [error], {"root": str(root)})
        assert root.exists() == half
        assert not [p for p in place.rglob("*") if "partial" in p.name or "tmp" in p.name]


@contextmanager
def _mounted(place: Path, options: str) -> Iterator[Path]:
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"NOT TESTED: full and read-only disks, because of {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    ("data", "root", "environ", "code", "errors"),
    [
        (
            "s3://nowhere/x",
            "",
            {},
            ExitCode.BAD_INPUT,
            ["…no bucket s3://nowhere…"] * 8,
        ),
        ("s3://bad-inputs/x", "", {}, ExitCode.BAD_INPUT, ["…does not exist…"] * 8),
        (
            "s3://bad-inputs/x",
            "",
            {"AWS_SECRET_ACCESS_KEY": "wrong"},
            ExitCode.BAD_INPUT,
            [f"…access denied…{DENIED}"] * 8,
        ),
        (
            "",
            "s3://nowhere/x",
            {},
            ExitCode.BAD_INPUT,
            ["…no bucket s3://nowhere…"],
        ),
        (
            "",
            "s3://bad-inputs/x",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            ExitCode.RETRYABLE,
            [f"http://127.0.0.1:9 did not answer…{NO_ANSWER}"],
        ),
    ],
    ids=["no bucket", "no object", "access denied", "root without a bucket", "no answer"],
)
def test_s3(
    data: str,
    root: str,
    environ: dict[str, str],
    code: int,
    errors: list[str],
    table: Bench,
    s3: S3Server,
    tmp_path: Path,
) -> None:
    s3.bucket("bad-inputs")
    project = table.project(f"s3-{tmp_path.name}", {"raw_uri": data} if data else {})
    local = tmp_path / "runs"
    found = table.run(project, "run", "tiny", "--root-uri", root or str(local), **environ)
    assert found.code == code, found.text
    check_errors(found, [f"…s3://…{error}" for error in errors], {})
    assert not local.exists()


@pytest.mark.slow
def test_two_runs_with_one_id_and_real_processes(table: Bench, tmp_path: Path) -> None:
    project, root = table.project("twice", {}), tmp_path / "runs"
    first = table.start_really(project, "run", "tiny", "--root-uri", str(root))
    try:
        while not (records := list(root.glob("*/run.json"))):
            assert first.poll() is None
            time.sleep(0.05)
        name = records[0].parent.name
        second = table.run(project, "run", "tiny", "--root-uri", str(root), "--run-id", name)
    finally:
        first.send_signal(signal.SIGTERM)
        ended = outcome(first)
    assert second.code == ExitCode.BAD_INPUT
    check_errors(second, [f"{name}…process {first.pid}; …kill {first.pid}"], {})
    assert ended.code == ExitCode.INTERRUPTED
    check_errors(ended, ["interrupted"], {})


@pytest.mark.slow
def test_a_stage_that_is_a_process_of_its_own(table: Bench, tmp_path: Path) -> None:
    """As in the table, without its forks."""
    project = table.project("real", {"train": ""})
    words = ["run", "tiny", "--root-uri", str(tmp_path / "runs")]
    found = outcome(table.start_really(project, *words))
    assert found.code == ExitCode.BAD_INPUT
    check_errors(found, ["…no training scene; …dataset.train_scenes…"], {})
    assert os.listdir(tmp_path) == []
