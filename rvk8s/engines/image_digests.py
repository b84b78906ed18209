"""Images by the digests that a run's first pods got them under, so that later ones run the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy

from rvk8s.cluster import Object

#: What a node says of an image that it has from a registry; Docker's puts a scheme before it.
_FROM_REGISTRY = re.compile(r"(?:docker-pullable://)?([^@\s]+@sha256:[0-9a-f]{64})")


def digests(pods: Iterable[Object], since: str) -> dict[str, str]:
    """Image as pods name it -> REPOSITORY@sha256:..., of the first pod where a tag moved.

    A node may have an image under another name, too, or under that of an import: no registry need
    have the digest of that one, so only what has the image's own repository counts.

    Args:
        since: the creationTimestamp from which on pods count.
    """
    found: dict[str, str] = {}
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
        if pod["metadata"]["creationTimestamp"] < since:
            continue
        images = {one["name"]: one["image"] for one in pod["spec"]["containers"]}
        for status in pod.get("status", {}).get("containerStatuses") or ():
            match = _FROM_REGISTRY.fullmatch(status.get("imageID") or "")
            image = images.get(status["name"])
            if match and image and _repository(image) == _repository(match[1]):
                found.setdefault(image, match[1])
    return found


def pinned(manifest: Object, known: Mapping[str, str]) -> tuple[Object, dict[str, str]]:
    """A manifest with the digests that are known, and which of its images these took the place of.

    Where nothing may be pulled a node need not know its image by digest: that stays as it is.
    """
    made, changed = deepcopy(manifest), {}
    for container in _containers(made):
        image = container["image"]
        if "@" not in image and image in known and container.get("imagePullPolicy") != "Never":
            container["image"] = changed[image] = known[image]
    return made, changed


def _containers(manifest: Object) -> Iterator[Object]:
    """Those of a Job's or a PyTorchJob's pods; other objects have none."""
    spec = manifest.get("spec", {})
    for one in (spec, *spec.get("pytorchReplicaSpecs", {}).values()):
        yield from one.get("template", {}).get("spec", {}).get("containers", ())


def _repository(image: str) -> str:
    """An image's name without tag and digest, in full: of rvk8s:1 docker.io/library/rvk8s."""
    name = re.sub(r":[^:/]*$", "", image.partition("@")[0])
    host, _, rest = name.partition("/")
    if not rest or not (host == "localhost" or set(host) & {".", ":"}):
        host, rest = "docker.io", name
    if host == "docker.io" and "/" not in rest:
        rest = f"library/{rest}"
    return f"{host}/{rest}"
