"""The embedded parent and its node, started and stopped together: neither is of use without the other.

Role: the order of the two. Inputs: a `Parent` and a `Node` of one directory. Must not: know hypervisor or controller.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from capn.dev.cgroups import CPU_SHARES
from capn.dev.link import Link
from capn.dev.node import Node
from capn.dev.parent import Parent
from capn.parts.source import Report


async def stop_both(node: Node, parent: Parent) -> None:
    """Programs of the node first, its link last: an API server that ends waits for its clients and calls itself."""
    try:
        with node.link_kept():
            await node.stop_programs()
            await parent.down()
    finally:
        await node.stop()


@asynccontextmanager
async def running_node(
    directory: Path,
    programs: Mapping[str, Path],
    report: Report,
    *,
    cpu_shares: int = CPU_SHARES,
    audit: bool = False,
) -> AsyncIterator[tuple[Parent, Node]]:
    """A parent with a node for the length of a `with` block, files and all. For tests: no hypervisor, no controller."""
    link = Link(directory)
    node = Node(directory / "node", link, programs=programs, cpu_shares=cpu_shares, dies_with_us=True)
    node.check_host()
    block = await link.ensure()
    parent = Parent(directory / "parent", programs, dies_with_us=True, block=block, linked=True, audit=audit)
    try:
        await parent.up(report)
        await node.start(parent, report)
        yield parent, node
    finally:
        await asyncio.shield(stop_both(node, parent))
        shutil.rmtree(directory, ignore_errors=True)
