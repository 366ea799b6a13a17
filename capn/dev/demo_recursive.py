"""`make demo-recursive`: a cluster in a cluster in a cluster, each with real machines.

Role: the story of docs/recursion.md: a child that nests, then `kubectl apply` in it, then a pod in the grandchild.
Inputs: an environment's name. Outputs: progress, two running clusters, `DemoResult`. Must not: help the child with
anything that a user would not do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from capn import names
from capn.dashboard.feed import TreeFeed
from capn.dashboard.server import Dashboard
from capn.dev.demo import DemoCluster, DemoResult, connected, follow, get_supplies, read_samples
from capn.dev.environment import Environment, samples_dir
from capn.dev.evidence import describe_all, gather_evidence
from capn.dev.kubectl import Kubectl
from capn.dev.parent_flags import LOOPBACK
from capn.dev.progress import Progress
from capn.dev.state import DevState
from capn.dev.waiting import wait_until
from capn.errors import CapnError
from capn.kube.client import KubeClient
from capn.tree.draw import draw_tree
from capn.tree.model import read_tree, read_tree_data

_LOG_LINES = 40
_REPORT_LIMIT_S = 120.0


async def run_recursive(
    state: DevState, progress: Progress, *, accel: Literal["auto", "kvm", "emulate"] = "auto"
) -> DemoResult:
    """Root, child, grandchild. A CapnError tells what failed; the evidence of every level was printed before."""
    environment, result = Environment(state), DemoResult(nested=True)
    directory = samples_dir() / "recursive"
    levels = [directory / "child.yaml", directory / "grandchild.yaml"]
    [child], [grandchild] = (read_samples(path) for path in levels)
    await get_supplies((child, grandchild), progress)
    await environment.up(progress, accel=accel, nesting=True)
    root = environment.kubectl
    async with connected(root.kubeconfig) as client, _live_page(client, environment.parent().server) as url:
        progress.line(f" * The tree grows at {url} while this runs (later: capn dashboard)")
        try:
            await _apply(root, levels[0], progress, where="in the root")
            await follow(environment, client, child, progress, result)
            await _show_tree(client, environment, progress)
            inner = Kubectl(root.binary, result.kubeconfigs[child.name])
            await _apply(inner, levels[1], progress, where=f"in {child.name}")
            await _follow_inside(environment, inner, grandchild, progress, result)
            await wait_until("the root's tree", lambda: _root_knows_not(client, grandchild), limit_s=_REPORT_LIMIT_S)
        except CapnError:
            for line in await gather_evidence(client, state):
                progress.line(line)
            raise
        result.tree = draw_tree(await read_tree(client), parent=environment.parent().server, now=datetime.now(UTC))
    return result


@asynccontextmanager
async def _live_page(client: KubeClient, parent: str) -> AsyncIterator[str]:
    """The dashboard, for as long as the demo runs; its address."""
    feed = TreeFeed(lambda: read_tree_data(client), parent=parent)
    async with Dashboard(feed, bind=LOOPBACK, port=0) as server:
        reading = asyncio.create_task(feed.run())
        try:
            yield server.url
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def _show_tree(client: KubeClient, environment: Environment, progress: Progress) -> None:
    for line in draw_tree(await read_tree(client), parent=environment.parent().server, now=datetime.now(UTC)):
        progress.line(f"    {line}")


async def _root_knows_not(client: KubeClient, sample: DemoCluster) -> str | None:
    """None once the root's own tree has the cluster as Ready, as the child reports it."""
    below = [node for cluster in await read_tree(client) for node in cluster.clusters]
    ready = any(node.ready and node.name == sample.name for node in below)
    return None if ready else f"the child has not reported {sample.name} as Ready"


async def _apply(kubectl: Kubectl, path: Path, progress: Progress, *, where: str) -> None:
    with progress.step(f"kubectl apply -f {path.parent.name}/{path.name} {where}") as report:
        for line in (await kubectl.run("apply", "-f", str(path))).splitlines():
            report(line)


async def _follow_inside(
    environment: Environment, kubectl: Kubectl, sample: DemoCluster, progress: Progress, result: DemoResult
) -> None:
    """Follow a cluster of the child by the child's own API; when it fails, show what the child's controller said."""
    async with connected(kubectl.kubeconfig) as client:
        try:
            await follow(environment, client, sample, progress, result)
        except CapnError:
            for line in await _gather_inside(client, kubectl):
                progress.line(line)
            raise


async def _gather_inside(client: KubeClient, kubectl: Kubectl) -> list[str]:
    lines = ["--- in the child:", *await describe_all(client), "--- the end of the log of the child's controller:"]
    logs = ("logs", f"--namespace={names.SYSTEM_NAMESPACE}", f"deployment/{names.CONTROLLER}", f"--tail={_LOG_LINES}")
    try:
        return [*lines, *(await kubectl.run(*logs, limit_s=60.0)).splitlines()]
    except CapnError as error:
        return [*lines, str(error)]
