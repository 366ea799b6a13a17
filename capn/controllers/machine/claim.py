"""A machine that a child claims: it boots from data that the child made, and its node is the child's business.

Role: the phases of such a machine that differ: data is handed over, and the bootstrap has succeeded when the child says
that the node has joined. Must not: read any Secret but one of the claim's type that the claimed cluster owns: else who
may make machines could read every Secret of the namespace.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from capn import names
from capn.api.cluster import NestedCluster, Nesting
from capn.api.conditions import MachineCondition
from capn.api.machine import NestedMachine
from capn.api.machine_template import quantity_mib
from capn.api.resources import SECRET
from capn.build.secrets import read_secret_value
from capn.controllers.claimants import find_claimant, list_claimed_machines
from capn.controllers.cluster.claim import check_infrastructure
from capn.controllers.machine.bootstrap import reconcile_bootstrap
from capn.controllers.machine.infrastructure import reconcile_infrastructure
from capn.controllers.machine.scope import MachineScope
from capn.controllers.phases import Phase, Wait
from capn.errors import TerminalError

_POLL_S = 5.0
_BUDGET_POLL_S = 30.0


async def reconcile_given_data(scope: MachineScope) -> Wait | None:
    """Take the bootstrap data from the Secret that the machine names."""
    if scope.bootstrapped or is_released(scope):
        return None
    cluster, name = scope.cluster, scope.machine.spec.bootstrap.data_secret_name
    if cluster is None:
        return Wait("WaitingForCluster", "the claimed cluster is not there yet", _POLL_S)
    if name is None:
        return Wait("WaitingForBootstrapData", "the child has not named the Secret with the bootstrap data", _POLL_S)
    secret = await scope.deps.client.get(SECRET, name, scope.machine.metadata.namespace)
    if secret is None:
        return Wait("WaitingForBootstrapData", f"the child has not made Secret {name} yet", _POLL_S)
    owners = {owner.get("uid") for owner in secret["metadata"].get("ownerReferences") or ()}
    if secret.get("type") != names.SECRET_TYPE_CLAIM or cluster.metadata.uid not in owners:
        raise TerminalError(
            f"Secret {name} is not bootstrap data of this claim (type {names.SECRET_TYPE_CLAIM}, owned by the claimed"
            " NestedCluster); it is not read",
            reason="OwnedByAnother",
        )
    scope.bootstrap_data = read_secret_value(secret, "value", remakeable=True)
    return None


async def reconcile_claimed_infrastructure(scope: MachineScope) -> Wait | None:
    """Make the VM, if there is room for it in the claimant's budget."""
    claimant = find_claimant(scope.deps, scope.machine.metadata.namespace)
    check_infrastructure(scope.machine.spec.infrastructure, claimant)
    if scope.machine.status.provider_id is None:
        machines = list_claimed_machines(scope.deps, scope.machine.metadata.namespace)
        if (excess := compute_excess(scope.machine, machines, claimant)) is not None:
            return Wait("BudgetExceeded", excess, _BUDGET_POLL_S)
    return await reconcile_infrastructure(scope)


def compute_excess(machine: NestedMachine, others: Sequence[NestedMachine], claimant: NestedCluster) -> str | None:
    """What of the budget this machine would exceed, with the numbers; None when it fits.

    The older of two machines that do not fit together has the room.
    """
    older = takewhile(lambda other: other.metadata.uid != machine.metadata.uid, others)
    size, used = _measure(machine), [_measure(other) for other in older]
    budget = (claimant.spec.nesting or Nesting()).budget
    limits = {
        "cpus": budget.cpus,
        "memory": None if budget.memory is None else quantity_mib(budget.memory),
        "disk": None if budget.disk is None else quantity_mib(budget.disk),
    }
    said = []
    for name, limit in limits.items():
        taken = sum(entry[name] for entry in used)
        if limit is not None and taken + size[name] > limit:
            unit = "" if name == "cpus" else "Mi"
            said.append(f"{name}: {taken}{unit} of {limit}{unit} taken, {size[name]}{unit} more asked for")
    return f"the budget of {claimant.path} is spent ({'; '.join(said)}); delete machines or raise it" if said else None


def _measure(machine: NestedMachine) -> dict[str, int]:
    size = machine.spec.machine
    return {"cpus": size.cpus, "memory": quantity_mib(size.memory), "disk": quantity_mib(size.disk)}


async def reconcile_claimed_bootstrap(scope: MachineScope) -> Wait | None:
    """Pass on what the guest says until the child has seen the node; then take the seed away."""
    if is_released(scope):
        if scope.observed is None or scope.observed.seed_attached:
            await scope.provider.release_bootstrap_data(scope.ref)
        scope.deps.consoles.forget(scope.ref.uid)
        return None
    if (wait := await reconcile_bootstrap(scope)) is not None:
        return wait
    return Wait("WaitingForNode", "kubeadm is done; the child has not seen the node yet", _POLL_S)


def is_released(scope: MachineScope) -> bool:
    """Whether the child said that the node has joined."""
    return scope.machine.metadata.annotations.get(names.ANNOTATION_RELEASED) == "true"


PHASES: tuple[Phase[MachineScope], ...] = (
    Phase(MachineCondition.BOOTSTRAP_DATA_READY, reconcile_given_data),
    Phase(MachineCondition.INFRASTRUCTURE_READY, reconcile_claimed_infrastructure),
    Phase(MachineCondition.BOOTSTRAP_SUCCEEDED, reconcile_claimed_bootstrap),
)
