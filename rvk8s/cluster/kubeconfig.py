"""Finds the cluster as kubectl finds it: kubeconfig files, or the service account of a pod."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def load(settings: Any, context: str | None) -> str:
    """Fill the settings of a connection.

    Args:
        settings: the client library's Configuration.
        context: None: the current one.

    Returns:
        The namespace that goes with it.

    Raises:
        ConfigException, OSError, KeyError, TypeError, ValueError: what is wrong with the files.
    """
    from kubernetes.config.incluster_config import load_incluster_config
    from kubernetes.config.kube_config import load_kube_config

    named = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    files = [path for path in named.split(os.pathsep) if path and os.path.exists(path)]
    if not files and context is None and (_IN_CLUSTER / "token").exists():
        load_incluster_config(settings)
        return (_IN_CLUSTER / "namespace").read_text().strip()
    if not files:
        raise FileNotFoundError(f"there is no file {named}")
    configs = [_mapping(path) for path in files]
    # As kubectl: the first file that says it wins; the library takes the last.
    context = context or next((c["current-context"] for c in configs if _current(c)), None)
    if context is None:
        raise ValueError(f"{named} names no current context")
    chosen = _named(configs, "contexts", context).get("context") or {}
    with _messages() as said:
        load_kube_config(os.pathsep.join(files), context, settings, persist_config=False)
    user = _named(configs, "users", str(chosen.get("user"))).get("user") or {}
    if "exec" in user and not settings.api_key and not settings.cert_file:
        # The library would go on as nobody.
        why = said[-1].rstrip(".") if said else "it gave no credentials"
        raise ValueError(f"{user['exec'].get('command')}, which logs in, failed ({why})")
    return str(chosen.get("namespace") or "default")


def _mapping(path: str) -> dict[str, Any]:
    """A kubeconfig file.

    Raises:
        ValueError: it is not YAML, or no mapping.
    """
    import yaml

    try:
        value = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is no kubeconfig")
    return value


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
