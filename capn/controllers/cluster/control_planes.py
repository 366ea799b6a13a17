"""Phase ControlPlaneReady: the control-plane machines, one operation at a time.

Must not: touch a hypervisor; that is the machine's own reconciler.
"""

from __future__ import annotations

from capn import names
from capn.api.conditions import MachineCondition, is_true
from capn.build.machines import desired_machines
from capn.controllers.cluster.machines import create_machine, restore_stamps
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Wait


async def reconcile_control_planes(scope: ClusterScope) -> Wait | None:
    """Create the first control plane; each further one when all those before it are Ready."""
    wanted = [
        machine for machine in desired_machines(scope.cluster) if machine["spec"]["role"] == names.ROLE_CONTROL_PLANE
    ]
    existing = {machine.metadata.name: machine for machine in scope.control_planes()}
    for manifest in wanted:
        machine = existing.get(manifest["metadata"]["name"])
        if machine is None:
            await create_machine(scope, manifest)
            return None
        await restore_stamps(scope, machine, manifest)
        if not is_true(machine.status.conditions, MachineCondition.READY):
            return None
    return None
