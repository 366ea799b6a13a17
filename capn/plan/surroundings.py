"""What stands around a cluster: the clusters below it and their budget, and networks that its own would cover.

Role: pure. Inputs: objects of the parent as they are. What another level knows (the budgets of this parent's own
ancestors, the networks of hosts) is not seen from here. Must not: refuse; who makes the machines does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from capn.api.cluster import NestedCluster, NestingBudget
from capn.api.machine import NestedMachine
from capn.api.machine_template import quantity_mib
from capn.build.claims import PARTS_A_LEVEL
from capn.build.nesting import claims_namespace
from capn.plan.model import BudgetUse

_MOST_NAMED = 3


@dataclass(frozen=True)
class Surroundings:
    """Everything that the parent showed: all clusters and machines, the networks of its own Services."""

    clusters: Sequence[NestedCluster] = ()
    machines: Sequence[NestedMachine] = ()
    service_cidrs: Sequence[str] = ()
    by_cluster: dict[tuple[str, str], list[NestedMachine]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        grouped: dict[tuple[str, str], list[NestedMachine]] = defaultdict(list)
        for machine in self.machines:
            grouped[machine.metadata.namespace, machine.spec.cluster_name].append(machine)
        object.__setattr__(self, "by_cluster", dict(grouped))

    def find(self, namespace: str, name: str) -> NestedCluster | None:
        """The cluster of that name, or None."""
        key = (namespace, name)
        return next((one for one in self.clusters if (one.metadata.namespace, one.metadata.name) == key), None)

    def machines_of(self, cluster: NestedCluster) -> list[NestedMachine]:
        """The machines of a cluster, and not those of a former one of its name."""
        meta = cluster.metadata
        found = self.by_cluster.get((meta.namespace, meta.name), [])
        return [machine for machine in found if machine.metadata.controller_uid in {None, meta.uid}]


def compute_budget(cluster: NestedCluster, around: Surroundings) -> list[BudgetUse]:
    """What the clusters below take now, in all (depth 0) against the budget, then at each depth."""
    if not cluster.spec.nests:
        return []
    budget = cluster.spec.nesting.budget if cluster.spec.nesting is not None else NestingBudget()
    limits = {
        "clusters": budget.clusters,
        "machines": budget.machines,
        "cpus": budget.cpus,
        "memory (MiB)": None if budget.memory is None else quantity_mib(budget.memory),
        "disk (MiB)": None if budget.disk is None else quantity_mib(budget.disk),
    }
    by_depth: dict[int, dict[str, int]] = {0: dict.fromkeys(limits, 0)}
    if cluster.metadata.uid:
        namespace = claims_namespace(cluster.metadata.name, cluster.metadata.uid)
        for claim in (one for one in around.clusters if one.metadata.namespace == namespace):
            depth = (claim.path.count("/") - cluster.path.count("/")) // PARTS_A_LEVEL
            used = _count(around.machines_of(claim))
            for level in (0, depth):
                total = by_depth.setdefault(level, dict.fromkeys(limits, 0))
                for what, amount in used.items():
                    total[what] += amount
    return [
        BudgetUse(depth, what, amount, limits[what] if depth == 0 else None)
        for depth, used in sorted(by_depth.items())
        for what, amount in used.items()
        if depth > 0 or limits[what] is not None or amount
    ]


def _count(machines: Iterable[NestedMachine]) -> dict[str, int]:
    """What counts: a machine that is off keeps its place, so that it can always come back."""
    sizes = [machine.spec.machine for machine in machines]
    return {
        "clusters": 1,
        "machines": len(sizes),
        "cpus": sum(size.cpus for size in sizes),
        "memory (MiB)": sum(quantity_mib(size.memory) for size in sizes),
        "disk (MiB)": sum(quantity_mib(size.disk) for size in sizes),
    }


def find_overlaps(cluster: NestedCluster, around: Surroundings) -> list[str]:
    """What the cluster's networks cover that must be reached from inside it, or is another cluster's."""
    return [
        line
        for name, text in (
            ("podCIDR", cluster.spec.network.pod_cidr),
            ("serviceCIDR", cluster.spec.network.service_cidr),
        )
        for line in _describe_overlaps(f"spec.network.{name}", IPv4Network(text), cluster, around)
    ]


def _describe_overlaps(path: str, network: IPv4Network, cluster: NestedCluster, around: Surroundings) -> list[str]:
    said = [
        f"{path} {network} overlaps {other}, the Services of this parent: machines that run in it (KubeVirt) cannot"
        " reach them, and the provider refuses it (CIDRCollision)"
        for other in around.service_cidrs
        if (parsed := _parse(other)) is not None and network.overlaps(parsed)
    ]
    covered: list[str] = []
    shared: list[str] = []
    above: list[str] = []
    for other in around.clusters:
        if (other.metadata.namespace, other.metadata.name) == (cluster.metadata.namespace, cluster.metadata.name):
            own = other.status.endpoint
            if own is not None and _covers(network, own.host):
                covered.append(f"its own API server ({own.host})")
            continue
        if other.status.endpoint is not None and _covers(network, other.status.endpoint.host):
            covered.append(f"{other.path} ({other.status.endpoint.host})")
        theirs = [_parse(other.spec.network.pod_cidr), _parse(other.spec.network.service_cidr)]
        if any(one is not None and network.overlaps(one) for one in theirs):
            (above if cluster.path.startswith(f"{other.path}/") else shared).append(other.path)
    if covered:
        said.append(f"{path} {network} covers API servers of {_name(covered)}: nothing in the cluster could reach them")
    if above:
        said.append(f"{path} {network} overlaps networks of {_name(above)}, which this cluster is in: choose another")
    if shared:
        said.append(f"{path} {network} overlaps networks of {_name(shared)}: fine unless their pods shall be routed")
    return said


def _name(paths: Sequence[str]) -> str:
    named, more = sorted(paths)[:_MOST_NAMED], len(paths) - _MOST_NAMED
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def _covers(network: IPv4Network, host: str) -> bool:
    try:
        return IPv4Address(host) in network
    except AddressValueError:
        return False


def _parse(text: str) -> IPv4Network | None:
    try:
        return IPv4Network(text)
    except ValueError:
        return None
