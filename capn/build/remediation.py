"""Which unhealthy machines are replaced now: the health check's limits over all pools of a cluster.

Control planes count as a pool of their own; that of several only one goes at a time, and never one whose vote etcd
needs, is for `control_plane_plan` and the machine's own deletion to see to.

Role: pure. Inputs: pools with their machines, what was done before (`status.remediations`), the time; output: a
`Verdict`. Replacing goes in rounds: a round of a pool is written into the cluster's status first, and what was due by
then is deleted after that; so no crash forgets a round, and a bad node image runs into the limit instead of being
tried for ever. Must not: be asked while the child's API is silent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from capn import names
from capn.api.machine import NestedMachine
from capn.api.pools import HealthCheck, Remediation
from capn.build.health import Finding, compute_finding, is_ready
from capn.build.said import Said

# In place of a pool's name, which this cannot be: it is the infix of the control planes' machines.
CONTROL_PLANES = "cp"
_NAMED = 5
_MAX_DOUBLINGS = 10
# A round is carried out once it is written down, and in a later second than its own: times have whole seconds, and what
# is made in its place must not seem to belong to it. What could not be deleted is tried again.
_NEXT_STEP = timedelta(seconds=1)
_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Patient:
    """A machine that is unhealthy, and why."""

    machine: NestedMachine
    finding: Finding


@dataclass(frozen=True, slots=True)
class Verdict:
    """`delete`: to be deleted now. `healing`: those that need no person. `records`: what the status has to hold.

    `after_s`: when to look again, if nothing changes before; None: not at all.
    """

    delete: tuple[Patient, ...] = ()
    healing: frozenset[str] = frozenset()
    records: tuple[Remediation, ...] = ()
    said: tuple[Said, ...] = ()
    after_s: float | None = None


@dataclass
class _Round:
    """What one pool's patients come to."""

    delete: list[Patient] = field(default_factory=list)
    healing: set[str] = field(default_factory=set)
    record: Remediation | None = None
    said: Said | None = None
    after_s: float | None = None


def compute_remediation(
    pools: Mapping[str, Sequence[NestedMachine]],
    wanted: int,
    check: HealthCheck,
    records: Sequence[Remediation],
    now: datetime,
) -> Verdict:
    """What to do about the machines of each pool; `wanted` is how many there shall be in all of these."""
    known = {record.pool: record for record in records if record.pool in pools}
    patients = {pool: _find_patients(machines, check) for pool, machines in pools.items()}
    if not check.enabled or not any(patients.values()):
        return Verdict(records=tuple(known.values()))
    everyone = [patient for found in patients.values() for patient in found]
    sick = [patient for patient in everyone if patient.finding.counts or patient.finding.due <= now]
    unhealthy = {patient.machine.metadata.name for patient in sick} | _find_unproven(pools, known, check, now)
    allowed = compute_allowed(check.max_unhealthy, wanted)
    if len(unhealthy) > allowed:
        return Verdict(records=tuple(known.values()), said=(_blocked(pools, unhealthy, wanted, allowed, check),))
    rounds = {
        pool: _decide(pool, [patient for patient in found if _may_go(patient.machine)], check, known.get(pool), now)
        for pool, found in patients.items()
    }
    kept = [entry.record or known.get(pool) for pool, entry in rounds.items()]
    return Verdict(
        delete=tuple(patient for entry in rounds.values() for patient in entry.delete),
        healing=frozenset().union(*(entry.healing for entry in rounds.values())),
        records=tuple(record for record in kept if record is not None),
        said=tuple(entry.said for entry in rounds.values() if entry.said is not None),
        after_s=min((entry.after_s for entry in rounds.values() if entry.after_s is not None), default=None),
    )


def compute_allowed(max_unhealthy: str, wanted: int) -> int:
    """How many of `wanted` may be unhealthy; a percentage is rounded up, or a pool of one would never heal."""
    if max_unhealthy.endswith("%"):
        return -(-int(max_unhealthy[:-1]) * wanted // 100)
    return int(max_unhealthy)


def _find_patients(machines: Sequence[NestedMachine], check: HealthCheck) -> list[Patient]:
    found = [(machine, compute_finding(machine, check)) for machine in machines]
    return [Patient(machine, finding) for machine, finding in found if finding is not None]


def _find_unproven(
    pools: Mapping[str, Sequence[NestedMachine]], known: Mapping[str, Remediation], check: HealthCheck, now: datetime
) -> set[str]:
    """Machines made since a round of late that were never Ready: what was replaced is not healed by that."""
    begin = now - timedelta(seconds=check.min_healthy_period_seconds)
    return {
        machine.metadata.name
        for pool, record in known.items()
        if datetime.fromisoformat(record.last_time) >= begin
        for machine in pools[pool]
        if (machine.metadata.creation_timestamp or "") >= record.last_time and not is_ready(machine)
    }


def _may_go(machine: NestedMachine) -> bool:
    kept = names.ANNOTATION_SKIP_REMEDIATION in machine.metadata.annotations
    return not kept and not machine.metadata.deleting


def _decide(
    pool: str, patients: Sequence[Patient], check: HealthCheck, record: Remediation | None, now: datetime
) -> _Round:
    """Carry out the round that is written down, begin the next, or say what that waits for."""
    due = sorted((patient for patient in patients if patient.finding.due <= now), key=lambda one: one.finding.due)
    if not due:
        return _watch(pool, patients, now)
    last = None if record is None else datetime.fromisoformat(record.last_time)
    healing = {patient.machine.metadata.name for patient in due}
    if last is not None and (decided := [patient for patient in due if patient.finding.due <= last]):
        if (begin := last + _NEXT_STEP) > now:
            return _Round(healing=healing, said=_replacing(pool, decided), after_s=(begin - now).total_seconds())
        return _Round(delete=decided, healing=healing, said=_replacing(pool, decided), after_s=_RETRY_S)
    count = 0 if record is None or last is None or _recovered(due[0], last, check) else record.count
    if count >= check.max_retries:
        return _Round(said=_exhausted(pool, due, count))
    if count and last is not None and (begin := last + _compute_pause(count, check)) > now:
        return _Round(healing=healing, said=_pausing(pool, due, count), after_s=(begin - now).total_seconds())
    began = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    following = Remediation(pool=pool, count=count + 1, last_time=began)
    return _Round(healing=healing, record=following, said=_replacing(pool, due), after_s=_NEXT_STEP.total_seconds())


def _watch(pool: str, patients: Sequence[Patient], now: datetime) -> _Round:
    """Nobody is due: the exact time of the next look; nothing is said of nodes that are still starting."""
    if not patients:
        return _Round()
    after_s = (min(patient.finding.due for patient in patients) - now).total_seconds()
    seen = sorted(patient.machine.metadata.name for patient in patients if patient.finding.counts)
    return _Round(said=_watching(pool, seen) if seen else None, after_s=after_s)


def _recovered(first: Patient, last: datetime, check: HealthCheck) -> bool:
    """Whether the pool was healthy for long since its last round.

    What was never Ready counts from when it was made: its conditions may turn again at any time.
    """
    created = first.machine.metadata.creation_timestamp if first.finding.never_ready else None
    begin = first.finding.due if created is None else datetime.fromisoformat(created)
    return begin - last > timedelta(seconds=check.min_healthy_period_seconds)


def _compute_pause(count: int, check: HealthCheck) -> timedelta:
    seconds = check.retry_period_seconds * 2 ** min(count - 1, _MAX_DOUBLINGS)
    return timedelta(seconds=min(seconds, check.min_healthy_period_seconds))


def _describe(patients: Sequence[Patient]) -> str:
    told = [f"{patient.machine.metadata.name}: {patient.finding.message}" for patient in patients[:_NAMED]]
    return "; ".join(told) + (f"; and {len(patients) - _NAMED} more" if len(patients) > _NAMED else "")


def _list(machines: Sequence[str]) -> str:
    return ", ".join(machines[:_NAMED]) + (" ..." if len(machines) > _NAMED else "")


def _name(pool: str) -> str:
    return "control planes" if pool == CONTROL_PLANES else f"pool {pool}"


def _blocked(pools: Collection[str], unhealthy: set[str], wanted: int, allowed: int, check: HealthCheck) -> Said:
    kind = "control planes" if CONTROL_PLANES in pools else "workers"
    return Said(
        reason="RemediationBlocked",
        message=f"{len(unhealthy)} of {wanted} {kind} are unhealthy ({_list(sorted(unhealthy))}) and"
        f" spec.healthCheck.maxUnhealthy ({check.max_unhealthy}) allows {allowed}: none is replaced; mend"
        " what they have in common, or delete NestedMachines",
    )


def _replacing(pool: str, patients: Sequence[Patient]) -> Said:
    return Said(
        reason="Remediating",
        message=f"{_name(pool)}: {len(patients)} unhealthy being replaced ({_describe(patients)})",
    )


def _watching(pool: str, seen: Sequence[str]) -> Said:
    return Said(
        reason="NodesNotReady",
        message=f"{_name(pool)}: {len(seen)} not Ready ({_list(seen)}); replaced if it lasts",
    )


def _pausing(pool: str, patients: Sequence[Patient], count: int) -> Said:
    return Said(
        reason="RemediationWaiting",
        message=f"{_name(pool)}: replaced {count} times in a row; the next time comes after a pause"
        f" ({_describe(patients)})",
    )


def _exhausted(pool: str, patients: Sequence[Patient], count: int) -> Said:
    return Said(
        reason="RemediationExhausted",
        message=f"{_name(pool)}: replacing {count} times in a row did not help ({_describe(patients)}): mend the cause,"
        " then delete these NestedMachines",
    )
