"""`make demo`: from nothing to a child cluster that answers, step by step.

Role: the story that the README tells, with real parts only. Inputs: an environment's name. Outputs: progress, a running
cluster, `DemoResult`. Must not: leave out a check, or end well when one failed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from capn.api.conditions import find_condition
from capn.api.resources import NESTED_CLUSTER
from capn.dev.child import check_dns, check_nodes, check_pod, read_child_kubeconfig
from capn.dev.environment import Environment, samples_dir
from capn.dev.evidence import gather_evidence
from capn.dev.files import write_private
from capn.dev.kubectl import Kubectl
from capn.dev.progress import Progress
from capn.dev.stages import StageTime, StageTracker, sum_stages
from capn.dev.state import DevState
from capn.dev.supplies import ensure_node_image, ensure_programs
from capn.dev.waiting import wait_until
from capn.errors import CapnError, InvalidSpecError, TerminalError
from capn.kube.client import KubeClient
from capn.kube.connect import connect_kubeconfig
from capn.parts.source import Report
from capn.tree.draw import draw_tree
from capn.tree.model import ClusterNode, read_tree

READY_LIMIT_S = 1800.0
# A failure that heals by itself within this time was none.
_FAILED_GRACE_S = 15.0


@dataclass(frozen=True, slots=True)
class DemoCluster:
    """A NestedCluster of the samples."""

    namespace: str
    name: str
    version: str


@dataclass
class DemoResult:
    """What the demo came to."""

    tree: list[str] = field(default_factory=list)
    stages: list[StageTime] = field(default_factory=list)
    nested: bool = False
    kubeconfigs: dict[str, Path] = field(default_factory=dict)

    @property
    def paths(self) -> list[str]:
        """The clusters as `capn kubeconfig` is told them; each of a recursive demo is in the one before."""
        return list(itertools.accumulate(self.kubeconfigs, "{}/{}".format)) if self.nested else list(self.kubeconfigs)


def read_samples(source: Path) -> list[DemoCluster]:
    """The NestedClusters that a file, or a directory's files, hold. InvalidSpecError when there is none."""
    documents: list[Any] = []
    for path in sorted(source.glob("*.yaml")) if source.is_dir() else [source]:
        documents += [document for document in yaml.safe_load_all(path.read_text()) if document]
    found = [
        DemoCluster(
            namespace=document["metadata"].get("namespace", "default"),
            name=document["metadata"]["name"],
            version=document["spec"]["version"],
        )
        for document in documents
        if document.get("kind") == "NestedCluster"
    ]
    if not found:
        raise InvalidSpecError(str(source), "holds no NestedCluster")
    return found


async def run_demo(
    state: DevState,
    progress: Progress,
    *,
    accel: Literal["auto", "kvm", "emulate"] = "auto",
    provider: Literal["libvirt", "kubevirt"] = "libvirt",
) -> DemoResult:
    """Everything from the parts to the DNS answer. A CapnError tells what failed; the evidence was printed before."""
    environment, result = Environment(state), DemoResult()
    directory = samples_dir(provider)
    samples = read_samples(directory)
    await get_supplies(samples, progress)
    await environment.up(progress, accel=accel, kubevirt=provider == "kubevirt")
    with progress.step(f"kubectl apply -f config/{directory.relative_to(samples_dir().parent)}/") as report:
        for line in (await environment.kubectl.run("apply", "-f", str(directory))).splitlines():
            report(line)
    async with connected(environment.parent().kubeconfig) as client:
        try:
            for sample in samples:
                await follow(environment, client, sample, progress, result)
        except CapnError:
            for line in await gather_evidence(client, state):
                progress.line(line)
            raise
        result.tree = draw_tree(await read_tree(client), parent=environment.parent().server, now=datetime.now(UTC))
    return result


async def get_supplies(samples: Iterable[DemoCluster], progress: Progress) -> None:
    """Programs, and a node image for each version that the samples want."""
    with progress.step("Getting third-party programs (built from pinned sources where missing)") as report:
        await ensure_programs(report, [])
    for version in sorted({sample.version for sample in samples}):
        with progress.step(f"Getting the node image for {version}") as report:
            report(f"image {(await ensure_node_image(version, report)).digest[:12]}")


@asynccontextmanager
async def connected(kubeconfig: Path) -> AsyncIterator[KubeClient]:
    """A client by this kubeconfig for the length of a `with` block."""
    client = await connect_kubeconfig(kubeconfig)
    try:
        yield client
    finally:
        await client.close()


async def follow(
    environment: Environment, client: KubeClient, sample: DemoCluster, progress: Progress, result: DemoResult
) -> None:
    """One cluster of the API that `client` talks to: until Ready, then proofs from inside."""
    with progress.step(f"Waiting until {sample.namespace}/{sample.name} is Ready") as report:
        cluster = await wait_ready(client, sample, report, result.stages)
    path = environment.state.child_kubeconfig(sample.name)
    write_private(path, await read_child_kubeconfig(client, namespace=sample.namespace, cluster=sample.name))
    result.kubeconfigs[sample.name] = path
    child = Kubectl(environment.kubectl.binary, path)
    with progress.step("Checking the child's nodes") as report:
        await check_nodes(child, expected=cluster.machines_desired, report=report)
    with progress.step("Running a pod in the child") as report:
        node = await check_pod(child, report=report)
        workers = [machine.name for machine in cluster.machines if machine.role == "worker"]
        if workers and node not in workers:
            raise TerminalError(f"the pod runs on {node}, not on a worker ({', '.join(workers)})")
    with progress.step("Asking the child's CoreDNS from that pod") as report:
        await check_dns(child, report=report)


async def wait_ready(
    client: KubeClient, sample: DemoCluster, report: Report, stages: list[StageTime], *, limit_s: float = READY_LIMIT_S
) -> ClusterNode:
    """Report every change of stage until the cluster is Ready.

    TerminalError when it failed and stays so, WaitTimeoutError after `limit_s`.
    """
    tracker, started = StageTracker(), time.monotonic()
    failed_at: float | None = None
    seen: list[ClusterNode] = []

    async def missing() -> str | None:
        nonlocal failed_at
        elapsed = time.monotonic() - started
        found = [node for node in await read_tree(client, namespace=sample.namespace) if node.name == sample.name]
        if not found:
            raise TerminalError(f"NestedCluster {sample.namespace}/{sample.name} was deleted meanwhile")
        seen[:] = found
        for line in tracker.observe(found[0], elapsed):
            report(line)
        failed_at = (failed_at or elapsed) if found[0].phase == "Failed" else None
        if failed_at is not None and elapsed - failed_at >= _FAILED_GRACE_S:
            raise TerminalError(f"{sample.namespace}/{sample.name} failed: {found[0].message}", reason="ClusterFailed")
        return None if found[0].ready else await _why_not(client, sample)

    try:
        await wait_until(f"{sample.namespace}/{sample.name} Ready", missing, limit_s=limit_s)
    finally:
        stages += sum_stages(tracker.finished)
    return seen[0]


async def _why_not(client: KubeClient, sample: DemoCluster) -> str:
    cluster = await client.get(NESTED_CLUSTER, sample.name, sample.namespace)
    ready = find_condition(cluster or {}, "Ready")
    return f"{ready['reason']}: {ready['message']}" if ready else "no status yet; is the controller running?"
