"""Tells when a machine's VM changes: a watch on the VirtualMachines that carry our label.

Role: list, then watch; what is not seen in a gap is announced after it. KubeVirt sums up instance, pod and migration in
the VirtualMachine's status, so one watch sees them all. Must not: decide anything, or announce heartbeats.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

import structlog

from capn.api.resources import VIRTUAL_MACHINE
from capn.build.kubevirt_objects import LABEL_MANAGED_BY, MANAGED_BY
from capn.errors import CapnError
from capn.kube.client import KubeClient
from capn.kube.errors import WatchExpiredError
from capn.providers.base import MachineRef
from capn.providers.kubevirt.place import read_machine_ref

log = structlog.get_logger(__name__)

_RETRY_S = 1.0
_LONGEST_S = 30.0
_SELECTOR = f"{LABEL_MANAGED_BY}={MANAGED_BY}"


async def watch_machines(client: KubeClient, namespace: str | None) -> AsyncIterator[MachineRef]:
    """Yield machines whose VM's state changed or whose VM is gone; goes on through every failure of the API.

    What was seen before a failure is kept, so that what changed meanwhile is found by the list after it.
    """
    seen: dict[str, tuple[MachineRef, object]] = {}
    first, wait_s = True, _RETRY_S
    while True:
        try:
            listed = await client.list(VIRTUAL_MACHINE, namespace=namespace, label_selector=_SELECTOR)
            for ref in _compare(seen, listed.items):
                if not first:
                    yield ref
            first, wait_s = False, _RETRY_S
            async for ref in _follow(client, namespace, listed.resource_version, seen):
                yield ref
        except WatchExpiredError:
            continue
        except CapnError as error:  # also what it refuses: an API server that has just begun knows no roles yet
            log.info("the watch on VMs broke off; watching again", error=str(error))
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
            wait_s = min(2 * wait_s, _LONGEST_S)


async def _follow(
    client: KubeClient, namespace: str | None, revision: str, seen: dict[str, tuple[MachineRef, object]]
) -> AsyncIterator[MachineRef]:
    """Watch from a revision on, again and again."""
    while True:
        async for event in client.watch(
            VIRTUAL_MACHINE, resource_version=revision, namespace=namespace, label_selector=_SELECTOR
        ):
            revision = event.object["metadata"]["resourceVersion"]
            if event.type == "BOOKMARK":
                continue
            changed = _note(seen, event.object, gone=event.type == "DELETED")
            if changed is not None:
                yield changed


def _compare(seen: dict[str, tuple[MachineRef, object]], items: list[dict[str, Any]]) -> list[MachineRef]:
    """Take over a whole list; the machines that differ from what was known."""
    present = {item["metadata"]["uid"] for item in items}
    changed = [ref for uid, (ref, _essence) in seen.items() if uid not in present]
    for uid in set(seen) - present:
        del seen[uid]
    return changed + [ref for item in items if (ref := _note(seen, item, gone=False)) is not None]


def _note(seen: dict[str, tuple[MachineRef, object]], vm: Mapping[str, Any], *, gone: bool) -> MachineRef | None:
    """Take over one object; its machine when something that matters has changed."""
    ref = read_machine_ref(vm)
    if ref is None:
        return None
    uid = vm["metadata"]["uid"]
    if gone:
        seen.pop(uid, None)
        return ref
    essence, before = _essence(vm), seen.get(uid)
    seen[uid] = (ref, essence)
    return ref if before is None or before[1] != essence else None


def _essence(vm: Mapping[str, Any]) -> object:
    """What of a VM matters to its machine; probe times and volume statuses do not."""
    status = vm.get("status") or {}
    conditions = [
        (condition.get("type"), condition.get("status"), condition.get("reason"), condition.get("message"))
        for condition in status.get("conditions") or ()
    ]
    return (status.get("printableStatus"), conditions, bool(vm["metadata"].get("deletionTimestamp")))
