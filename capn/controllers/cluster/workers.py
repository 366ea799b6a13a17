"""Phase WorkersReady: the machines of the worker pools, all at once.

Must not: touch a hypervisor; that is the machine's own reconciler.
"""

from __future__ import annotations

from capn import names
from capn.build.machines import desired_machines
from capn.controllers.cluster.machines import create_machine, delete_machines, restore_stamps
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Wait


async def reconcile_workers(scope: ClusterScope) -> Wait | None:
    """Create missing workers and delete those that the spec no longer asks for."""
    wanted = {
        machine["metadata"]["name"]: machine
        for machine in desired_machines(scope.cluster)
        if machine["spec"]["role"] == names.ROLE_WORKER
    }
    existing = {machine.metadata.name: machine for machine in scope.workers()}
    for name, manifest in wanted.items():
        if name in existing:
            await restore_stamps(scope, existing[name], manifest)
        else:
            await create_machine(scope, manifest)
    await delete_machines(scope, [machine for name, machine in existing.items() if name not in wanted])
    return None
