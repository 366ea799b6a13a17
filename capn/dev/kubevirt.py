"""Installs KubeVirt on the node of an embedded parent, with images of our own making.

Role: import, apply, wait, each repeatable. Inputs: the node, kubectl for the parent, the archive of images and the
parts. Must not: pull anything, or hold a copy of a manifest that KubeVirt generates.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from capn.dev.kubectl import Kubectl
from capn.dev.kubevirt_objects import (
    NAMESPACE,
    OPERATOR,
    build_kubevirt,
    build_namespace,
    build_operator,
    describe_pods,
)
from capn.dev.waiting import WaitTimeoutError, wait_until
from capn.errors import TerminalError
from capn.image.kubevirt import image_name
from capn.parts.catalogue import KUBEVIRT_VERSION
from capn.parts.source import Report

REASON = "KubeVirtFailed"
AVAILABLE_LIMIT_S = 900.0
_CRD = "kubevirts.kubevirt.io"
_POLL_S = 2.0


class ImageImporter(Protocol):
    """A node that takes OCI archives."""

    async def import_images(self, archive: Path, report: Report) -> None:
        """Import the archive, unpacked."""
        ...


@dataclass(frozen=True)
class KubeVirt:
    """KubeVirt in one parent. `parts` are KubeVirt's programs by name, `images` the archive that goes with them."""

    kubectl: Kubectl
    parts: Mapping[str, Path]
    images: Path

    async def install(self, node: ImageImporter, report: Report, *, emulate: bool = True) -> None:
        """Install or bring up to date, and wait until it is Available.

        TerminalError with KubeVirt's reason and the state of its pods when that does not come true.
        """
        await node.import_images(self.images, report)
        manifests = [build_namespace(), *await self._generate(), build_operator(image_name(OPERATOR), KUBEVIRT_VERSION)]
        await self._apply(manifests)
        await self.kubectl.run("wait", "--for=condition=Established", "--timeout=60s", f"crd/{_CRD}")
        await self._apply([build_kubevirt(emulate=emulate)])
        await self.wait_available(report)

    async def wait_available(self, report: Report, *, limit_s: float = AVAILABLE_LIMIT_S) -> None:
        """Wait until the KubeVirt object is Available; `report` gets each change of what is missing."""
        said = ""

        async def missing() -> str | None:
            nonlocal said
            why = await self._why_not_available()
            if why is not None and why != said:
                said = why
                report(why.replace("\n", "; "))
            return why

        try:
            await wait_until("KubeVirt Available", missing, limit_s=limit_s, interval_s=_POLL_S)
        except WaitTimeoutError as error:
            raise TerminalError(str(error), reason=REASON) from error

    async def _why_not_available(self) -> str | None:
        """None when it is Available, else its reason and the pods that are not ready, a line each."""
        found = await self.kubectl.json("get", "kubevirt", "kubevirt", "-n", NAMESPACE)
        conditions = {one["type"]: one for one in found.get("status", {}).get("conditions", [])}
        available = conditions.get("Available", {})
        if available.get("status") == "True" and found["status"].get("phase") == "Deployed":
            return None
        failed = [one for one in conditions.values() if one["type"] == "Synchronized" and one["status"] == "False"]
        reasons = [one.get("message", "") for one in (*failed, available) if one.get("message")]
        pods = await self.kubectl.json("get", "pods", "-n", NAMESPACE)
        return "\n".join([*(reasons or ["the operator has not said anything yet"]), *describe_pods(pods["items"])])

    async def _generate(self) -> list[dict[str, Any]]:
        """What KubeVirt's own generator prints: CRD, priority class and the operator's permissions."""
        binary = self.parts["kubevirt-resource-generator"]
        kinds = ("kv", "priorityclass", "operator-rbac")
        printed = [await _capture(binary, f"-type={kind}", f"-namespace={NAMESPACE}") for kind in kinds]
        return [document for text in printed for document in yaml.safe_load_all(text) if document]

    async def _apply(self, manifests: list[dict[str, Any]]) -> None:
        # On the server: the CRD is too large for the annotation in which kubectl would keep what it applied.
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        options = ("--server-side", "--force-conflicts", "--validate=false")
        await self.kubectl.run("apply", *options, "-f", "-", stdin=listed)


async def _capture(binary: Path, *arguments: str) -> str:
    """Standard output of a program that ends by itself. Raises TerminalError with what it said instead."""
    process = await asyncio.create_subprocess_exec(
        str(binary),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        said = err.decode(errors="replace").strip()[-500:]
        raise TerminalError(f"{binary.name} {' '.join(arguments)}: {said}", reason=REASON)
    return out.decode()
