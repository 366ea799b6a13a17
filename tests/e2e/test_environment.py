"""`capn dev` and `capn demo --clean` as a person runs them: up, used, half broken, gone. No machine boots."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from capn.dev import processes
from capn.dev.hypervisor import Hypervisor
from tests.conftest import REPO, Kubectl

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
Run = Callable[..., subprocess.CompletedProcess[str]]
NAME = "envtest"
CLUSTER = {
    "apiVersion": "capn.dev/v1alpha1",
    "kind": "NestedCluster",
    "metadata": {"name": "sim", "namespace": "default"},
    "spec": {"version": "v1.37.2", "infrastructure": {"kind": "memory"}},
}


@pytest.fixture
def home() -> Iterator[Path]:
    """A state home of its own; whatever happens, nothing of it keeps running. pytest's own paths are too long here."""
    with tempfile.TemporaryDirectory(prefix="capn-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        yield directory
        Hypervisor(directory / "capn" / NAME / "hypervisor").purge()
        for record in processes.find_owned(directory):
            os.kill(record.pid, signal.SIGKILL)


@pytest.fixture
def capn(home: Path) -> Run:
    def run(*args: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "XDG_STATE_HOME": str(home)}
        argv = [sys.executable, "-m", "capn", *args]
        done = subprocess.run(argv, cwd=REPO, env=env, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == expect, f"capn {' '.join(args)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    return run


@pytest.mark.usefixtures("binaries")
def test_up_use_break_and_clean(capn: Run, home: Path, kubectl: Kubectl) -> None:
    directory = home / "capn" / NAME
    done = capn("dev", "up", "--name", NAME, "--accel", "emulate")
    assert " * Starting the parent cluster ... done (" in done.stdout
    status = json.loads(capn("dev", "status", "--name", NAME, "-o", "json").stdout)
    assert [status[part] for part in ("parent", "hypervisor", "controller")] == ["running"] * 3

    parent = Kubectl(kubectl.binary, Path(status["kubeconfig"]))
    parent.apply(CLUSTER)
    parent("wait", "--for=condition=Ready", "nestedcluster/sim", "--timeout=120s", timeout_s=150)
    tree = json.loads(capn("tree", "--kubeconfig", status["kubeconfig"], "-o", "json").stdout)
    assert [(node["name"], node["ready"], len(node["machines"])) for node in tree["clusters"]] == [("sim", True, 1)]
    written = home / "sim.kubeconfig"
    capn("kubeconfig", "sim", "--kubeconfig", status["kubeconfig"], "--write", str(written))
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    missing = capn("kubeconfig", "nope", "--kubeconfig", status["kubeconfig"], expect=3)
    assert "this cluster has no NestedCluster default/nope" in missing.stderr

    # Half broken: the controller and etcd die; `up` repairs, the data is still there.
    asyncio.run(processes.kill(directory / "controller", "controller"))
    asyncio.run(processes.kill(directory / "parent" / "run", "etcd"))
    capn("dev", "up", "--name", NAME, "--accel", "emulate")
    assert "sim" in parent("get", "nestedclusters")

    # And half broken it can be taken down, twice.
    asyncio.run(processes.kill(directory / "parent" / "run", "kube-apiserver"))
    done = capn("demo", "--clean", "--name", NAME)
    assert "no domain, volume, network, process, mount or file is left" in done.stdout
    assert not directory.exists()
    assert not processes.find_owned(home)
    capn("demo", "--clean", "--name", NAME)


@pytest.mark.usefixtures("binaries")
def test_clean_deletes_through_the_api_first(capn: Run, home: Path, kubectl: Kubectl) -> None:
    """With a node, which an environment gets at any time and keeps until it is cleaned."""
    capn("dev", "up", "--name", NAME, "--accel", "emulate")
    capn("dev", "up", "--node", "--name", NAME, "--accel", "emulate")
    capn("dev", "down", "--name", NAME)
    capn("dev", "up", "--name", NAME, "--accel", "emulate")
    status = json.loads(capn("dev", "status", "--name", NAME, "-o", "json").stdout)
    assert status["node"].startswith("running")
    parent = Kubectl(kubectl.binary, home / "capn" / NAME / "parent" / "kubeconfig")
    parent.apply(CLUSTER)
    parent("wait", "--for=condition=Ready", "nestedcluster/sim", "--timeout=120s", timeout_s=150)
    asyncio.run(
        processes.kill(home / "capn" / NAME / "controller", "controller")
    )  # clean starts it again for the finalizers
    done = capn("demo", "--clean", "--name", NAME)
    assert 'nestedcluster.capn.dev "sim" deleted' in done.stdout
    assert not (home / "capn" / NAME).exists()
