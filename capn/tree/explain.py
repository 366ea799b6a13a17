"""Why a cluster is not Ready: the chain from the object to the network add-on, and its first failing link.

Role: pure. Inputs: objects of the API that the cluster is in, and its claim in the API above if it has one. Output:
links, each with its evidence. The fix of a reason comes from docs/troubleshooting.md, the one place that has it. Must
not: ask anything, or fail on an object that is half there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from capn.api.cluster import PowerState
from capn.api.conditions import ClusterCondition, MachineCondition, find_condition
from capn.build.stamps import read_stamp

Json = Mapping[str, Any]
_TAIL_LINES = 12
_KUBEADM = "kubeadm/"
_CLUSTER_STEPS = (
    ClusterCondition.INFRASTRUCTURE_READY,
    ClusterCondition.CERTIFICATES_AVAILABLE,
    ClusterCondition.KUBECONFIG_READY,
)
# Reasons that say only that another link is not there yet.
_FOLLOWING = ("Waiting", "WaitingForMachine", "WaitingForMachines")


class Verdict(StrEnum):
    """What is known of a link."""

    OK = "ok"
    FAILED = "failed"
    WAITING = "waiting"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Link:
    """One link: which object or stage, what was seen of it, and what to do if it is not ok."""

    link: str
    subject: str
    verdict: Verdict
    reason: str = ""
    message: str = ""
    evidence: tuple[str, ...] = ()
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a cluster: its object and machines, and the claims of both in the API above."""

    cluster: Json
    machines: Sequence[Json] = ()
    claimed_cluster: Json | None = None
    claimed_machines: Sequence[Json] = ()


def explain(seen: Seen, fixes: Mapping[str, str]) -> list[Link]:
    """The chain, up to the first link that is not ok; all of it when the cluster is Ready."""
    links: list[Link] = []
    for link in _chain(seen, fixes):
        links.append(link)
        if link.verdict in {Verdict.FAILED, Verdict.WAITING}:
            break
    return links


def parse_fixes(text: str) -> dict[str, str]:
    """What to do, by reason, from the tables of docs/troubleshooting.md: reason(s), meaning, what to do."""
    fixes: dict[str, str] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 3 or set(cells[0]) <= {"-", ":"}:  # noqa: PLR2004 - the columns
            continue
        for reason in cells[0].replace("`", "").split(","):
            fixes[reason.strip()] = cells[2]
    return fixes


def _chain(seen: Seen, fixes: Mapping[str, str]) -> Iterator[Link]:
    cluster, name = seen.cluster, _name(seen.cluster)
    if _read(cluster, ClusterCondition.PAUSED)[0] == "True":
        yield Link("cluster", name, Verdict.WAITING, "Paused", "spec.paused is true", fix=fixes.get("Paused", ""))
    if (cluster.get("spec") or {}).get("powerState") == PowerState.OFF:
        yield _by_condition("cluster", cluster, ClusterCondition.READY, fixes)
        return
    if seen.claimed_cluster is not None and _read(cluster, ClusterCondition.INFRASTRUCTURE_READY)[0] != "True":
        claimed = seen.claimed_cluster
        yield _by_condition("claim", claimed, ClusterCondition.INFRASTRUCTURE_READY, fixes, follows=False)
    for step in _CLUSTER_STEPS:
        yield _by_condition("cluster", cluster, step, fixes)
    machine = _find_trouble(seen.machines)
    if machine is None:
        yield Link("machine", name, Verdict.WAITING, "WaitingForMachine", "no NestedMachine was made yet")
        return
    yield _by_condition("machine", machine, MachineCondition.BOOTSTRAP_DATA_READY, fixes)
    if (claim := _find_claim(machine, seen.claimed_machines)) is not None:
        yield _by_condition("claim", claim, MachineCondition.BOOTSTRAP_DATA_READY, fixes, follows=False)
        yield _by_condition("VM", claim, MachineCondition.INFRASTRUCTURE_READY, fixes, follows=False)
    yield _by_condition("VM", machine, MachineCondition.INFRASTRUCTURE_READY, fixes)
    yield from _guest(machine, fixes)
    yield _by_condition("node", machine, MachineCondition.NODE_HEALTHY, fixes)
    if find_condition(machine, MachineCondition.NODE_CONFIGURED) is not None:
        yield _by_condition("node", machine, MachineCondition.NODE_CONFIGURED, fixes)
    for kind, link in (
        (ClusterCondition.CONTROL_PLANE_INITIALIZED, "API server"),
        (ClusterCondition.CNI_READY, "CNI"),
        (ClusterCondition.NESTING_READY, "nesting"),
        (ClusterCondition.READY, "cluster"),
    ):
        if find_condition(cluster, kind) is not None or kind is ClusterCondition.READY:
            yield _by_condition(link, cluster, kind, fixes)


def _guest(machine: Json, fixes: Mapping[str, str]) -> Iterator[Link]:
    """The stage inside the guest, as cloud-init's or kubeadm's, with the end of its log when it failed."""
    said = (machine.get("status") or {}).get("bootstrap") or {}
    stage = str(said.get("stage", ""))
    status, reason, message = _read(machine, MachineCondition.BOOTSTRAP_SUCCEEDED)
    tail = tuple(str(said.get("logTail", "")).splitlines()[-_TAIL_LINES:])
    in_kubeadm = stage.startswith(_KUBEADM)
    if status == "True" or in_kubeadm or stage == "done":
        yield Link("cloud-init stage", _name(machine), Verdict.OK, message="handed over to kubeadm")
    if status == "True":
        yield Link("kubeadm phase", _name(machine), Verdict.OK, message="done")
        return
    link = "kubeadm phase" if in_kubeadm or stage == "done" else "cloud-init stage"
    verdict = Verdict.FAILED if said.get("failed") else Verdict.WAITING
    where = f"at {stage.removeprefix(_KUBEADM)}: " if stage else ""
    evidence = tail if said.get("failed") else ()
    yield Link(link, _name(machine), verdict, reason, f"{where}{message}", evidence, fixes.get(reason, ""))


def _by_condition(link: str, obj: Json, kind: str, fixes: Mapping[str, str], *, follows: bool = True) -> Link:
    """A link by one condition; one that only waits for another link is unknown, so that the chain goes on to that."""
    status, reason, message = _read(obj, kind)
    failure = (obj.get("status") or {}).get("failureReason")
    if status == "True":
        verdict = Verdict.OK
    elif failure and failure == reason:
        verdict = Verdict.FAILED
    elif not status or (follows and reason in _FOLLOWING):
        verdict = Verdict.UNKNOWN
    else:
        verdict = Verdict.WAITING
    if verdict is Verdict.OK:
        return Link(link, f"{_name(obj)} {kind}", verdict, reason)
    return Link(link, f"{_name(obj)} {kind}", verdict, reason, message, fix=fixes.get(reason, ""))


def _read(obj: Json, kind: str) -> tuple[str, str, str]:
    """Status, reason and message of a condition; empty when it is not there."""
    found = find_condition(obj, kind) or {}
    return str(found.get("status", "")), str(found.get("reason", "")), str(found.get("message", ""))


def _find_trouble(machines: Sequence[Json]) -> Json | None:
    """The machine to look at: one that failed, else one that is not Ready (control planes first), else the first."""

    def rank(machine: Json) -> tuple[bool, bool, bool, str]:
        failed = bool((machine.get("status") or {}).get("failureReason"))
        ready = _read(machine, MachineCondition.READY)[0] == "True"
        worker = (machine.get("spec") or {}).get("role") != "control-plane"
        return (not failed, ready, worker, _name(machine))

    return min(machines, key=rank, default=None)


def _find_claim(machine: Json, claims: Sequence[Json]) -> Json | None:
    uid = machine["metadata"].get("uid")
    return next((claim for claim in claims if find_owner(claim) == uid), None)


def find_owner(claim: Json) -> str | None:
    """UID of the object in the child that a claim is for; None when this is no claim."""
    stamp = read_stamp(claim)
    return None if stamp is None else stamp.owner_uid


def _name(obj: Json) -> str:
    meta = obj["metadata"]
    return f"{obj.get('kind', 'object')} {meta.get('namespace', '')}/{meta['name']}"
