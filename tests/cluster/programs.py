"""Programs that the tests start, built from Go modules whose versions and sums tools/ locks.

Each is built once into a cache outside the tree, under a name that holds its version and a hash
of everything that decides its bytes. Test processes run side by side: the first one builds, the
others wait for it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from filelock import FileLock

_TOOLS = Path(__file__).parent / "tools"


class CannotBuild(Exception):
    """A program could not be built: Go is missing, or the build failed (its last line is said)."""


@dataclass(frozen=True)
class Tool:
    """One Go module of tools/ and what is built from it.

    Attributes:
        module: the upstream module that the programs come from; "" for one of our own.
        packages: program name -> Go package.
        version_in: Go packages whose variables gitVersion, gitMajor and gitMinor are set: without
            them Kubernetes' programs report v0.0.0 and clients refuse to talk to them.
        folders: folders of the upstream module that are kept beside the programs.
    """

    module: str
    packages: dict[str, str]
    version_in: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    flags: tuple[str, ...] = field(default=("-trimpath",))


_KUBERNETES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
TOOLS: dict[str, Tool] = {
    "helm": Tool("helm.sh/helm/v4", {"helm": "helm.sh/helm/v4/cmd/helm"}),
    "kubeconform": Tool(
        "github.com/yannh/kubeconform",
        {"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"},
    ),
    "versitygw": Tool(
        "github.com/versity/versitygw",
        {"versitygw": "github.com/versity/versitygw/cmd/versitygw"},
    ),
    "etcd": Tool("go.etcd.io/etcd/server/v3", {"etcd": "go.etcd.io/etcd/server/v3"}),
    "kubernetes": Tool(
        "k8s.io/kubernetes",
        {name: f"k8s.io/kubernetes/cmd/{name}" for name in _KUBERNETES},
        version_in=("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"),
    ),
    "coredns": Tool("github.com/coredns/coredns", {"coredns": "github.com/coredns/coredns"}),
    "training-operator": Tool(
        "github.com/kubeflow/training-operator",
        {"training-operator": "github.com/kubeflow/training-operator/cmd/training-operator.v1"},
        folders=("manifests",),
    ),
    "kueue": Tool(
        "sigs.k8s.io/kueue",
        {"kueue": "sigs.k8s.io/kueue/cmd/kueue"},
        folders=("config",),
    ),
    "netpol": Tool(
        "github.com/cloudnativelabs/kube-router/v2",
        {"kube-router": "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"},
    ),
    "buildkit": Tool(
        "github.com/moby/buildkit",
        {name: f"github.com/moby/buildkit/cmd/{name}" for name in ("buildkitd", "buildctl")},
    ),
    "pause": Tool("", {"pause": "rvk8s/tests/cluster/tools/pause"}),
}


def program(name: str) -> Path:
    """The path of a program, built now if the cache lacks it.

    Raises:
        CannotBuild: Go is missing or the build failed.
    """
    tool = next(tool for tool, known in TOOLS.items() if name in known.packages)
    return built(tool) / name


def version(tool: str) -> str:
    """The locked version of a tool, `v1.34.4`; "" for one of our own."""
    module = TOOLS[tool].module
    if not module:
        return ""
    text = (_TOOLS / tool / "go.mod").read_text()
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", text, re.MULTILINE)
    assert found, f"tools/{tool}/go.mod requires no {module}"
    return found[1]


@cache
def built(tool: str) -> Path:
    """The folder of a tool's programs and kept folders, built now if the cache lacks it.

    Raises:
        CannotBuild: Go is missing or the build failed.
    """
    known = TOOLS[tool]
    folder = _folder(tool)
    if folder.exists():
        return folder
    if shutil.which("go") is None:
        raise CannotBuild(f"Go is not installed and builds {', '.join(known.packages)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _build(tool, partial)
            partial.rename(folder)
    return folder


def is_built(tool: str) -> bool:
    """Whether the cache has a tool's programs."""
    return _folder(tool).exists()


def _folder(tool: str) -> Path:
    return cache_folder() / f"{tool}-{version(tool) or 'own'}-{_key(tool)}"


def cache_folder() -> Path:
    """Where built programs lie: $XDG_CACHE_HOME/rvk8s-tests."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rvk8s-tests"


def _key(tool: str) -> str:
    """A hash of the locked module and of the flags: what decides the programs' bytes."""
    digest = hashlib.sha256(repr(TOOLS[tool]).encode())
    for file in sorted((_TOOLS / tool).iterdir()):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


def _build(tool: str, folder: Path) -> None:
    known = TOOLS[tool]
    variables = _version_variables(tool)
    flags = [*known.flags, "-mod=readonly", "-ldflags", " ".join(["-s", "-w", *variables])]
    print(f"building {', '.join(known.packages)} {version(tool)}", file=sys.stderr, flush=True)
    if len(known.packages) == 1:
        (name, package), *_ = known.packages.items()
        _go(tool, "build", *flags, "-o", str(folder / name), package)
    else:  # one call links side by side; each program has the name of its package's folder
        _go(tool, "build", *flags, "-o", f"{folder}/", *known.packages.values())
    for kept in known.folders:
        module = _go(tool, "list", "-m", "-f", "{{.Dir}}", known.module).strip()
        shutil.copytree(Path(module) / kept, folder / kept, copy_function=shutil.copyfile)
        for path in (folder / kept).rglob("*"):  # Go's module cache is read-only
            path.chmod(0o755 if path.is_dir() else 0o644)


def _version_variables(tool: str) -> list[str]:
    wanted = version(tool)
    major, minor = wanted.removeprefix("v").split(".")[:2] if wanted else ("", "")
    values = {"gitVersion": wanted, "gitMajor": major, "gitMinor": minor}
    return [
        f"-X {package}.{name}={value}"
        for package in TOOLS[tool].version_in
        for name, value in values.items()
    ]


def _go(tool: str, *args: str) -> str:
    done = subprocess.run(
        ["go", *args],
        cwd=_TOOLS / tool,
        env={**os.environ, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise CannotBuild(f"{tool} could not be built: {lines[-1] if lines else done.returncode}")
    return done.stdout
