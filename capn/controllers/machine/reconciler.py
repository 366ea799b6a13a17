"""The NestedMachine's reconcile: phases in order, then always the status.

Role: the order of things and nothing else. Inputs: a key; output: a Result. Must not: hold what a phase does.
"""

from __future__ import annotations

from typing import Any

from capn import names
from capn.api.cluster import NestedCluster
from capn.api.conditions import MachineCondition
from capn.api.machine import NestedMachine
from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE
from capn.controllers.deps import Deps
from capn.controllers.finalizer import add_finalizer
from capn.controllers.machine import claim, power
from capn.controllers.machine.bootstrap import reconcile_bootstrap
from capn.controllers.machine.bootstrap_data import reconcile_bootstrap_data
from capn.controllers.machine.deletion import reconcile_deletion
from capn.controllers.machine.infrastructure import reconcile_infrastructure
from capn.controllers.machine.node import reconcile_node
from capn.controllers.machine.node_settings import reconcile_node_settings
from capn.controllers.machine.scope import MachineScope
from capn.controllers.machine.status import compute_deleting_status, compute_paused_status, compute_status
from capn.controllers.parse import parse_leniently, parse_or_explain
from capn.controllers.phases import Phase, Progress, Wait, run_phases
from capn.controllers.status_writer import write_status
from capn.controllers.timestamps import format_time
from capn.runtime.controller import Key
from capn.runtime.result import Result

PHASES: tuple[Phase[MachineScope], ...] = (
    Phase(MachineCondition.BOOTSTRAP_DATA_READY, reconcile_bootstrap_data),
    Phase(MachineCondition.INFRASTRUCTURE_READY, reconcile_infrastructure),
    Phase(MachineCondition.BOOTSTRAP_SUCCEEDED, reconcile_bootstrap),
    Phase(MachineCondition.NODE_HEALTHY, reconcile_node),
    Phase(MachineCondition.NODE_CONFIGURED, reconcile_node_settings),
)
DELETION: tuple[Phase[MachineScope], ...] = (Phase(MachineCondition.DELETING, reconcile_deletion),)
# A VM's death comes as an event; this look is for one that was missed. It asks the hypervisor, not the parent.
VM_CHECK_S = 300.0


class MachineReconciler:
    """Reconciles one NestedMachine a call."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    async def reconcile(self, key: Key) -> Result:
        """One attempt. Raises the phase's error after its status is written, so that the queue backs off."""
        raw = self._deps.machines.get(key.namespace, key.name)
        if raw is None:
            return Result.done()
        machine = await parse_or_explain(self._deps, NESTED_MACHINE, NestedMachine, raw)
        cluster = await self._find_cluster(machine)
        scope = MachineScope(deps=self._deps, machine=machine, cluster=cluster)
        if machine.metadata.deleting:
            return await self._delete(scope)
        if cluster is not None and cluster.spec.paused:
            await self._write(scope, compute_paused_status(scope, now=self._now()))
            return Result.done()
        if cluster is not None and cluster.metadata.deleting:
            # About to be deleted too. To look on would wait for a child that is being taken down, and hold that up.
            return Result.done()
        if scope.power_off is not None:
            return await self._power_off(scope)
        if names.FINALIZER not in machine.metadata.finalizers:
            written = await add_finalizer(self._deps.client, NESTED_MACHINE, machine.metadata)
            self._deps.machines.note_write(written)
        progress = await run_phases(claim.PHASES if scope.claimed else PHASES, scope)
        if not is_too_early(scope, progress):
            await self._write(scope, compute_status(scope, progress, now=self._now()))
        return self._conclude(progress)

    async def _find_cluster(self, machine: NestedMachine) -> NestedCluster | None:
        """The owning cluster; one of the same name and another UID is not it."""
        raw = self._deps.clusters.get(machine.metadata.namespace, machine.spec.cluster_name)
        if raw is None:
            return None
        if machine.metadata.controller_uid not in {None, raw["metadata"]["uid"]}:
            return None
        if machine.metadata.deleting:
            return parse_leniently(NestedCluster, raw)
        return await parse_or_explain(self._deps, NESTED_CLUSTER, NestedCluster, raw)

    async def _delete(self, scope: MachineScope) -> Result:
        progress = await run_phases(DELETION, scope)
        outcome = progress.outcomes[MachineCondition.DELETING]
        if outcome is None:
            return Result.done()
        await self._write(scope, compute_deleting_status(scope, outcome, now=self._now()))
        return self._conclude(progress)

    async def _power_off(self, scope: MachineScope) -> Result:
        """Only what switches the VM off; then nothing, until something changes."""
        progress = await run_phases(power.PHASES, scope)
        outcome = progress.outcomes[MachineCondition.POWERED_OFF]
        await self._write(scope, power.compute_power_status(scope, outcome, now=self._now()))
        return Result.done() if outcome is None else self._conclude(progress)

    def _conclude(self, progress: Progress) -> Result:
        if progress.error is not None:
            raise progress.error
        if progress.stopped_at is None:
            return Result.after(VM_CHECK_S)
        return Result(requeue_after_s=progress.requeue_after_s)

    async def _write(self, scope: MachineScope, status: Any) -> None:  # noqa: ANN401 - narrowed by write_status
        await write_status(
            self._deps.client,
            self._deps.machines,
            self._deps.recorder,
            NESTED_MACHINE,
            scope.machine.metadata,
            before=scope.machine.status,
            after=status,
        )

    def _now(self) -> str:
        return format_time(self._deps.now())


def is_too_early(scope: MachineScope, progress: Progress) -> bool:
    """A new machine whose cluster is about to say what it waits for: its status would be out of date at once."""
    waits = isinstance(progress.outcomes.get(MachineCondition.BOOTSTRAP_DATA_READY), Wait)
    return waits and not scope.machine.status.conditions
