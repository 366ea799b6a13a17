"""Makes machines in the failure domains that are chosen for them (`capn.build.failure_domains`).

Role: asks the provider whether the chosen domain can take the machine, and for the next one if it cannot. Inputs: a
manifest without a domain, the domains that the endpoint has (`scope.infrastructure`). Must not: make a machine that no
domain can take, or say anything of an endpoint that is one whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from capn.api.cluster import WorkerPool
from capn.api.machine import NestedMachine
from capn.api.machine_template import Machine, quantity_mib
from capn.build.failure_domains import choose_domain, find_allowed
from capn.build.said import Said
from capn.controllers.cluster.machines import create_machine
from capn.controllers.cluster.scope import ClusterScope
from capn.errors import CapnError
from capn.providers.base import MachineRef, MachineRequest, Problem

# A hypervisor that answers again, or has room again, does not tell the cluster.
PLACE_POLL_S = 30.0
_NO_ROOM = "InsufficientMemory"
_MIB_PER_GIB = 1024


async def create_placed(scope: ClusterScope, manifest: Mapping[str, Any]) -> Said | None:
    """Make the machine in the domain that has the fewest like it; or say why none takes it, and make nothing."""
    pool = next((pool for pool in scope.cluster.spec.workers if pool.name == manifest["spec"].get("pool")), None)
    if (unknown := find_unknown(scope, pool)) is not None:
        return unknown
    domains = scope.require_infrastructure().failure_domains
    if not domains:
        await create_machine(scope, dict(manifest))
        return None
    _field, allowed = find_allowed(scope.cluster, pool)
    lacks = {domain.name: domain.problem for domain in domains if not allowed or domain.name in allowed}
    while (chosen := _choose(scope, manifest, [name for name, lack in lacks.items() if lack is None])) is not None:
        lacks[chosen] = await _find_lack(scope, manifest, chosen)
        if lacks[chosen] is None:
            await create_machine(scope, {**manifest, "spec": {**manifest["spec"], "failureDomain": chosen}})
            return None
    return _explain({name: lack for name, lack in lacks.items() if lack is not None})


def find_unknown(scope: ClusterScope, pool: WorkerPool | None) -> Said | None:
    """What is said of a pool, or of the control plane, that names a domain which the endpoint does not have."""
    field, named = find_allowed(scope.cluster, pool)
    known = [domain.name for domain in scope.require_infrastructure().failure_domains]
    missing = [name for name in named if name not in known]
    if not missing:
        return None
    offered = ", ".join(known) or "none, it is one whole"
    message = f"{field}: the endpoint has no {', '.join(missing)}; its failure domains: {offered}"
    return Said(reason="DomainNotFound", message=message)


def build_question(  # noqa: PLR0913 - what a machine is made of
    scope: ClusterScope, *, role: str, size: Machine, version: str, domain: str = "", beside_mib: int = 0
) -> MachineRequest:
    """A machine as it would be asked for; there is none of that UID. `beside_mib`: memory that it must leave free."""
    return MachineRequest(
        ref=MachineRef(scope.ref, f"{scope.ref.name}-{version}", "", domain),
        role=role,
        ordinal=scope.cluster.spec.control_plane.replicas,
        version=version,
        image=size.image,
        cpus=size.cpus,
        memory_mib=quantity_mib(size.memory) + beside_mib,
        disk_gib=-(-quantity_mib(size.disk) // _MIB_PER_GIB),
    )


def _choose(scope: ClusterScope, manifest: Mapping[str, Any], candidates: Sequence[str]) -> str | None:
    spec = manifest["spec"]
    staying = [machine.spec for machine in scope.machines if not machine.metadata.deleting]
    peers = [one for one in staying if (one.role, one.pool) == (spec["role"], spec.get("pool"))]
    return choose_domain(
        candidates,
        peers=[one.failure_domain for one in peers],
        others=[one.failure_domain for one in staying],
    )


async def _find_lack(scope: ClusterScope, manifest: Mapping[str, Any], domain: str) -> Problem | None:
    """Why the domain cannot take the machine now. Those that were made for it and have no VM yet will need room too."""
    spec = manifest["spec"]
    coming = [machine for machine in scope.machines if _is_coming(machine, domain)]
    question = build_question(
        scope,
        role=spec["role"],
        size=Machine.model_validate(spec["machine"]),
        version=spec["version"],
        domain=domain,
        beside_mib=sum(quantity_mib(machine.spec.machine.memory) for machine in coming),
    )
    try:
        await scope.provider.plan_machine(question)
    except CapnError as error:
        if error.reason == _NO_ROOM and coming:
            return Problem(_NO_ROOM, f"there is no room beside {len(coming)} machine(s) that are being made there")
        return Problem(error.reason, str(error))
    return None


def _is_coming(machine: NestedMachine, domain: str) -> bool:
    here = machine.spec.failure_domain == domain and not machine.metadata.deleting
    return here and machine.status.provider_id is None


def _explain(lacks: Mapping[str, Problem]) -> Said:
    """Each domain with what it lacks; want of room is what a person can do most about."""
    reasons = [lack.reason for lack in lacks.values()]
    message = "; ".join(f"failure domain {name}: {lack.message}" for name, lack in lacks.items())
    return Said(reason=_NO_ROOM if _NO_ROOM in reasons else reasons[0], message=message)
