"""What docker/build and docker/publish have done, and what the stage's image sets for GPUs.

The programs here only write down what they are given.
"""

from __future__ import annotations

import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from said import says

from rvk8s import yaml_loader

ROOT = Path(__file__).parents[2]
_DOCKER = """#!/bin/sh
echo "$@" >> "$0.log"
case "$1" in
image) cat "$0.digests" ;;
--version) echo "${0##*/} version 5.4.2" ;;
esac
"""
# Podman writes what it has pushed where it is told to.
_PODMAN = f"""{_DOCKER}
case "$*" in "push --quiet --digestfile "*) printf sha256:%064d "${{#5}}" >"$4" ;; esac
"""


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    program = tmp_path / "docker"
    program.write_text(_DOCKER)
    program.chmod(0o755)
    return program


def _run(docker: Path, script: str, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environ |= {"PATH": f"{docker.parent}:/usr/bin:/bin", "TMPDIR": str(docker.parent)}
    return subprocess.run(
        [ROOT / "docker" / script, *args],
        capture_output=True,
        text=True,
        env={"HOME": os.environ["HOME"], **environ},
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("registry", ["registry.example.com/team", "localhost:5000"])
def test_build_names_two_images(registry: str, docker: Path) -> None:
    done = _run(docker, "build", "-t", f"{registry}/rvk8s:1")
    assert done.returncode == 0, done.stderr
    calls = docker.with_name("docker.log").read_text().splitlines()
    assert f"--target stage --tag {registry}/rvk8s:1 " in calls[0]
    assert f"--target driver --tag {registry}/rvk8s-driver:1 " in calls[1]


@pytest.mark.parametrize(
    ("program", "option"),
    [
        ("docker", "--platform linux/amd64 "),
        ("podman", "--platform linux/amd64 "),
        ("buildctl", "--opt platform=linux/amd64 "),
    ],
)
def test_build_for_another_platform(program: str, option: str, docker: Path) -> None:
    builder = docker.rename(docker.with_name(program))
    for options, count in (((), 0), (("-p", "linux/amd64"), 2)):
        log = builder.with_name(f"{program}.log")
        log.unlink(missing_ok=True)
        done = _run(builder, "build", *options, BUILDER=program)
        assert done.returncode == 0, done.stderr
        calls = log.read_text().splitlines()
        assert len(calls) == 2
        assert sum(option in call for call in calls) == count
        assert sum("platform" in call for call in calls) == count


def test_the_stage_s_image_and_gpus() -> None:
    """GKE mounts the driver at /usr/local/nvidia. With NVIDIA's runtime NVIDIA_VISIBLE_DEVICES
    would give every pod of the image, also one that asks for no GPU, all of its node."""
    text = (ROOT / "docker/Dockerfile").read_text()
    stage = text.partition("FROM base AS stage\n")[2]
    set_by = dict(re.findall(r"^(?:ENV|   ) *(\w+)=(\S+)", stage, re.MULTILINE))
    paths = set_by["LD_LIBRARY_PATH"]
    assert paths == "/usr/local/nvidia/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    assert not re.search(r"^[^#]*NVIDIA_VISIBLE_DEVICES", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["rvk8s", "localhost:5000/rvk8s", "team/rvk8s:"])
@pytest.mark.parametrize("script", ["build", "publish"])
def test_a_name_without_a_tag_is_refused(script: str, name: str, docker: Path) -> None:
    done = _run(docker, script, "-t", name)
    assert done.returncode == 2
    assert "NAME:TAG" in done.stdout + done.stderr
    assert not docker.with_name("docker.log").exists()


def test_publish_prints_the_digests_of_its_own_registry(docker: Path) -> None:
    one, two = ("sha256:" + digit * 64 for digit in "12")
    names = ("registry.example.com/team/rvk8s", "registry.example.com/team/rvk8s-driver")
    lines = [f"other.example.com/team/rvk8s@{two}", *(f"{name}@{one}" for name in names)]
    docker.with_name("docker.digests").write_text("\n".join(lines) + "\n\n")
    done = _run(docker, "publish", "-t", f"{names[0]}:1")
    assert done.returncode == 0, done.stderr
    printed = yaml_loader.load(done.stdout)
    assert printed == {"image": {"stage": f"{names[0]}@{one}", "driver": f"{names[1]}@{one}"}}
    docker.with_name("docker.digests").write_text(f"{lines[0]}\n")
    done = _run(docker, "publish", "-t", f"{names[0]}:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert says(done.stderr, f"docker/publish: {names[0]}:1 …no digest…\n")


@pytest.mark.parametrize(
    ("name", "known_as"),
    [
        ("docker.io/team/rvk8s", "team/rvk8s"),
        ("docker.io/library/rvk8s", "rvk8s"),
        ("team/rvk8s", "team/rvk8s"),
    ],
)
def test_publish_knows_the_short_names_of_docker(name: str, known_as: str, docker: Path) -> None:
    lines = [f"{known_as}@sha256:{'1' * 64}", f"{known_as}-driver@sha256:{'2' * 64}"]
    docker.with_name("docker.digests").write_text("\n".join(lines) + "\n\n")
    done = _run(docker, "publish", "-t", f"{name}:1")
    assert done.returncode == 0, done.stderr
    assert yaml_loader.load(done.stdout)["image"] == {
        "stage": f"{name}@sha256:{'1' * 64}",
        "driver": f"{name}-driver@sha256:{'2' * 64}",
    }


def test_publish_prints_what_podman_says_to_have_pushed(docker: Path) -> None:
    podman = docker.rename(docker.with_name("podman"))
    podman.write_text(_PODMAN)
    local = f"registry.example.com/team/rvk8s@sha256:{'f' * 64}"
    podman.with_name("podman.digests").write_text(f"{local}\n\n")
    done = _run(podman, "publish", "-t", "registry.example.com/team/rvk8s:1")
    assert done.returncode == 0, done.stderr
    image = yaml_loader.load(done.stdout)["image"]
    names = ("registry.example.com/team/rvk8s", "registry.example.com/team/rvk8s-driver")
    assert list(image.values()) == [f"{n}@sha256:{len(n) + 2:064d}" for n in names]


def test_run_hands_on_settings_and_the_files_that_they_name(docker: Path) -> None:
    home = docker.parent / "home"
    (home / ".aws").mkdir(parents=True)
    authorities = home / "ca.pem"
    authorities.touch()
    settings = {
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_CA_BUNDLE": str(authorities),
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere/token",
        "RVK8S_STREAM": "0",
    }
    done = _run(docker, "run", "rvk8s", "list", HOME=str(home), **settings)
    assert done.returncode == 0, done.stderr
    (call,) = docker.with_name("docker.log").read_text().splitlines()
    words = call.split()
    assert {b for a, b in pairwise(words) if a == "--env"} == set(settings)
    assert {b for a, b in pairwise(words) if a == "--volume"} == {
        f"{os.getcwd()}:/workspace/project",
        f"{home}/.aws:/tmp/.aws:ro",
        f"{authorities}:{authorities}:ro",
    }
    assert "hidden" not in call
    assert words[-2:] == ["rvk8s", "list"]
