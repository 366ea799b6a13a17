"""In which failure domain a machine is made, and in which order machines leave theirs.

Role: pure. All that it knows is what exists, so that a reconcile that dies after a choice makes the same one again.
Inputs: names of domains, machines; outputs: a name, counts. Must not: know what keeps a domain from being used, or have
a machine moved for the sake of an even spread alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from capn import names
from capn.api.cluster import NestedCluster, WorkerPool
from capn.api.machine import NestedMachine, NestedMachineSpec


def choose_domain(
    candidates: Sequence[str], *, peers: Iterable[str | None], others: Iterable[str | None] = ()
) -> str | None:
    """The candidate with the fewest `peers`, then with the fewest `others`, then the first; None without candidates.

    `peers` and `others` have the domain of each machine of the same pool (or of the control plane), and of the cluster;
    None stands for a machine that was made before there were domains.
    """
    same, all_ = Counter(peers), Counter(others)
    return min(candidates, key=lambda name: (same[name], all_[name]), default=None)


def is_outside(machine: NestedMachine, allowed: Collection[str]) -> bool:
    """Whether the machine is in a domain that is not among those that were named, if any were."""
    domain = machine.spec.failure_domain
    return bool(allowed) and domain is not None and domain not in allowed


def compute_depths(leaving: Sequence[NestedMachine]) -> dict[str, int]:
    """How many machines of the same domain would leave after each, by the machine's name, if all left in this order.

    Who takes those of the greatest depth first leaves an even spread; where all are in one domain it is the same order.
    """
    seen: Counter[str | None] = Counter()
    depths: dict[str, int] = {}
    for machine in reversed(leaving):
        depths[machine.metadata.name] = seen[machine.spec.failure_domain]
        seen[machine.spec.failure_domain] += 1
    return depths


def find_allowed(cluster: NestedCluster, pool: WorkerPool | None) -> tuple[str, Sequence[str]]:
    """The field that names domains for a pool, or for the control plane, and what it names."""
    if pool is None:
        return "spec.controlPlane.failureDomains", cluster.spec.control_plane.failure_domains
    return f"spec.workers[{pool.name}].failureDomains", pool.failure_domains


def compute_node_labels(spec: NestedMachineSpec) -> dict[str, str]:
    """The labels of the machine's node: its domain as zone, and what its pool says, which may be another zone."""
    zone: Mapping[str, str] = {names.LABEL_ZONE: spec.failure_domain} if spec.failure_domain else {}
    return {**zone, **spec.labels}
