"""A machine that a child claims: it boots from data that the child made, and its node is the child's business.

Role: the phases of such a machine that differ: data is handed over, and the bootstrap has succeeded when the child says
that the node has joined. Must not: read any Secret but one of the claim's type that the claimed cluster owns: else who
may make machines could read every Secret of the namespace.
"""

from __future__ import annotations

from capn import names
from capn.api.conditions import MachineCondition
from capn.api.resources import SECRET
from capn.build.secrets import read_secret_value
from capn.controllers.machine.bootstrap import reconcile_bootstrap
from capn.controllers.machine.infrastructure import reconcile_infrastructure
from capn.controllers.machine.scope import MachineScope
from capn.controllers.phases import Phase, Wait
from capn.errors import TerminalError

_POLL_S = 5.0


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
    Phase(MachineCondition.INFRASTRUCTURE_READY, reconcile_infrastructure),
    Phase(MachineCondition.BOOTSTRAP_SUCCEEDED, reconcile_claimed_bootstrap),
)
