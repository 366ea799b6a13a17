"""Phase InfrastructureReady: the VM exists, is ours and runs."""

from __future__ import annotations

from capn.api.machine_template import quantity_mib
from capn.controllers.machine.bootstrap_data import load_bootstrap_data
from capn.controllers.machine.live import refuse_if_deleting
from capn.controllers.machine.scope import MachineScope
from capn.controllers.phases import Wait
from capn.errors import TerminalError
from capn.providers.base import MachineRequest, MachineState, ObservedMachine

MIB_PER_GIB = 1024
POLL_S = 10.0
_ENDED = frozenset({MachineState.STOPPED, MachineState.CRASHED})


async def reconcile_infrastructure(scope: MachineScope) -> Wait | None:
    """Look at the hypervisor itself (never a cache) and make, start or adopt what is ours."""
    provider, ref = scope.provider, scope.ref
    scope.observed = await provider.observe_machine(ref)
    if scope.observed is None:
        refuse_second_life(scope)
        scope.fresh_vm = True
        await refuse_if_deleting(scope)
        scope.deps.consoles.forget(ref.uid)  # what an earlier VM of this machine said no longer holds
        await load_bootstrap_data(scope)
        await provider.plan_machine(build_request(scope))
    # One that was to be off may run still and be about to end: the provider must hear that it shall not.
    if scope.observed is None or scope.was_switched_off or scope.observed.state in _ENDED:
        if not scope.bootstrapped:
            await load_bootstrap_data(scope)
        scope.observed = await provider.ensure_machine(build_request(scope))
    if not scope.bootstrapped:
        scope.deps.consoles.watch(provider, ref)
    return compute_wait(scope.observed)


def refuse_second_life(scope: MachineScope) -> None:
    """A VM that was a node and is gone is not made again under the same machine: its disk held the node's state."""
    if scope.initializes and scope.cluster_initialized:
        raise TerminalError(
            "the only control plane's VM no longer exists at the hypervisor; a new one would begin an empty cluster:"
            " the NestedCluster's conditions say whether a snapshot of etcd is restored, or why not",
            reason="ControlPlaneLost",
        )
    if scope.bootstrapped:
        raise TerminalError(
            "the VM no longer exists at the hypervisor: delete this NestedMachine to have it replaced",
            reason="MachineLost",
        )


def compute_wait(observed: ObservedMachine) -> Wait | None:
    """Why a VM that exists is not usable yet. TerminalError when it will not be until a person acts."""
    problem = observed.problem
    if problem is not None and problem.passes:
        return Wait(problem.reason, problem.message, POLL_S)
    if problem is not None:
        raise TerminalError(problem.message, reason=problem.reason)
    match observed.state:
        case MachineState.RUNNING:
            return None
        case MachineState.PAUSED:
            return Wait("MachinePaused", "the VM is paused at the hypervisor; resume it there", POLL_S)
        case _:
            return Wait("MachineStarting", "the VM is starting", POLL_S)


def build_request(scope: MachineScope) -> MachineRequest:
    """The machine as the provider shall make it."""
    spec = scope.machine.spec
    return MachineRequest(
        ref=scope.ref,
        role=spec.role,
        ordinal=spec.ordinal,
        version=spec.version,
        image=spec.machine.image,
        cpus=spec.machine.cpus,
        memory_mib=quantity_mib(spec.machine.memory),
        disk_gib=-(-quantity_mib(spec.machine.disk) // MIB_PER_GIB),
        bootstrap_data=scope.bootstrap_data,
    )
