"""What the status says of the endpoint's failure domains: which there are, and how many machines each has.

Role: pure. Inputs: the scope; output: a row a domain, in the administrator's order, then those that only machines name.
Must not: forget a domain because the endpoint was not asked in this reconcile.
"""

from __future__ import annotations

from capn.api.cluster import DomainStatus
from capn.api.conditions import MachineCondition, is_true
from capn.controllers.cluster.scope import ClusterScope
from capn.providers.base import FailureDomain

_MOST = 64
_MESSAGE = 1024


def compute_domains(scope: ClusterScope) -> list[DomainStatus] | None:
    """The rows; None where there is nothing to say: the endpoint is one whole, and no machine says otherwise."""
    if scope.infrastructure is None:
        rows = scope.cluster.status.failure_domains or []
    else:
        rows = [_describe(domain) for domain in scope.infrastructure.failure_domains]
        named = {machine.spec.failure_domain for machine in scope.machines if machine.spec.failure_domain}
        rows += [
            DomainStatus(name=name, available=False, message="the controller's settings do not have it")
            for name in sorted(named - {row.name for row in rows})
        ]
    return [_count(scope, row) for row in rows[:_MOST]] or None


def _describe(domain: FailureDomain) -> DomainStatus:
    message = domain.problem.message[:_MESSAGE] if domain.problem is not None else ""
    return DomainStatus(name=domain.name, available=domain.problem is None, message=message)


def _count(scope: ClusterScope, row: DomainStatus) -> DomainStatus:
    here = [machine for machine in scope.machines if machine.spec.failure_domain == row.name]
    ready = sum(is_true(machine.status.conditions, MachineCondition.READY) for machine in here)
    return row.model_copy(update={"machines": len(here), "ready": ready})
