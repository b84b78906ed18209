"""Where the objects of a kind lie in the API, and what the server's refusals mean."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from rvk8s.errors import ClusterUnavailable, Conflict, InputError, Rvk8sError

#: Answers after which the same request may succeed later.
_PASSING = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Kind:
    """Where the objects of a kind lie in the API.

    Attributes:
        api: "v1" or "group/version".
        plural: as in URLs.
        namespaced: whether they lie in a namespace.
        brought_by: who installs the kind, where Kubernetes itself does not.
    """

    api: str
    plural: str
    namespaced: bool = True
    brought_by: str | None = None


_OPERATOR = "the Kubeflow training operator"
_KUEUE = "Kueue 0.15 or newer"
KINDS: Mapping[str, Kind] = {
    "ConfigMap": Kind("v1", "configmaps"),
    "CronJob": Kind("batch/v1", "cronjobs"),
    "Event": Kind("v1", "events"),
    "Job": Kind("batch/v1", "jobs"),
    "Lease": Kind("coordination.k8s.io/v1", "leases"),
    "LocalQueue": Kind("kueue.x-k8s.io/v1beta2", "localqueues", brought_by=_KUEUE),
    "Namespace": Kind("v1", "namespaces", namespaced=False),
    "NetworkPolicy": Kind("networking.k8s.io/v1", "networkpolicies"),
    "Pod": Kind("v1", "pods"),
    "PyTorchJob": Kind("kubeflow.org/v1", "pytorchjobs", brought_by=_OPERATOR),
    "Secret": Kind("v1", "secrets"),
    "Service": Kind("v1", "services"),
    "ServiceAccount": Kind("v1", "serviceaccounts"),
    "Workload": Kind("kueue.x-k8s.io/v1beta2", "workloads", brought_by=_KUEUE),
}
#: What the server says where nothing can be made any more.
_TERMINATED = re.compile(r"in namespace (\S+) because it is being terminated")
#: What else helps where a kind is not there.
_INSTEAD = {"pytorchjobs": ", or give --launcher job", "localqueues": ", or set no values.queue"}


class NotFound(Rvk8sError):
    """There is no such object."""


class Forbidden(InputError):
    """The user's roles do not allow this (403)."""


class Unauthorized(InputError):
    """The server does not know the user (401)."""


class NoSuchKind(InputError):
    """The cluster lacks a kind that somebody has to install."""


class WatchExpired(Rvk8sError):
    """The version from which a watch should go on is gone (410): list again."""


class Response(Protocol):
    """What is read of an HTTP response."""

    @property
    def status(self) -> int: ...
    @property
    def data(self) -> bytes: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


def path_of(namespace: str, kind: str, name: str | None = None) -> str:
    """The path of a kind's objects in a namespace (empty: in all of them), or of one of them."""
    where = KINDS[kind]
    path = f"/{'apis' if '/' in where.api else 'api'}/{where.api}"
    if where.namespaced and namespace:
        path += f"/namespaces/{quote(namespace, safe='')}"
    path += f"/{where.plural}"
    return path if name is None else f"{path}/{quote(name, safe='')}"


def kind_in(path: str) -> str:
    """Which kind's objects a path is of, as URLs name it."""
    plurals = {kind.plural for kind in KINDS.values()}
    return next((part for part in reversed(path.split("/")) if part in plurals), path)


def refusal(response: Response, request: str, server: str) -> Rvk8sError:
    """The error that an answer other than 2xx stands for.

    Args:
        request: method and path, for the message.
        server: the API server's URL.
    """
    data = response.data  # reads a stream to its end, too
    try:
        answer = json.loads(data)
        text, reason = str(answer.get("message", "")), answer.get("reason", "")
    except (ValueError, AttributeError):
        text, reason = data.decode(errors="replace")[:300], ""
    status = response.status
    if status in _PASSING:
        after = response.headers.get("Retry-After", "")
        seconds = float(after) if after.isdecimal() else None
        return ClusterUnavailable(f"{server} answered {status}: {text}", seconds)
    if status == 404 and reason == "NotFound" and "could not find the requested" not in text:
        return NotFound(text)
    if status == 404:
        return _no_such_kind(request, server)
    if status == 409:
        return Conflict(text)
    if status == 410:
        return WatchExpired(text)
    if status == 401:
        fix = "log in again, or look at the user in the kubeconfig"
        return Unauthorized("does not accept these credentials", where=server, fix=fix)
    # Else nobody may: a quota, a policy, a namespace that is being deleted.
    if status == 403 and 'forbidden: User "' in text:
        fix = "ask the administrator for the roles of helm/rvk8s-platform, or give -n NAMESPACE"
        return Forbidden(f"not allowed: {text}", where=server, fix=fix)
    if found := _TERMINATED.search(text):
        fix = "wait until it is gone and make it anew, or give another one with -n"
        return InputError(f"the namespace {found[1]} is being deleted", fix=fix)
    return InputError(f"{request}: {text or status}", where=server)


def _is_of(request: str, kind: Kind) -> bool:
    # Every path of a namespace has "namespaces" in it, so the API has to fit too.
    return f"/{kind.api}/" in request and kind.plural in request.partition("?")[0].split("/")[-2:]


def _no_such_kind(request: str, server: str) -> InputError:
    kind = next((k for k in KINDS.values() if _is_of(request, k)), None)
    if kind is None or kind.brought_by is None:
        return InputError(f"does not know {request}", where=server, fix="is it a Kubernetes API?")
    fix = f"install {kind.brought_by}"
    fix += _INSTEAD.get(kind.plural, "")
    return NoSuchKind(f"has no {kind.plural} ({kind.api})", where=server, fix=fix)
