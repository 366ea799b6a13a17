"""The Containerfile, step by step: its COPY and RUN instructions are carried out in a scratch directory.

A builder needs a base image from a registry, which a test machine need not have. What differs from a real build: the
base is this machine's Python, apt packages are not installed, and /opt and /src lie below the scratch directory.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPO

UID = 65532


@dataclass(frozen=True)
class Step:
    """One instruction of the Containerfile and the stage it is in (0: build, 1: final)."""

    stage: int
    name: str
    rest: str


def _read_steps() -> list[Step]:
    text = re.sub(r"^\s*#.*\n", "", (REPO / "Containerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    steps: list[Step] = []
    stage = -1
    for line in filter(None, map(str.strip, text.splitlines())):
        name, rest = line.split(maxsplit=1)
        stage += name == "FROM"
        steps.append(Step(stage, name, rest))
    return steps


STEPS = _read_steps()


def _values(name: str, stage: int) -> list[str]:
    return [step.rest for step in STEPS if step.name == name and step.stage == stage]


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """The scratch directory after the build stage; readable by the image's user, unlike pytest's own directories."""
    directory = Path(tempfile.mkdtemp(prefix="capn-image-"))
    directory.chmod(0o755)
    try:
        _carry_out(directory)
        yield directory
    finally:
        shutil.rmtree(directory)


def _carry_out(root: Path) -> None:
    workdir = root
    for step in (step for step in STEPS if step.stage == 0):
        if step.name == "WORKDIR":
            workdir = root / step.rest.removeprefix("/")
            workdir.mkdir(parents=True)
        elif step.name == "COPY":
            _copy(step.rest.split(), workdir)
        elif step.name == "RUN" and "apt-get" not in step.rest:
            # pip's cache is of use here, unlike in an image.
            command = step.rest.replace("/opt/capn", str(root / "opt/capn")).replace(" --no-cache-dir", "")
            done = subprocess.run(["sh", "-euc", command], cwd=workdir, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"


def _copy(words: list[str], workdir: Path) -> None:
    *sources, target = words
    for source in map(REPO.joinpath, sources):
        destination = workdir / target / source.name if target == "./" else workdir / target
        destination.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, destination, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, destination)


def _is_public(path: Path) -> bool:
    """True when everybody may reach the file; an interpreter in somebody's home directory is theirs alone."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)


def _capn(root: Path, *args: str) -> str:
    """Run the entry point as the image would: no environment, the image's user (when we may change to it)."""
    (entry,) = (json.loads(text) for text in _values("ENTRYPOINT", 1))
    program = root / entry[0].removeprefix("/")
    user = UID if os.geteuid() == 0 and _is_public(program.parent / "python") else None
    done = subprocess.run(
        [str(program), *args], env={}, cwd="/", user=user, group=user, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


def test_what_is_copied_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (REPO / ".containerignore").read_text().splitlines() if line.startswith("!")}
    for words in (text.split() for text in _values("COPY", 0)):
        for source in words[:-1]:
            assert (REPO / source).exists(), source
            assert source.split("/")[0] in kept, source


def test_the_final_stage_runs_as_nobody_and_takes_only_the_result() -> None:
    assert _values("USER", 1) == [f"{UID}:{UID}"]
    assert _values("COPY", 1) == ["--from=build /opt/capn /opt/capn"]
    assert [json.loads(text) for text in _values("CMD", 1)] == [["run"]]


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """What the final stage writes to /etc; /etc/capn is mounted where the image runs."""
    etc = tmp_path / "etc"
    etc.mkdir()
    for step in (step for step in STEPS if step.stage == 1 and step.name == "RUN" and "apt-get" not in step.rest):
        subprocess.run(["sh", "-euc", re.sub(r"/etc/(?!capn/)", f"{etc}/", step.rest)], check=True)
    return etc


def test_the_images_user_has_a_name_and_a_home_that_can_be_written(etc: Path) -> None:
    users = [line.split(":") for line in (etc / "passwd").read_text().splitlines()]
    ((name, _, _, group, _, home, shell),) = [user for user in users if user[2] == str(UID)]
    assert (name, group, home, shell) == ("capn", str(UID), "/tmp", "/usr/sbin/nologin")  # noqa: S108 - an emptyDir
    assert f"capn:x:{UID}:" in (etc / "group").read_text().splitlines()
    deployment = yaml.safe_load((REPO / "config/manager/deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert home in {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ssh") is None, reason="needs root and ssh")
def test_ssh_works_for_the_images_user_and_trusts_the_secrets_host_keys(etc: Path) -> None:
    laid_over = "".join(f"mount --bind {etc / name} /etc/{name} && " for name in ("passwd", "ssh/ssh_config.d"))
    as_user = f"exec setpriv --reuid={UID} --regid={UID} --clear-groups ssh -G hypervisor.example"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", laid_over + as_user], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "globalknownhostsfile /etc/capn/libvirt/known_hosts" in done.stdout


def test_both_stages_have_one_pinned_base() -> None:
    assert [step.rest for step in STEPS if step.name == "FROM"] == ["${BASE} AS build", "${BASE}"]
    (base,) = _values("ARG", -1)
    assert re.fullmatch(r"BASE=[a-z]+:\d+\.\d+-slim-[a-z]+", base)


@pytest.mark.timeout(1800)
def test_the_controller_starts_from_the_installed_tree(root: Path) -> None:
    version = (REPO / "capn/__init__.py").read_text().split('"')[-2]
    assert version in _capn(root, "version")
    assert "--settings" in _capn(root, "run", "--help")


@pytest.mark.timeout(1800)
def test_the_image_holds_what_the_controller_needs(root: Path) -> None:
    python = root / "opt/capn/bin/python"
    code = "import capn, libvirt, os; print(*os.listdir(os.path.dirname(capn.__file__)))"
    done = subprocess.run([str(python), "-c", code], env={}, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"_crds", "_hack", "controllers"} <= set(done.stdout.split())
    assert "pytest" not in {path.name for path in (root / "opt/capn/lib").glob("python*/site-packages/*")}
