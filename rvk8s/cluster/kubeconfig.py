"""Finds the cluster as kubectl finds it: kubeconfig files, or the service account of a pod."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from rvk8s.errors import InputError

if TYPE_CHECKING:
    from urllib3 import HTTPHeaderDict

_IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: The lists of a kubeconfig -> the key of an entry that has its settings.
_ENTRIES = {"clusters": "cluster", "users": "user", "contexts": "context"}
#: Servers that no proxy of the environment is for, as Go's libraries have it.
_LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|::1")


def is_there() -> bool:
    """Whether there is a kubeconfig, or the service account of a pod."""
    return bool(_files()) or (_IN_CLUSTER / "token").exists()


@dataclass(frozen=True)
class Connection:
    """What requests to a cluster need.

    Attributes:
        api: the client library's ApiClient.
        namespace: that of the context, or of the pod.
        context: the kubeconfig's that it is of; None in a pod.
        acts_as: headers that name the user whom the server is to take us for.
        passes: whether it has a token that is valid for some time, and a later one is another.
    """

    api: Any
    namespace: str
    context: str | None = None
    acts_as: tuple[tuple[str, str], ...] = ()
    passes: bool = False

    def authorize(self, headers: HTTPHeaderDict) -> None:
        """Add who we are; a token that has expired is fetched anew."""
        # That a fetch failed is told by the server's answer.
        with _messages() if self.passes else nullcontext():
            self.api.update_params_for_auth(headers, [], ["BearerToken"])
        for name, value in self.acts_as:
            headers.add(name, value)


def connection(context: str | None, file: str | None = None) -> Connection:
    """The connection that kubectl would make.

    Args:
        context: None: the current one.
        file: the only kubeconfig; None: as kubectl finds them.

    Raises:
        InputError: there is none, or something is wrong with it.
    """
    from kubernetes.client.api_client import ApiClient
    from kubernetes.client.configuration import Configuration
    from kubernetes.config.config_exception import ConfigException

    settings = Configuration()
    try:
        context, namespace, user = _load(settings, context, file)
        acts_as = tuple(_acts_as(user))
    except (ConfigException, OSError, KeyError, TypeError, ValueError) as error:
        fix = "look at KUBECONFIG and `kubectl config get-contexts`, or give --context"
        where = "kubeconfig"
        if file is not None:
            fix, where = "give another file, or --context", "--kubeconfig"
        text = str(error) or type(error).__name__
        raise InputError(text.rstrip("."), where=where, fix=fix) from error
    passes = "exec" in user or "tokenFile" in user
    return Connection(ApiClient(settings), namespace, context, acts_as, passes)


def _load(
    settings: Any, context: str | None, file: str | None
) -> tuple[str | None, str, dict[str, Any]]:
    """Fill the settings of a connection; gives its context, its namespace and the user's entry."""
    from kubernetes.config.incluster_config import load_incluster_config

    files = _files(file)
    if not files and file is None and context is None and (_IN_CLUSTER / "token").exists():
        load_incluster_config(settings)
        _set_proxy(settings)
        return None, (_IN_CLUSTER / "namespace").read_text().strip(), {}
    if not files:
        raise FileNotFoundError(f"there is no file {file or _named_files()}")
    contents = {path: _mapping(path) for path in files}
    configs = [config for config in contents.values() if config]
    # As kubectl: the first file that says it wins; the library takes the last.
    context = context or next((c["current-context"] for c in configs if _current(c)), None)
    if context is None:
        raise ValueError(f"{file or _named_files()} names no current context")
    chosen = _named(configs, "contexts", context).get("context") or {}
    user = _named(configs, "users", str(chosen.get("user"))).get("user") or {}
    # The library refuses empty files.
    _load_files([path for path, config in contents.items() if config], context, settings, user)
    cluster = _named(configs, "clusters", str(chosen.get("cluster"))).get("cluster") or {}
    _set_proxy(settings, cluster.get("proxy-url"))
    return context, str(chosen.get("namespace") or "default"), user


def _load_files(files: list[str], context: str, settings: Any, user: dict[str, Any]) -> None:
    """Have the library read a context's cluster and user, and log in."""
    from kubernetes.config.kube_config import load_kube_config

    with _messages() as said:
        try:
            load_kube_config(os.pathsep.join(files), context, settings, persist_config=False)
        except AttributeError as error:
            raise ValueError(f"a value of context {context} has a wrong type: {error}") from error
    if "exec" in user and not settings.api_key and not settings.cert_file:
        # The library would go on as nobody.
        why = said[-1].rstrip(".") if said else "it gave no credentials"
        raise ValueError(f"{user['exec'].get('command')}, which logs in, failed ({why})")


def _acts_as(user: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The headers of a user who acts as another one; the library knows nothing of it.

    Raises:
        ValueError: they cannot be made.
    """
    more = [key for key in ("as-uid", "as-groups", "as-user-extra") if user.get(key)]
    if not user.get("as"):
        if more:
            raise ValueError(f"a user has {more[0]} and no as")
        return
    found = [("Impersonate-User", user["as"])]
    found += [("Impersonate-Uid", user["as-uid"])] if user.get("as-uid") else []
    found += [("Impersonate-Group", one) for one in _list(user.get("as-groups"), "as-groups")]
    for key, values in _dict(user.get("as-user-extra"), "as-user-extra").items():
        name = f"Impersonate-Extra-{quote(str(key).lower(), safe='')}"
        found += [(name, one) for one in _list(values, f"as-user-extra.{key}")]
    for name, value in found:
        if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
            raise ValueError(f"a user acts as {value!r}, which is no name")
        yield name, value


def _named_files() -> str:
    return os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")


def _files(file: str | None = None) -> list[str]:
    named = _named_files().split(os.pathsep) if file is None else [file]
    return [path for path in named if path and os.path.exists(path)]


def _set_proxy(settings: Any, named: str | None = None) -> None:
    """The proxy that kubectl would take.

    The library knows that of the environment only, and prefers that for http.

    Args:
        named: the kubeconfig's; NO_PROXY is not for it.

    Raises:
        ValueError: a proxy of a kind that we cannot use.
    """
    from urllib.request import getproxies_environment

    server = urlsplit(settings.host)
    proxy, settings.no_proxy = named, "" if named else settings.no_proxy
    if not named and not _LOOPBACK.fullmatch(server.hostname or ""):
        proxy = getproxies_environment().get(server.scheme)
    if proxy:
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        parts = urlsplit(proxy)
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"proxies by {parts.scheme}:// are not supported, give one by http://")
        if parts.username:
            from urllib3.util import make_headers

            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            settings.proxy_headers = make_headers(proxy_basic_auth=pair)
    settings.proxy = proxy


def _mapping(path: str) -> dict[str, Any]:
    """A kubeconfig file; an empty one says nothing.

    Raises:
        ValueError: it is not YAML, or not of a kubeconfig's form.
    """
    import yaml

    try:
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is no kubeconfig")
    for key, kind in _ENTRIES.items():
        for index, entry in enumerate(_list(value.get(key), f"{path}: {key}")):
            where = f"{path}: {key}[{index}]"
            settings = _dict(_dict(entry, where).get(kind), f"{where}.{kind}")
            _dict(settings.get("exec"), f"{where}.{kind}.exec")
    if not isinstance(value.get("current-context") or "", str):
        raise ValueError(f"{path}: current-context is not a text")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if isinstance(value, list) or value is None:
        return value or []
    raise ValueError(f"{where} is not a list")


def _dict(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, dict) or value is None:
        return value or {}
    raise ValueError(f"{where} is not a mapping")


def _current(config: dict[str, Any]) -> bool:
    return bool(config.get("current-context"))


def _named(configs: Iterable[dict[str, Any]], key: str, name: str) -> dict[str, Any]:
    """The entry of a name; empty where there is none, which the library refuses."""
    entries = (entry for config in configs for entry in config.get(key) or ())
    return next((entry for entry in entries if entry.get("name") == name), {})


@contextmanager
def _messages() -> Iterator[list[str]]:
    """What the library logs, which would be lines of its own on stderr."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler, root = Keep(), logging.getLogger()
    root.addHandler(handler)
    try:
        yield said
    finally:
        root.removeHandler(handler)
