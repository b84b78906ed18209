"""JSON schemas for kubeconform, made from Kubernetes' own OpenAPI document and operators' CRDs.

All come from Go modules whose sums are written here, so nothing but a Go module proxy is asked.
They are strict: a field that the API does not know is an error, which the API server would drop.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.programs import cache_folder
from filelock import FileLock

from rvk8s.yaml_loader import load_all

Schema = dict[str, Any]
#: Kubernetes' minor version -> module version and sum.
KUBERNETES = {
    "1.31": ("v1.31.14", "h1:UtjLfqvXLuSVDdJ4+NpQCIfFkKkLnAAVmxAEMsnkhjk="),
    "1.32": ("v1.32.11", "h1:vGU5kf3OD2/Pu/OAOyPld7gHlS1gmeRth54PWxcRVMM="),
    "1.33": ("v1.33.7", "h1:Qhp1gwCPSOqt3du6A0uTGrrTcZDtShdSCIR5IZag16Y="),
    "1.34": ("v1.34.4", "h1:Yy6R4QB8C9kJPp25GFqEvX5XQwY5qzKeqD0Xx6oAcmk="),
}
#: Module, version, sum and folder of custom resource definitions.
OPERATORS = (
    (
        "github.com/kubeflow/training-operator",
        "v1.9.4",
        "h1:MjYXzeaHGBmF47BlhCo6+Mb7ypHrVfO6vsys1ZHF56A=",
        "manifests/base/crds",
    ),
    (
        "sigs.k8s.io/kueue",
        "v0.15.0",
        "h1:9Khzc2ne6/eWuZx5o+R4KlVBzh3kZkTIMzpPC2e8Spg=",
        "config/components/crd/bases",
    ),
)
#: Where kubeconform finds the schema of a kind; it fills this in.
LOCATION = "{{.ResourceKind}}{{.KindSuffix}}.json"


class NoSchemas(Exception):
    """They cannot be made: Go is missing or a module cannot be had."""


def folder(minor: str) -> Path:
    """The schemas of a minor version and of the operators, made now if the cache lacks them.

    Raises:
        NoSchemas: see there.
    """
    version, expected = KUBERNETES[minor]
    made = cache_folder() / f"schemas-{version}-2"
    made.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{made}.lock"):
        if not made.exists():
            partial = made.with_name(f"{made.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            module = _module("k8s.io/kubernetes", version, expected)
            document = json.loads((module / "api/openapi-spec/swagger.json").read_text())
            _write(partial, _of_kubernetes(document))
            for name, operator_version, operator_sum, crds in OPERATORS:
                for path in sorted(
                    (_module(name, operator_version, operator_sum) / crds).glob("*")
                ):
                    _write(partial, _of_definition(path))
            partial.rename(made)
    return made


def _module(name: str, version: str, expected: str) -> Path:
    """The folder of a module's files, with the sum that is expected."""
    if shutil.which("go") is None:
        raise NoSchemas("Go is not installed and downloads the modules that have the schemas")
    command = ["go", "mod", "download", "-json", f"{name}@{version}"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=300)
    answer = json.loads(done.stdout or "{}")
    if done.returncode:
        raise NoSchemas(f"{name}@{version}: {answer.get('Error') or done.stderr.strip()}")
    if answer["Sum"] != expected:
        raise AssertionError(f"{name}@{version} has the sum {answer['Sum']}, not {expected}")
    return Path(answer["Dir"])


def _write(into: Path, schemas: Iterator[tuple[str, str, Schema]]) -> None:
    for api_version, kind, schema in schemas:
        group, _, version = api_version.rpartition("/")
        suffix = f"-{group.split('.')[0]}" if group else ""
        (into / f"{kind.lower()}{suffix}-{version}.json").write_text(json.dumps(schema))


def _of_kubernetes(document: Schema) -> Iterator[tuple[str, str, Schema]]:
    definitions = {
        name: _strict(definition) for name, definition in document["definitions"].items()
    }
    definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {"type": ["string", "number"]}
    definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = {"type": ["string", "integer"]}
    for name, definition in document["definitions"].items():
        kinds = definition.get("x-kubernetes-group-version-kind", [])
        # Types of many kinds, such as DeleteOptions, and lists are no objects that are applied.
        if len(kinds) == 1 and not kinds[0]["kind"].endswith("List"):
            api_version = f"{kinds[0]['group']}/{kinds[0]['version']}".removeprefix("/")
            needed = _closure(name, definitions)
            schema = {"$ref": f"#/definitions/{name}", "definitions": needed}
            yield api_version, kinds[0]["kind"], schema


def _closure(name: str, definitions: dict[str, Schema]) -> dict[str, Schema]:
    """A definition and all that it refers to."""
    found: dict[str, Schema] = {}
    todo = [name]
    while todo:
        current = todo.pop()
        if current not in found:
            found[current] = definitions[current]
            todo += _references(definitions[current])
    return found


def _references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [name for item in node for name in _references(item)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"].rpartition("/")[2]] if isinstance(node.get("$ref"), str) else []
    return own + [name for value in node.values() for name in _references(value)]


def _of_definition(path: Path) -> Iterator[tuple[str, str, Schema]]:
    """The schemas of a custom resource definition's versions; none of another file."""
    for document in load_all(path.read_text()) if path.suffix == ".yaml" else ():
        if document.get("kind") == "CustomResourceDefinition":
            spec = document["spec"]
            for version in spec["versions"]:
                schema = _strict(version["schema"]["openAPIV3Schema"])
                # Its own schema says no more of it than that it is an object.
                schema["properties"]["metadata"] = {"type": "object"}
                yield f"{spec['group']}/{version['name']}", spec["names"]["kind"], schema


def _strict(node: Any) -> Any:
    """A schema in which objects have no properties but those that are named."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["string", "integer"]}
    out = {key: _strict(value) for key, value in node.items()}
    closed = isinstance(node.get("properties"), dict) and "additionalProperties" not in node
    if closed and not node.get("x-kubernetes-preserve-unknown-fields"):
        out["additionalProperties"] = False
    return out
