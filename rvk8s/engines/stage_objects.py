"""What the driver was given: the plan, and the manifests that it makes for each stage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rvk8s.cluster import Object
from rvk8s.contract import RUN_ID_TOKEN, Annotation, Env
from rvk8s.errors import InputError
from rvk8s.plan import Plan, Stage

#: The kinds that run a stage; what else a stage has (a Service) serves them.
MAIN_KINDS = ("Job", "PyTorchJob")


@dataclass(frozen=True)
class StageObjects:
    """The files of the ConfigMap that submit, helm or kubectl applied.

    Attributes:
        files: plan.json and STAGE.yaml, name -> text.
        run_id: replaces the token that stands for it in the files of a schedule.
    """

    files: Mapping[str, str]
    run_id: str

    def plan(self, created: str) -> Plan:
        """The plan.

        Args:
            created: when it was asked for, where the file does not say it.

        Raises:
            InputError: the file is missing or no plan.
        """
        try:
            value = json.loads(self._text("plan.json"))
        except ValueError as error:
            raise InputError(f"is not JSON ({error})", where="plan.json") from None
        plan = Plan.from_dict(value)
        if plan.run_id != self.run_id:
            what = f"is the plan of {plan.run_id}, not of {self.run_id}"
            raise InputError(what, where="plan.json", fix=f"{Env.RUN_ID} must be the run's id")
        return plan if plan.created else replace(plan, created=created)

    def of(self, stage: Stage) -> list[Object]:
        """The manifests of a stage, in the order in which they are made.

        Where the pipeline cannot split the stage, the Job is one of a single pod.
        """
        from rvk8s.yaml_loader import YAMLError, load_all

        name = f"{stage.name}.yaml"
        try:
            found: list[Object] = load_all(self._text(name))
        except YAMLError as error:
            raise InputError(f"is not YAML ({error})", where=name) from None
        if not any(one.get("kind") in MAIN_KINDS for one in found):
            raise InputError("has no Job and no PyTorchJob", where=name)
        for one in found:
            if one["kind"] == "Job" and stage.name != "train":
                _set_splits(one, stage.splits)
        return found

    def kind(self, stage: Stage) -> str:
        """The kind of what runs a stage."""
        return next(str(one["kind"]) for one in self.of(stage) if one["kind"] in MAIN_KINDS)

    def _text(self, name: str) -> str:
        if name not in self.files:
            fix = f"{Env.STAGES_DIR} must name the folder of the run's ConfigMap"
            raise InputError("is missing", where=name, fix=fix)
        return self.files[name].replace(RUN_ID_TOKEN, self.run_id)


def stamped(manifest: Object, owner: Object, attempt: int, spent: float) -> Object:
    """A manifest with its hash, its attempt and its owner."""
    metadata = dict(manifest["metadata"])
    metadata["annotations"] = {
        **(metadata.get("annotations") or {}),
        str(Annotation.SPEC_HASH): spec_hash(manifest),
        str(Annotation.ATTEMPT): str(attempt),
        str(Annotation.SPENT): f"{spent:.0f}",
    }
    metadata["ownerReferences"] = [owner]
    return {**manifest, "metadata": metadata}


def spec_hash(manifest: Object) -> str:
    """Tells manifests apart; of what we send, not of what the server makes of it."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]


def annotation(item: Object, key: Annotation, default: str = "") -> str:
    value: str = (item["metadata"].get("annotations") or {}).get(str(key), default)
    return value


def is_finished(item: Object) -> bool:
    """Whether a Job or PyTorchJob has succeeded or failed."""
    return bool(condition(item, "Complete", "Succeeded") or condition(item, "Failed"))


def condition(item: Object, *kinds: str) -> Object | None:
    """The first of these conditions that is true."""
    for one in item.get("status", {}).get("conditions") or ():
        if one["type"] in kinds and one["status"] == "True":
            found: Object = one
            return found
    return None


def indexes(text: str | None) -> set[int]:
    """The numbers of a Job's status: "1,3-5" has 1, 3, 4, 5."""
    found: set[int] = set()
    for part in (text or "").split(","):
        first, _, last = part.partition("-")
        if first:
            found |= set(range(int(first), int(last or first) + 1))
    return found


def _set_splits(job: Object, splits: int) -> None:
    job["spec"]["completions"] = job["spec"]["parallelism"] = splits
    for container in job["spec"]["template"]["spec"]["containers"]:
        for variable in container.get("env") or ():
            if variable["name"] == Env.SPLITS:
                variable["value"] = str(splits)
