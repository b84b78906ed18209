"""CPU threads of a stage's processes."""

from __future__ import annotations

import os

import pytest
from rastervision.kubernetes import threads

from rvk8s.contract import Env


@pytest.mark.parametrize(
    ("given", "omp", "of_process", "of_two"),
    [
        ("8", None, ("8", "8"), ("4", "4")),
        ("8", "3", ("3", "3"), ("3", "3")),
        ("8", "8", ("8", "8"), ("8", "8")),
        (None, "3", ("3", "3"), ("3", "3")),
        ("8", "4,2", ("4", "4,2"), ("4", "4")),
        ("8", "many", ("8", "8"), ("4", "4")),
        ("8", "0", ("8", "8"), ("4", "4")),
        ("8", "", ("8", "8"), ("4", "4")),
        ("1", None, ("1", "1"), ("1", "1")),
    ],
)
def test_an_exported_number_of_threads_is_respected(
    given: str | None,
    omp: str | None,
    of_process: tuple[str, str],
    of_two: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in ((Env.THREADS, given), ("OMP_NUM_THREADS", omp)):
        monkeypatch.setenv(name, value or "")
        if value is None:
            monkeypatch.delenv(name)
    monkeypatch.setenv("MKL_NUM_THREADS", "5")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    threads.prepare()
    assert (os.environ[Env.THREADS], os.environ["OMP_NUM_THREADS"]) == of_process
    assert os.environ["MKL_NUM_THREADS"] == "5"
    assert os.environ["OPENBLAS_NUM_THREADS"] == of_process[0]
    threads.share(2)
    assert (os.environ[Env.THREADS], os.environ["OMP_NUM_THREADS"]) == of_two
