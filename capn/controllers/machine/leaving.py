"""A step of a control plane's deletion: it gives the endpoint to another one before anything of it is taken away.

Role: asks the machine by a mark in a directory that etcd's pod shares with it (capn/build/guest/leave.sh), and looks
until its API server has taken itself out of the Service `kubernetes`, the first thing that one does when it ends. The
machine itself cannot be asked for that: its kubelet asks its own API server who may do what, and then has none.
Whoever calls the child's API all the while meets a control plane that serves.
Must not: hold a removal up for longer than a few minutes: one whose guest knows nothing of this goes all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import structlog

from capn.api.resources import ENDPOINT_SLICE
from capn.build.virtual_address import LEAVING_MARK
from capn.controllers.machine.node import open_child
from capn.controllers.machine.scope import MachineScope
from capn.controllers.phases import Wait
from capn.errors import CapnError
from capn.kube.client import KubeClient
from capn.kube.etcd import EtcdClient

log = structlog.get_logger(__name__)

POLL_S = 3.0
LIMIT = timedelta(minutes=3)


async def leave_endpoint(scope: MachineScope) -> Wait | None:
    """Wait until the machine neither has the endpoint's address nor serves the API. Only for one that lives."""
    if scope.cluster is None or scope.cluster.status.endpoint is None or not scope.cluster.status.endpoint.virtual:
        return None
    key = f"{scope.machine.metadata.uid}/leaving"
    trouble = "the control plane hands the endpoint's address over and ends its API server"
    try:
        child = (await open_child(scope)).client
        try:
            await EtcdClient(child).touch(scope.name, LEAVING_MARK)
        except CapnError as error:
            trouble = f"the control plane cannot be told that it is to leave: {error}"
        if await _has_left(child, scope):
            scope.deps.patience.renew(key)
            return None
    except CapnError as error:
        trouble = f"the child cannot be asked who serves its API: {error}"
    if scope.deps.patience.lasts(key, scope.deps.now(), LIMIT):
        return Wait("LeavingEndpoint", trouble, POLL_S)
    log.warning("removed without having left the endpoint", machine=scope.name, why=trouble)
    scope.deps.patience.renew(key)
    return None


async def _has_left(child: KubeClient, scope: MachineScope) -> bool:
    """Whether others serve the API and this machine does not."""
    found = await child.get(ENDPOINT_SLICE, "kubernetes", "default")
    serving = _addresses(found or {})
    return bool(serving) and serving.isdisjoint(scope.internal_addresses)


def _addresses(found: Mapping[str, Any]) -> set[str]:
    """What an EndpointSlice leads to. The child's own word, so anything may stand there."""
    entries = found.get("endpoints")
    listed = [entry.get("addresses") for entry in entries or () if isinstance(entry, dict)]
    return {
        address
        for addresses in listed
        if isinstance(addresses, list)
        for address in addresses
        if isinstance(address, str)
    }
