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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rvk8s.cluster.json_text import json_text
from rvk8s.errors import InputError, InputErrors

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
_SECONDS = 60
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
    documents = tuple(d for d in yaml.load_all(text, Loader=_Loader) if d)
    return Rendered(text, documents)


def chart_dir() -> Path:
    """The folder of the chart: in a wheel beside this module, in a checkout helm/rvk8s."""
    here = Path(__file__).resolve().parent
    places = (here / "charts" / "rvk8s", here.parent / "helm" / "rvk8s")
    found = next((place for place in places if (place / "Chart.yaml").is_file()), None)
    if found is None:
        raise InputError(f"no chart in {places[0]}", fix="install rvk8s again")
    return found


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
            [program, "template", name, chart, "-n", namespace, "-f", str(file)],
            capture_output=True,
            text=True,
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
    return InputError(what, where=_where(key.removeprefix("values.")), fix=fix or None)


def _schema_error(pointer: str, what: str) -> InputError:
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/") if part]
    if what == "false schema":
        # The schema forbids names in one place only, that of environment variables.
        what = f"{parts.pop()} is rvk8s's own name, or may hold a secret"
        fix = "these variables are no secret: keys of storage come from values.storage.secretName"
        return InputError(what, where=_where(".".join(parts)), fix=fix)
    if parts[:2] == ["experiment", "args"]:
        what = "Helm's numbers have 53 bits, so this one would lose digits"
        fix = f"give {parts[2]} as text in experiment.argsJson"
        return InputError(what, where=_where(".".join(parts)), fix=fix)
    missing = re.fullmatch(r"missing property '([^']*)'", what)
    if missing:
        # Every key has a default; null, as which YAML reads an empty key, takes it away.
        fix = "give what belongs there, or leave the key out: then its default holds"
        return InputError("is empty", where=_where(".".join([*parts, missing[1]])), fix=fix)
    unknown = re.match(r"additional propert(?:y|ies) (.+) not allowed", what)
    if not unknown:
        fix = "the chart's README (helm/rvk8s) describes it"
        return InputError(what, where=_where(".".join(parts)), fix=fix)
    from rvk8s.project.signature import nearest

    keys = re.findall(r"'([^']*)'", unknown[1])
    fix = nearest(keys[0], _known_keys(parts), "there are")
    return InputError("no such key", where=_where(".".join([*parts, *keys[:1]])), fix=fix)


def _known_keys(parts: list[str]) -> list[str]:
    """The keys that the chart's schema has below a path."""
    schema = json.loads((chart_dir() / "values.schema.json").read_text())
    node = schema
    for part in (*parts, None):
        while isinstance(node, dict) and "$ref" in node:
            target = schema
            for step in node["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            node = target
        if part is not None:
            below = node.get("properties", {}).get(part)
            node = below if below is not None else node.get("additionalProperties") or {}
    return sorted(node.get("properties", {})) if isinstance(node, dict) else []


def _where(key: str) -> str:
    flag = _FLAGS.get(key)
    return f"values.{key} ({flag})" if flag else f"values.{key}" if key else "values"
