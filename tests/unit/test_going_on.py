"""What of a run may change when it goes on, and what has to be said for that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from said import says

from rvk8s.contract import STAGES
from rvk8s.errors import InputError
from rvk8s.going_on import check_same
from rvk8s.plan import Plan, Stage

GO_ON = "rvk8s run one --test --run-id one-1"


def plan(rerun: str | None = None, go_on: str = GO_ON, **args: Any) -> Plan:
    again = () if rerun is None else STAGES[STAGES.index(rerun) :]
    stages = tuple(Stage(name) for name in STAGES)
    return Plan("one-1", "one", "exp.py", "/p", args, "/r", stages, rerun=again, go_on=go_on)


def split(one: Plan, **splits: int) -> Plan:
    stages = tuple(replace(s, splits=splits.get(s.name, s.splits)) for s in one.stages)
    return replace(one, stages=stages)


def refusal(now: Plan, before: Plan) -> str:
    with pytest.raises(InputError) as caught:
        check_same(now, before)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_same_goes_on() -> None:
    before = split(plan(test=True, lr=1.0), chip=4)
    check_same(split(plan(test=True, lr=1), chip=4), before)
    train = replace(before.stages[3], gpus=4, ranks=4, retries=3)
    other_shape = tuple(train if s.name == "train" else s for s in before.stages)
    check_same(replace(before, stages=other_shape, image="x"), before)


def test_a_number_from_the_command_line_is_that_of_the_file() -> None:
    """-a gives text."""
    check_same(plan(lr="0.1", ids='["a", 1]'), plan(lr=0.1, ids=["a", 1]))
    check_same(plan(lr=20, x="a"), plan(lr="20", x="a"))
    for now, before in (("0.2", 0.1), (True, "1"), (1, "true"), ("a", "b"), ("", None)):
        assert "lr" in refusal(plan(lr=now), plan(lr=before))


def test_other_arguments_are_named() -> None:
    before = plan(test=True, lr=0.1, ids=["a"] * 40, z=1)
    now = plan(go_on="rvk8s run one --run-id one-1", lr=0.2, z=1, extra=None)
    assert says(
        refusal(now, before),
        "--run-id: one-1…begun with extra not given (now null), ids"
        ' ["a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "... (now not given), lr 0.1 (now'
        f" 0.2), test true (now not given); …`{GO_ON}`…--rerun train…new run",
    )


@pytest.mark.parametrize("command", ["", GO_ON])
def test_a_change_of_the_file_is_not_answered_with_the_command_that_failed(command: str) -> None:
    line = refusal(plan(lr=0.2), plan(go_on=command, lr=0.1))
    assert says(line, "--run-id: one-1…lr 0.1 (now 0.2); …rvk8s.yaml…--rerun train…new run")
    assert GO_ON not in line


@pytest.mark.parametrize("stage", STAGES)
def test_rerun_says_that_a_change_is_meant(stage: str) -> None:
    before, loses_the_model = plan(lr=0.1), STAGES.index(stage) <= STAGES.index("train")
    for now in (plan(rerun=stage, lr=0.2), split(plan(rerun=stage, lr=0.1), chip=2)):
        if loses_the_model:
            check_same(now, before)
        else:
            assert "--rerun train" in refusal(now, before)


def test_splits_of_predict_concern_no_model() -> None:
    line = refusal(split(plan(), predict=2), split(plan(), predict=4))
    assert says(line, "--run-id: one-1…predict…4…(now 2); …--rerun predict…")
    check_same(split(plan(rerun="predict"), predict=2), split(plan(), predict=4))
