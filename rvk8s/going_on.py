"""A run that goes on keeps the arguments and splits that it was begun with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rvk8s.contract import SPLITTABLE
from rvk8s.errors import InputError
from rvk8s.plan import Plan

#: Characters of an argument's value in an error.
_SHOWN = 60


def check_same(plan: Plan, before: Plan) -> None:
    """See that a run goes on as it was begun, or that --rerun says that it is not to.

    With other arguments the stages before the training would be done anew at once, and the train
    stage would refuse to lose its model: a good run ends as a failed one.

    Args:
        plan: of the run that is to go on.
        before: the same run's as it is stored.

    Raises:
        InputError: arguments or splits differ, and --rerun does not name the stages concerned.
    """
    args, splits = list(_args(plan, before)), dict(_splits(plan, before))
    # Chips of other files make other models; predictions concern nothing before them.
    first = "predict" if not args and list(splits) == ["predict"] else "train"
    if not (args or splits) or first in plan.rerun:
        return
    back = f"go on with `{before.go_on}`"
    if before.go_on in ("", plan.go_on):  # so it is rvk8s.yaml, or a values file, that changed
        back = "give what it had, in rvk8s.yaml or as options"
    what = f"{plan.run_id} was begun with {', '.join([*args, *splits.values()])}"
    fix = f"{back}, or add --rerun {first} to do it anew, or start a new run"
    raise InputError(what, where="--run-id", fix=fix)


def _args(plan: Plan, before: Plan) -> Iterator[str]:
    for name in sorted({*plan.args, *before.args}):
        both = name in plan.args and name in before.args
        if not both or not _are_same(plan.args[name], before.args[name]):
            yield f"{name} {_shown(before, name)} (now {_shown(plan, name)})"


def _are_same(one: Any, other: Any) -> bool:
    """Whether two values are equal, or one is the text of the other, as -a gives it."""
    texts = (v if isinstance(v, str) else json.dumps(v) for v in (one, other))
    return one == other or (str in (type(one), type(other)) and len(set(texts)) == 1)


def _shown(plan: Plan, name: str) -> str:
    if name not in plan.args:
        return "not given"
    text = json.dumps(plan.args[name], ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _splits(plan: Plan, before: Plan) -> Iterator[tuple[str, str]]:
    then = {stage.name: stage.splits for stage in before.stages}
    for stage in plan.stages:
        if stage.name in SPLITTABLE and stage.splits != then.get(stage.name, stage.splits):
            yield stage.name, f"{stage.name} split {then[stage.name]} times (now {stage.splits})"
