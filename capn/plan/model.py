"""What a plan says. Pure data; `asdict` of it is the JSON that `capn plan -o json` prints."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_MIB_PER_GIB = 1024


class Action(StrEnum):
    """What happens to a machine. `REPLACE`: it takes a new VM; `UPDATE`: its node takes it on as it is."""

    ADD = "add"
    REPLACE = "replace"
    UPDATE = "update"
    REMOVE = "remove"
    KEEP = "keep"


class Verdict(StrEnum):
    """What comes of a cluster's manifest."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


class Judge(StrEnum):
    """Who refuses."""

    RULE = "rule"
    API_SERVER = "API server"
    CONTROLLER = "controller"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field of the spec; None stands for none."""

    field: str
    old: object
    new: object

    def __str__(self) -> str:
        return f"{self.field}: {_show(self.old)} -> {_show(self.new)}"


@dataclass(frozen=True, slots=True)
class MachineChange:
    """One machine, and why."""

    name: str
    action: Action
    why: tuple[FieldChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the whole manifest is not taken, or taken and not carried out."""

    field: str
    message: str
    by: Judge


@dataclass(frozen=True, slots=True)
class Needs:
    """What machines take of the host: CPUs and memory while they run, disks always."""

    machines: int = 0
    cpus: int = 0
    memory_mib: int = 0
    disk_mib: int = 0

    def __add__(self, other: Needs) -> Needs:
        return Needs(
            self.machines + other.machines,
            self.cpus + other.cpus,
            self.memory_mib + other.memory_mib,
            self.disk_mib + other.disk_mib,
        )


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """What the clusters below one take, at one depth (0: at all of them), of what its spec lets them."""

    depth: int
    what: str
    used: int
    limit: int | None

    @property
    def exceeded(self) -> bool:
        """Whether more is taken than the limit (a budget that is made smaller takes nothing away)."""
        return self.limit is not None and self.used > self.limit


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """What an apply of one NestedCluster would do. `notes` are for people: what to know before."""

    namespace: str
    name: str
    verdict: Verdict
    fields: tuple[FieldChange, ...] = ()
    machines: tuple[MachineChange, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    now: Needs = Needs()
    after: Needs = Needs()
    budget: tuple[BudgetUse, ...] = ()
    notes: tuple[str, ...] = ()


def format_mib(mib: int) -> str:
    """MiB as people write them: 2560Mi, 10Gi."""
    return f"{mib // _MIB_PER_GIB}Gi" if mib % _MIB_PER_GIB == 0 else f"{mib}Mi"


def _show(value: object) -> str:
    return "none" if value is None else str(value)
