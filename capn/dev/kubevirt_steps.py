"""`capn dev up --kubevirt`: everything from nothing to a parent that runs virtual machines, as steps for people.

Role: order and titles. Inputs: the running node and its parent. Outputs: KubeVirt in the parent, the node image as a
container image on the node, `virtctl` among the environment's commands. Needs root. Must not: know how each is done.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from capn.dev.kubectl import Kubectl
from capn.dev.kubevirt import ImageImporter, KubeVirt
from capn.dev.progress import Progress
from capn.dev.supplies import ensure_containerdisk, ensure_kubevirt
from capn.parts.catalogue import DEFAULT_VERSION


async def install_kubevirt(
    node: ImageImporter, kubectl: Kubectl, commands: Path, progress: Progress, *, version: str = DEFAULT_VERSION
) -> None:
    """Install KubeVirt, which emulates guests, and import the node image for `version`; a second run changes nothing.

    The first one of all builds KubeVirt's programs: minutes. TerminalError when KubeVirt does not become Available.
    """
    with progress.step("Getting KubeVirt's programs and images") as report:
        images, parts = await ensure_kubevirt(report)
    with progress.step("Starting KubeVirt") as report:
        await KubeVirt(kubectl, parts, images).install(node, report)
    with progress.step(f"Getting the node image {version} for KubeVirt") as report:
        await node.import_images(await ensure_containerdisk(version, report), report)
    await asyncio.to_thread(_link, parts["virtctl"], commands / "virtctl")


def _link(program: Path, command: Path) -> None:
    command.unlink(missing_ok=True)
    command.symlink_to(program)
