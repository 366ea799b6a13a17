"""The tree parent -> clusters -> machines, to any depth, for people and for programs.

Role: reads NestedClusters and NestedMachines of one API and arranges them. What is below a child is known by the claims
that it made here and by what it reports on them, so one API tells the whole tree and no secret is needed. Inputs: a
client. Outputs: frozen values. Must not: write, or fail on an object that another version of capn made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from capn.api.conditions import find_condition
from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE
from capn.build.claim_report import ClaimReport, read_report
from capn.build.claims import PARTS_A_LEVEL
from capn.build.stamps import read_stamp
from capn.kube.client import KubeClient


@dataclass(frozen=True, slots=True)
class MachineNode:
    """One machine of the tree."""

    name: str
    role: str
    phase: str
    stage: str
    ready: bool
    version: str
    address: str
    created: str
    message: str
    waiting: str
    domain: str = ""


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """One cluster of the tree. `waiting` is the reason why it (or a machine) is not Ready yet, else empty.

    `path` is namespace/name, one pair a level; `clusters` are those below. `reachable` False: whoever tells of it does
    not answer, and everything here is as of `last_seen` (RFC 3339).
    """

    namespace: str
    name: str
    phase: str
    ready: bool
    machines_ready: int
    machines_desired: int
    version: str
    endpoint: str
    created: str
    message: str
    waiting: str
    machines: tuple[MachineNode, ...]
    path: str = ""
    depth: int = 1
    reachable: bool = True
    last_seen: str = ""
    clusters: tuple[ClusterNode, ...] = ()

    @property
    def names(self) -> str:
        """Namespace and name."""
        return f"{self.namespace}/{self.name}"


async def read_tree(client: KubeClient, *, namespace: str | None = None) -> list[ClusterNode]:
    """Every NestedCluster of the namespace (None: of all) with its machines and all that is below it, by name."""
    clusters = await client.list(NESTED_CLUSTER)
    machines = await client.list(NESTED_MACHINE)
    found = arrange(clusters.items, machines.items)
    return [node for node in found if namespace in {None, node.namespace}]


async def read_tree_data(client: KubeClient) -> list[dict[str, Any]]:
    """The whole tree, JSON-shaped."""
    return [asdict(cluster) for cluster in await read_tree(client)]


def arrange(clusters: Iterable[Mapping[str, Any]], machines: Iterable[Mapping[str, Any]]) -> list[ClusterNode]:
    """Machines under their clusters, claimed clusters under those whose claims they are.

    A machine whose cluster is gone is left out.
    """
    owned: dict[tuple[str, str], list[MachineNode]] = {}
    for machine in machines:
        key = (machine["metadata"]["namespace"], machine.get("spec", {}).get("clusterName", ""))
        owned.setdefault(key, []).append(_machine_node(machine))
    nodes = {node.path: node for node in (_cluster_node(cluster, owned) for cluster in clusters)}
    below: dict[str, list[str]] = {}
    for path in nodes:
        below.setdefault(_find_above(path, nodes), []).append(path)
    return [_grow(nodes[path], nodes, below, since="") for path in sorted(below.get("", ()))]


def _find_above(path: str, nodes: Mapping[str, ClusterNode]) -> str:
    """The nearest cluster above that is there; empty for one that has none above it."""
    parts = path.split("/")
    while len(parts) > PARTS_A_LEVEL:
        parts = parts[:-PARTS_A_LEVEL]
        if "/".join(parts) in nodes:
            return "/".join(parts)
    return ""


def _grow(
    node: ClusterNode, nodes: Mapping[str, ClusterNode], below: Mapping[str, list[str]], *, since: str
) -> ClusterNode:
    """The node with its branch. `since` is when the branch was last heard of, empty while it is."""
    lost = since or ("" if node.ready else node.last_seen)
    clusters = tuple(_grow(nodes[path], nodes, below, since=lost) for path in sorted(below.get(node.path, ())))
    return replace(node, clusters=clusters, reachable=not since, last_seen=since)


def _machine_node(machine: Mapping[str, Any]) -> MachineNode:
    spec, status = machine.get("spec", {}), machine.get("status", {})
    # The machine's own address rather than its host name, whichever comes first.
    known = sorted(status.get("addresses", []), key=lambda entry: entry.get("type") != "InternalIP")
    addresses = [entry.get("address", "") for entry in known]
    return MachineNode(
        name=(stamp.machine if (stamp := read_stamp(machine)) is not None else "") or machine["metadata"]["name"],
        role=spec.get("role", ""),
        phase=_phase(machine),
        stage=status.get("bootstrap", {}).get("stage", ""),
        ready=is_ready(machine),
        version=spec.get("version", ""),
        address=addresses[0] if addresses else "",
        created=machine["metadata"].get("creationTimestamp", ""),
        message=status.get("failureMessage", ""),
        waiting=_waiting(machine),
        domain=spec.get("failureDomain", ""),
    )


def _cluster_node(cluster: Mapping[str, Any], owned: Mapping[tuple[str, str], list[MachineNode]]) -> ClusterNode:
    meta, status = cluster["metadata"], cluster.get("status", {})
    path = (cluster.get("spec", {}).get("claim") or {}).get("path", "")
    machines = owned.get((meta["namespace"], meta["name"]), [])
    endpoint, counts = status.get("endpoint"), status.get("machines", {})
    node = ClusterNode(
        namespace=meta["namespace"],
        name=meta["name"],
        phase=_phase(cluster),
        ready=is_ready(cluster),
        machines_ready=counts.get("ready", 0),
        machines_desired=counts.get("desired", 0),
        version=status.get("version") or cluster.get("spec", {}).get("version", ""),
        endpoint=f"{endpoint['host']}:{endpoint['port']}" if endpoint else "",
        created=meta.get("creationTimestamp", ""),
        message=status.get("failureMessage", ""),
        waiting=_waiting(cluster),
        machines=tuple(sorted(machines, key=lambda machine: machine.name)),
        path=path or f"{meta['namespace']}/{meta['name']}",
        last_seen=(find_condition(cluster, "Ready") or {}).get("lastTransitionTime", ""),
    )
    return _as_claimed(node, read_report(cluster)) if path else node


def _as_claimed(node: ClusterNode, report: ClaimReport | None) -> ClusterNode:
    """A claim as the cluster that it is for: its name there, and what is said of it there."""
    *_, namespace, name = node.path.split("/")
    named = replace(node, namespace=namespace, name=name, depth=(node.path.count("/") + 1) // PARTS_A_LEVEL)
    if report is None or node.phase == "Deleting":
        return replace(named, ready=False)
    return replace(
        named,
        phase=report.phase or node.phase,
        ready=report.ready,
        machines_ready=report.ready_machines,
        machines_desired=report.machines,
        version=report.version or node.version,
        message=report.message or node.message,
        waiting="" if report.ready else (report.reason or node.waiting),
        last_seen=report.since,
    )


def _phase(obj: Mapping[str, Any]) -> str:
    if obj["metadata"].get("deletionTimestamp"):
        return "Deleting"
    return str(obj.get("status", {}).get("phase") or "Pending")


def _waiting(obj: Mapping[str, Any]) -> str:
    condition = find_condition(obj, "Ready")
    return str(condition.get("reason", "")) if condition is not None and not is_ready(obj) else ""


def is_ready(obj: Mapping[str, Any]) -> bool:
    """Whether Ready is True and was computed from the newest spec."""
    condition = find_condition(obj, "Ready")
    current = obj.get("status", {}).get("observedGeneration") == obj["metadata"].get("generation")
    return current and condition is not None and condition.get("status") == "True"
