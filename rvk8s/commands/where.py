"""Where runs are looked for: the options that say it, and what they mean."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rvk8s.runs.places import Places

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]


def all_of(*options: Decorator) -> Decorator:
    """Several options in one."""

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _file_option(*names: str) -> Decorator:
    return click.option(
        *names,
        metavar="FILE",
        type=click.Path(),
        help="The rvk8s.yaml; default: the one of this folder or of the nearest one above.",
    )


file_option = _file_option("-f", "--file")
#: For `logs`, where -f follows, as in kubectl and tail.
long_file_option = _file_option("--file")


root_uri_option = click.option(
    "--root-uri",
    metavar="URI",
    help="The folder or s3://bucket/prefix of the runs; default: rootUri of rvk8s.yaml.",
)


def _is_there(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    from rvk8s.errors import InputError

    if value and not os.path.exists(value):
        fix = "give the path of a kubeconfig"
        raise InputError("there is no such file", where=f"--kubeconfig {value}", fix=fix)
    return value or None


#: In which namespace of which cluster.
cluster_place = all_of(
    click.option(
        "-n",
        "--namespace",
        metavar="NAME",
        help="The namespace of the runs; default: namespace of rvk8s.yaml, else the kubeconfig's.",
    ),
    click.option(
        "--context", metavar="NAME", help="The context of the kubeconfig; default: the current one."
    ),
    click.option(
        "--kubeconfig",
        metavar="FILE",
        callback=_is_there,
        help="The kubeconfig; default: the files of KUBECONFIG, else ~/.kube/config.",
    ),
)


def root_uri_of(given: str | None, file: str | None) -> str:
    """--root-uri, else the rootUri of rvk8s.yaml; absolute."""
    from rvk8s import project
    from rvk8s.errors import InputError
    from rvk8s.plan import absolute_root

    if given is not None:
        return absolute_root(given, str(Path.cwd()), "--root-uri")
    path = Path(file) if file else project.find()
    found = project.root_uri_of(path)
    if found is None:
        fix = "add it or give --root-uri: a folder or s3://bucket/prefix"
        raise InputError("has no rootUri", where=str(path), fix=fix)
    return found


def find_places(
    root_uri: str | None,
    file: str | None,
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None,
    on_cluster: bool = False,
    all_namespaces: bool = False,
) -> Places:
    """Where --root-uri, -n, --context, --kubeconfig and rvk8s.yaml say that runs are.

    -n, --context or --kubeconfig alone means the cluster, --root-uri alone the storage; rvk8s.yaml
    may name both. Runs on S3 may be of a cluster; where none is named, that of the kubeconfig is
    asked.

    Args:
        on_cluster: a cluster is needed: where none is named, that of the kubeconfig.
        all_namespaces: of a cluster; stronger than `namespace`.
    """
    from rvk8s import project, storage
    from rvk8s.cluster import Cluster
    from rvk8s.cluster.kubeconfig import is_there
    from rvk8s.runs.places import Places

    named = (namespace, context, kubeconfig)
    on_cluster = on_cluster or all_namespaces or any(name is not None for name in named)
    if root_uri is None and not on_cluster:
        path = Path(file) if file else project.find()
        namespace = project.namespace_of(path)
        on_cluster = namespace is not None
        found = project.root_uri_of(path) if on_cluster else root_uri_of(None, file)
    else:
        found = None if root_uri is None else root_uri_of(root_uri, file)
        if on_cluster and namespace is None:
            namespace = _file_namespace(file)
    guess = not on_cluster and storage.is_s3(found or "") and is_there()
    cluster = None
    if on_cluster:
        cluster = Cluster.connect(context=context, namespace=namespace, file=kubeconfig)
        cluster.namespace = "" if all_namespaces else cluster.namespace
    return Places(found, cluster, guess)


def status_command_line(
    run_id: str,
    *,
    namespace: str | None = None,
    context: str | None = None,
    kubeconfig: str | None = None,
    root_uri: str | None = None,
    file: str | None = None,
) -> str:
    """The command that follows a run, where it was looked for."""
    given = {"-n": namespace, "--context": context, "--kubeconfig": kubeconfig}
    given |= {"--root-uri": root_uri, "-f": file}
    words = [word for flag, value in given.items() if value for word in (flag, value)]
    return shlex.join(["rvk8s", "status", run_id, "-w", *words])


def _file_namespace(file: str | None) -> str | None:
    from rvk8s import project
    from rvk8s.errors import InputError

    try:
        return project.namespace_of(Path(file) if file else project.find())
    except InputError:
        if file:
            raise
        return None
