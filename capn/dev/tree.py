"""The tree parent -> clusters -> machines, for people and for programs.

Role: reads NestedClusters and NestedMachines and arranges them; draws them as text. Inputs: a client. Outputs: frozen
values, a JSON-shaped dict, lines. Must not: write, or fail on an object that another version of capn made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from capn.api.conditions import find_condition
from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE
from capn.kube.client import KubeClient

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_HEADER = ("NAME", "PHASE", "VERSION", "STAGE", "READY", "ADDRESS", "AGE")


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


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """One child cluster of the tree. `waiting` is the reason why it (or a machine) is not Ready yet, else empty."""

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


async def read_tree(client: KubeClient, *, namespace: str | None = None) -> list[ClusterNode]:
    """Every NestedCluster of the namespace (None: of all) with its machines, sorted by name."""
    clusters = await client.list(NESTED_CLUSTER, namespace=namespace)
    machines = await client.list(NESTED_MACHINE, namespace=namespace)
    return arrange(clusters.items, machines.items)


def arrange(clusters: Iterable[Mapping[str, Any]], machines: Iterable[Mapping[str, Any]]) -> list[ClusterNode]:
    """Machines under their clusters. A machine whose cluster is gone is left out."""
    owned: dict[tuple[str, str], list[MachineNode]] = {}
    for machine in machines:
        key = (machine["metadata"]["namespace"], machine.get("spec", {}).get("clusterName", ""))
        owned.setdefault(key, []).append(_machine_node(machine))
    nodes = [_cluster_node(cluster, owned) for cluster in clusters]
    return sorted(nodes, key=lambda node: (node.namespace, node.name))


def _machine_node(machine: Mapping[str, Any]) -> MachineNode:
    spec, status = machine.get("spec", {}), machine.get("status", {})
    # The machine's own address rather than its host name, whichever comes first.
    known = sorted(status.get("addresses", []), key=lambda entry: entry.get("type") != "InternalIP")
    addresses = [entry.get("address", "") for entry in known]
    return MachineNode(
        name=machine["metadata"]["name"],
        role=spec.get("role", ""),
        phase=_phase(machine),
        stage=status.get("bootstrap", {}).get("stage", ""),
        ready=is_ready(machine),
        version=spec.get("version", ""),
        address=addresses[0] if addresses else "",
        created=machine["metadata"].get("creationTimestamp", ""),
        message=status.get("failureMessage", ""),
        waiting=_waiting(machine),
    )


def _cluster_node(cluster: Mapping[str, Any], owned: Mapping[tuple[str, str], list[MachineNode]]) -> ClusterNode:
    meta, status = cluster["metadata"], cluster.get("status", {})
    endpoint, counts = status.get("endpoint"), status.get("machines", {})
    machines = owned.get((meta["namespace"], meta["name"]), [])
    return ClusterNode(
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


def format_age(created: str, now: datetime) -> str:
    """Age as kubectl gives it, roughly: 42s, 7m, 3h, 12d; empty when unknown."""
    try:
        seconds = max(0, int((now - datetime.fromisoformat(created)).total_seconds()))
    except ValueError:
        return ""
    for unit, size, limit in (("s", 1, 2 * _MINUTE), ("m", _MINUTE, 2 * _HOUR), ("h", _HOUR, 2 * _DAY)):
        if seconds < limit:
            return f"{seconds // size}{unit}"
    return f"{seconds // _DAY}d"


def draw_tree(clusters: Sequence[ClusterNode], *, parent: str, now: datetime) -> list[str]:
    """The tree as aligned lines; failures' messages stand under the machine or cluster that they are of."""
    rows: list[tuple[str, ...]] = [_HEADER, (parent, "", "", "", "", "", "")]
    notes: dict[int, str] = {}
    for index, cluster in enumerate(clusters):
        last = index == len(clusters) - 1
        _add_cluster(rows, notes, cluster, branch="└─ " if last else "├─ ", indent="   " if last else "│  ", now=now)
    widths = [max(len(row[column]) for row in rows[:1] + rows[2:]) for column in range(len(_HEADER))]
    lines = []
    for number, row in enumerate(rows):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number in notes:
            lines.append(notes[number])
    return lines


def _add_cluster(  # noqa: PLR0913 - one private step of draw_tree
    rows: list[tuple[str, ...]], notes: dict[int, str], cluster: ClusterNode, *, branch: str, indent: str, now: datetime
) -> None:
    ready = f"{cluster.machines_ready}/{cluster.machines_desired}"
    name = f"{branch}{cluster.namespace}/{cluster.name}"
    age = format_age(cluster.created, now)
    rows.append((name, cluster.phase, cluster.version, "", ready, cluster.endpoint, age))
    if cluster.message and not cluster.machines:
        notes[len(rows) - 1] = f"{indent}   ! {cluster.message}"
    for number, machine in enumerate(cluster.machines):
        twig = "└─ " if number == len(cluster.machines) - 1 else "├─ "
        state = "yes" if machine.ready else "no"
        age = format_age(machine.created, now)
        rows.append(
            (
                f"{indent}{twig}{machine.name}",
                machine.phase,
                machine.version,
                machine.stage,
                state,
                machine.address,
                age,
            )
        )
        if machine.message:
            notes[len(rows) - 1] = f"{indent}      ! {machine.message.splitlines()[0]}"
