"""The form of run.json: a file in a bucket is input, and may be cut off or of another version."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rvk8s import times
from rvk8s.contract import API_VERSION, CONTRACT_VERSION, RUN_ID, STAGES, State
from rvk8s.errors import InputError

_Check = Callable[[Any], bool]
_DAMAGED = "bring it back from a copy, or start a new run"


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**6


def _positive(value: Any) -> bool:
    return _count(value) and value > 0


def _code(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _time(value: Any) -> bool:
    try:
        return times.parse(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _one_of(*values: str) -> _Check:
    return lambda value: isinstance(value, str) and value in values


def _maybe(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _list(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(check(one) for one in value)


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


_STATE, _STAGE = _one_of(*State), _one_of(*STAGES)
_MAPPINGS = _list(_mapping)
_RUN: dict[str, _Check] = {
    "rvk8s": _text,
    "engine": _text,
    "state": _STATE,
    "started": _maybe(_time),
    "ended": _maybe(_time),
    "exitCode": _maybe(_code),
    "message": _maybe(_text),
    "stages": _MAPPINGS,
    "plan": _mapping,
}
_STAGE_RECORD: dict[str, _Check] = {
    "name": _STAGE,
    "state": _STATE,
    "splits": _positive,
    "attempts": _count,
    "started": _maybe(_time),
    "ended": _maybe(_time),
    "seconds": _maybe(_seconds),
    "exitCode": _maybe(_code),
    "message": _maybe(_text),
    "failedSplit": _maybe(_count),
}
_PLAN: dict[str, _Check] = {
    "runId": lambda value: _text(value) and RUN_ID.fullmatch(value) is not None,
    "experiment": _text,
    "module": _text,
    "projectDir": _text,
    "args": _mapping,
    "rootUri": _text,
    "stages": _MAPPINGS,
    "image": _maybe(_text),
    "rerun": _list(_STAGE),
    "fromStage": _maybe(_STAGE),
    "created": _text,
    "goOn": _maybe(_text),
}
_PLAN_STAGE: dict[str, _Check] = {
    "name": _STAGE,
    "splits": _positive,
    "gpus": _count,
    "nodes": _positive,
    "ranks": _positive,
    "retries": _maybe(_count),
    "deadlineSeconds": _maybe(_count),
}
#: Keys that records of an earlier version lack.
_LATER: dict[str, _Check] = {"driver": _maybe(_text)}
_STAGE_LATER: dict[str, _Check] = {
    "disruptions": _count,
    "losses": _count,
    "givenBack": _count,
    "images": _list(_text),
}
_PLAN_STAGE_LATER: dict[str, _Check] = {"pool": _maybe(_text)}
_PLAN_LATER: dict[str, _Check] = {"values": _maybe(_mapping)}


def check_contract(value: Mapping[str, Any], where: str) -> None:
    """Refuse what a newer version wrote: it means something else, and must not be overwritten.

    Raises:
        InputError: it is of a newer contract.
    """
    contract, api = value.get("contract", CONTRACT_VERSION), value.get("apiVersion", API_VERSION)
    if not _code(contract) or contract > CONTRACT_VERSION or api != API_VERSION:
        by = value.get("rvk8s")
        what = f"is of a newer contract ({api}, {contract}; this is {API_VERSION}, "
        fix = f"use rvk8s {by} or newer" if _text(by) else "use a newer rvk8s"
        raise InputError(f"{what}{CONTRACT_VERSION})", where=where, fix=fix)


def check_form(value: Mapping[str, Any], where: str) -> None:
    """Check that run.json has what a RunRecord is made of.

    Raises:
        InputError: a key is missing or is of another kind; it names the key.
    """
    _check(value, "", where, _RUN, _LATER)
    for number, stage in enumerate(value["stages"]):
        _check(stage, f"stages[{number}].", where, _STAGE_RECORD, _STAGE_LATER)
    plan = value["plan"]
    _check(plan, "plan.", where, _PLAN, _PLAN_LATER)
    for number, stage in enumerate(plan["stages"]):
        _check(stage, f"plan.stages[{number}].", where, _PLAN_STAGE, _PLAN_STAGE_LATER)
    planned, recorded = (
        [stage["name"] for stage in stages] for stages in (plan["stages"], value["stages"])
    )
    if recorded and recorded != planned:
        raise InputError("its stages are not those of its plan", where=where, fix=_DAMAGED)


def _check(
    value: Mapping[str, Any],
    prefix: str,
    where: str,
    keys: Mapping[str, _Check],
    later: Mapping[str, _Check],
) -> None:
    for key, check in {**keys, **later}.items():
        if key not in value:
            if key in later:
                continue
            what = f"is not what this version of rvk8s writes (it has no {prefix}{key})"
            raise InputError(what, where=where, fix="start a new run")
        if not check(value[key]):
            shown = f"{value[key]!r}"
            shown = shown if len(shown) < 60 else f"{shown[:60]}..."
            what = f"is not what this version of rvk8s writes ({prefix}{key} is {shown})"
            raise InputError(what, where=where, fix=_DAMAGED)
