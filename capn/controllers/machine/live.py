"""The uncached look before something is made for a machine."""

from __future__ import annotations

from capn.api.resources import NESTED_MACHINE
from capn.controllers.machine.scope import MachineScope
from capn.errors import TransientError


async def refuse_if_deleting(scope: MachineScope) -> None:
    """An uncached look before a VM is made: the machine may be going away, or be another one of its name."""
    meta = scope.machine.metadata
    live = await scope.deps.client.get(NESTED_MACHINE, meta.name, meta.namespace)
    if live is None or live["metadata"]["uid"] != meta.uid or live["metadata"].get("deletionTimestamp"):
        raise TransientError("the machine is being deleted")
