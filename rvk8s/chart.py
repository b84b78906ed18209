"""Values -> manifests, by the chart helm/rvk8s: the only import of Helm.

Helm's library renders in this process; where it cannot be loaded (another platform than Linux on
x86-64) the `helm` program does. RVK8S_HELM=sdk or binary forces one of the two. Both give the same
text, byte for byte that of `helm template`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rvk8s.cluster.json_text import json_text
from rvk8s.contract import Env
from rvk8s.errors import InputError, InputErrors
from rvk8s.values import chart_dir
from rvk8s.yaml_loader import load_all

#: Helm's order of creation, of the kinds that the chart has.
_ORDER = ("NetworkPolicy", "ServiceAccount", "ConfigMap", "Service", "Job", "CronJob")
#: Values that have an option of their own: a message names both.
_FLAGS = {
    "stages.train.gpus": "--gpus",
    "stages.train.nodes": "--nodes",
    "stages.train.gpusPerNode": "--gpus-per-node",
    "stages.train.pool": "--pool",
    "stages.train.ranks": "--ranks",
    "stages.chip.splits": "--splits",
    "stages.predict.splits": "--splits",
    "image.stage": "--image",
    "launcher": "--launcher",
    "rootUri": "--root-uri",
}
#: Of variables that the chart sets: the value that does it, where it is a user's to give.
_INSTEAD = {str(Env.S3_PATH_STYLE): "set values.storage.pathStyle"}
#: `helm template` asks no cluster and takes the Kubernetes that it was built with: that of an older
#: program (1.29 of Helm 3.14) is older than the charts allow.
_NO_CLUSTER = ("--kube-version", "1.31.0")
_SECONDS = 60


class BadValue(InputError):
    """A value that the chart refuses.

    Attributes:
        path: its keys from the top of the values.
    """

    def __init__(self, what: str, path: Sequence[str], fix: str | None, below: str | None = None):
        """`below`: the key in the value that is wrong, where `what` names it."""
        super().__init__(what, where=_where(".".join(path)), fix=fix)
        self.path = (*path, below) if below else tuple(path)


@dataclass(frozen=True)
class Rendered:
    """What a chart gives.

    Attributes:
        text: what `helm template` prints: a YAML stream in the order of creation.
        manifests: the objects of the text.
    """

    text: str
    manifests: tuple[dict[str, Any], ...]

    def find(self, kind: str, suffix: str = "") -> dict[str, Any] | None:
        """The object of a kind (of several, the one that holds the key `suffix` in its data)."""
        for manifest in self.manifests:
            if manifest["kind"] == kind and (not suffix or suffix in manifest.get("data", {})):
                return manifest
        return None


def render(values: Mapping[str, Any], name: str, namespace: str) -> Rendered:
    """The objects of a release.

    Args:
        values: what differs from the chart's values.yaml; JSON types.
        name: the release: the run's id.
        namespace: of all objects.

    Raises:
        InputErrors: the schema or the templates refuse the values; a line for each mistake.
        InputError: Helm is not there.
    """
    chart = str(chart_dir())
    if _use_binary():
        text = _by_program(chart, values, name, namespace)
    else:
        text = _by_library(chart, values, name, namespace)
    return Rendered(text, tuple(load_all(text)))


def _use_binary() -> bool:
    wanted = os.environ.get("RVK8S_HELM", "")
    if wanted not in ("", "sdk", "binary"):
        raise InputError(f"{wanted!r} is neither sdk nor binary", where="RVK8S_HELM")
    if wanted:
        return wanted == "binary"
    try:
        import helm_python  # noqa: F401
    except ImportError:
        return True
    return False


def _by_library(chart: str, values: Mapping[str, Any], name: str, namespace: str) -> str:
    import helm_python

    try:
        # Loaded afresh: what a render did to a handle would be seen by the next one. Never in a
        # child that was forked after this: the library's threads are not there, it hangs.
        with helm_python.Chart.load(chart) as loaded:
            # JSON text and back: lists and mappings of any type become what Helm knows.
            files = loaded.render(json.loads(json.dumps(values)), name=name, namespace=namespace)
    except helm_python.HelmLibraryError as error:
        fix = "install the helm program and set RVK8S_HELM=binary"
        raise InputError(f"Helm's library cannot be loaded: {error}", fix=fix) from error
    except helm_python.HelmError as error:
        raise _refused(str(error)) from error
    return _stream(files)


def _stream(files: Mapping[str, str]) -> str:
    """The files of a chart as `helm template` prints them: documents in the order of creation."""
    documents: list[tuple[int, str]] = []
    for path in sorted(files):
        if path.rpartition("/")[2].startswith("_") or path.endswith("NOTES.txt"):
            continue
        for document in re.split(r"^---[ \t]*", files[path], flags=re.MULTILINE):
            if not document.strip():
                continue
            content = document.lstrip()
            kind = re.search(r"^kind:[ \t]*(\S+)", content, re.MULTILINE)
            rank = _ORDER.index(kind[1]) if kind and kind[1] in _ORDER else len(_ORDER)
            documents.append((rank, f"---\n# Source: {path}\n{content}\n"))
    documents.sort(key=lambda one: one[0])  # stable: equal kinds stay in the order of their files
    return "".join(text for _, text in documents).strip() + "\n"


def _by_program(chart: str, values: Mapping[str, Any], name: str, namespace: str) -> str:
    program = shutil.which("helm")
    if program is None:
        fix = "install Helm 3.14 or newer, or helm-python-sdk"
        raise InputError("no program helm on PATH renders the chart", fix=fix)
    with tempfile.TemporaryDirectory(prefix="rvk8s-") as folder:
        file = Path(folder) / "values.json"
        file.write_text(json_text(values), encoding="utf-8")
        done = subprocess.run(
            [program, "template", name, chart, *_NO_CLUSTER, "-n", namespace, "-f", str(file)],
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=_SECONDS,
        )
    if done.returncode:
        raise _refused(done.stderr)
    return done.stdout


def _refused(text: str) -> InputErrors:
    """Helm's message as ours: a line for each mistake, which names the value."""
    text = text.removeprefix("Error: ")
    failed = re.search(r"error calling fail: (.+)|execution error at \([^)]*\): (.+)", text)
    if failed:
        return InputErrors([_named(failed[1] or failed[2])])
    if found := _schema_mistakes(text):
        return InputErrors([_schema_error(path, what) for path, what in found])
    return InputErrors([InputError(text.strip(), where="the chart helm/rvk8s")])


def _schema_mistakes(text: str) -> list[tuple[str, str]]:
    """Where values do not fit the schema, and how.

    Helm writes a list in a list: below "validation failed" stand several mistakes of one mapping,
    below anything else (such as "oneOf failed") the reasons for it, which are left out.
    """
    found, within = [], None
    for indent, path, what in re.findall(r"^( *)- at '([^']*)': (.+)$", text, re.MULTILINE):
        if within is not None and len(indent) > within:
            continue
        within = None
        if what != "validation failed":
            found += [(path, one) for one in _each(what)]
            within = len(indent)
    return found


def _each(what: str) -> list[str]:
    """A mistake for each of the keys that Helm says to be missing in one line."""
    missing = re.fullmatch(r"missing properties (.+)", what)
    keys = re.findall(r"'([^']*)'", missing[1]) if missing else []
    return [f"missing property '{key}'" for key in keys] or [what]


def _named(message: str) -> InputError:
    """A message of the chart's own, "values.KEY: what; fix"."""
    key, colon, rest = message.strip().partition(": ")
    if not colon or not key.startswith("values."):
        return InputError(message.strip(), where="values")
    what, _, fix = rest.partition("; ")
    return BadValue(what, key.removeprefix("values.").split("."), fix or None)


def _schema_error(pointer: str, what: str) -> InputError:
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/") if part]
    if what == "false schema":
        # The schema forbids only these paths, and names of environment variables.
        name = parts[-1]
        if parts[:-1] == ["experiment", "source"]:
            what, fix = f"{name} leads out of the project's folder", "give a path below it"
            return BadValue(what, parts[:-1], fix, name)
        if parts[-2:-1] == ["nccl"]:
            fix = f"write {name.removeprefix('NCCL_')}"
            return BadValue(f"{name} has the NCCL_ that is put before it", parts[:-1], fix, name)
        if name in list(Env) or name.startswith("PET_"):
            fix = _INSTEAD.get(name, "leave it out")
            return BadValue(f"{name} is set by rvk8s itself", parts[:-1], fix, name)
        fix = "these variables are no secret: keys of storage come from values.storage.secretName"
        if parts[0] == "pools" and not name.startswith("AWS_"):
            where = ".".join(["values", *parts[:-2], "envFrom"])
            fix = f"put it into a Secret, and that into {where}: [{{secretRef: {{name: SECRET}}}}]"
        return BadValue(f"{name} may hold a secret", parts[:-1], fix, name)
    if parts[:2] == ["experiment", "args"]:
        what = "Helm's numbers have 53 bits, so this one would lose digits"
        return BadValue(what, parts, f"give {parts[2]} as text in experiment.argsJson")
    missing = re.match(r"missing propert(?:y|ies) '([^']*)'", what)
    if missing:  # null takes a key away, its default too
        fix = "give what belongs there, or leave the key out: then its default holds"
        return BadValue("is empty", [*parts, missing[1]], fix)
    schema, description = _schema_at(parts)
    unknown = re.match(r"additional propert(?:y|ies) (.+) not allowed", what)
    if not unknown:
        return BadValue(what, parts, f"what belongs there: {description}" if description else None)
    keys = re.findall(r"'([^']*)'", unknown[1])
    patterns = [pattern for pattern, rule in schema.get("patternProperties", {}).items() if rule]
    if patterns:
        what = f"{keys[0]!r} cannot be a key here"
        return BadValue(what, parts, f"it has to match {patterns[0]}", keys[0])
    from rvk8s.project.signature import nearest

    fix = nearest(keys[0], sorted(schema.get("properties", {})), "there are")
    return BadValue("no such key", [*parts, *keys[:1]], fix)


def _schema_at(parts: Sequence[str]) -> tuple[dict[str, Any], str]:
    """The chart's schema of a value, and what the schema says that it is: where it says nothing of
    the value itself, what it says of the nearest one around it."""
    schema = json.loads((chart_dir() / "values.schema.json").read_text(encoding="utf-8"))

    def resolved(node: Any) -> dict[str, Any]:
        while isinstance(node, dict) and "$ref" in node:
            target = schema
            for step in node["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            node = target
        return node if isinstance(node, dict) else {}

    node, description = schema, ""
    for part in parts:
        around = resolved(node)
        named = around.get("patternProperties", {}).items()
        rules = [around["properties"][part]] if part in around.get("properties", {}) else []
        rules += [rule for pattern, rule in named if re.search(pattern, part)]
        node = (*rules, around.get("items") or around.get("additionalProperties"))[0]
        own, kind = (of.get("description", "") for of in (node or {}, resolved(node)))
        said = f"{own} ({kind})" if own and kind and own != kind else own or kind
        description = said or description
    return resolved(node), description


def _where(key: str) -> str:
    flag = _FLAGS.get(key)
    return f"values.{key} ({flag})" if flag else f"values.{key}" if key else "values"
