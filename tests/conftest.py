"""Fixtures that more than one kind of test needs: third-party programs, the embedded parent, kubectl, namespaces."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from capn.dev import processes
from capn.dev.parent import Parent
from capn.dev.supplies import choose_source
from capn.kube.client import KubeClient
from capn.kube.connect import connect_kubeconfig
from capn.parts.catalogue import CONTROL_PLANE_NAMES, select_parts
from capn.parts.ensure import find_parts
from capn.settings import cache_dir

T = TypeVar("T")
REPO = Path(__file__).resolve().parent.parent
# The quick ones first, real machines last: a mistake shows early.
ORDER = ("unit", "golden", "contract", "scenario", "integration", "e2e")
STAGE_TIMES = "CAPN_STAGE_TIMES"
STARTED = time.monotonic()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        part = item.path.relative_to(REPO / "tests").parts[0]
        return ORDER.index(part) if part in ORDER else 0

    items.sort(key=rank)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The times of CI's stages, above pytest's own last line."""
    if path := os.environ.get(STAGE_TIMES):
        terminalreporter.section("stage times")
        terminalreporter.write_line(Path(path).read_text().rstrip())
        terminalreporter.write_line(f"{'tests':<34} {time.monotonic() - STARTED:6.0f} s")


def run_async(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine from a synchronous fixture, in this thread (the kernel ties child processes to it)."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work())


@pytest.fixture(scope="session")
def binaries() -> Mapping[str, Path]:
    """Every third-party program that the cache holds; those of the parent must be there."""
    paths = find_parts(select_parts([]), source=choose_source(), cache=cache_dir())
    missing = [name for name in CONTROL_PLANE_NAMES if name not in paths]
    if missing:
        pytest.fail(f"not built yet: {', '.join(missing)}; run `make parts` first")
    return paths


@pytest.fixture(scope="session")
def parent(binaries: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parent]:
    """A real parent cluster, without CRDs, for the whole session. Everything of it must be gone at the end."""
    directory = tmp_path_factory.mktemp("parent")
    running = Parent(directory, binaries, audit=True, dies_with_us=True)
    run_async(lambda: running.up(print))
    try:
        yield running
    finally:
        run_async(running.down)
        left = processes.find_owned(directory)
        assert not left, f"processes left behind: {left}"


@dataclass(frozen=True)
class Kubectl:
    """kubectl of the version under test, for one cluster."""

    binary: Path
    kubeconfig: Path

    def run(self, *args: str, stdin: str | None = None, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run and return whatever came out."""
        return subprocess.run(
            [str(self.binary), f"--kubeconfig={self.kubeconfig}", *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            # A cache of its own: kubectl's discovery cache is keyed by address, and ports are reused.
            env={**os.environ, "KUBECACHEDIR": str(self.kubeconfig.parent / "kubectl-cache")},
        )

    def __call__(self, *args: str, stdin: str | None = None, timeout_s: float = 60.0) -> str:
        """Run and return stdout; fail the test with stderr if kubectl does."""
        done = self.run(*args, stdin=stdin, timeout_s=timeout_s)
        assert done.returncode == 0, f"kubectl {' '.join(args)}: {done.stderr}{done.stdout}"
        return done.stdout

    def json(self, *args: str) -> Any:
        """Run with `-o json` and parse."""
        return json.loads(self(*args, "-o", "json"))

    def apply(self, *manifests: Mapping[str, Any]) -> str:
        """`kubectl apply`, validated by the server only (kubectl's own needs the whole OpenAPI document)."""
        return self(
            "apply",
            "--validate=false",
            "-f",
            "-",
            stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}),
        )


@pytest.fixture(scope="session")
def kubectl(parent: Parent, binaries: Mapping[str, Path]) -> Kubectl:
    return Kubectl(binaries["kubectl"], parent.kubeconfig)


@pytest.fixture
async def client(parent: Parent) -> AsyncIterator[KubeClient]:
    """A client of the parent with the administrator's rights."""
    connected = await connect_kubeconfig(parent.kubeconfig)
    yield connected
    await connected.close()


@pytest.fixture(scope="session")
def crds(kubectl: Kubectl) -> list[str]:
    """capn's CRDs, established in the parent; their names."""
    kubectl("apply", "--server-side", "-f", str(REPO / "crds"))
    names = kubectl("get", "crd", "-o", "name").split()
    kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    return names


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """A namespace for one test, deleted (without waiting) afterwards."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    # The controller manager's own object, which else comes into the middle of a test's watch.
    kubectl("wait", "--for=create", "configmap/kube-root-ca.crt", "-n", name, "--timeout=120s")
    yield name
    kubectl("delete", "namespace", name, "--wait=false")
