"""What wakes what: pure functions over the compact objects of the informers.

Our own status writes come back as events; were a kind's own to wake its reconciler, a failing one would never back off.
So a cluster or a machine is woken by what people change, and by that part of the other kind's status that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from capn import names
from capn.api.conditions import ClusterCondition
from capn.build.nesting import claims_namespace
from capn.kube.decode import Object
from capn.runtime.controller import Key
from capn.runtime.handlers import has_new_spec

# What of a cluster its machines wait for.
_GATES = frozenset({ClusterCondition.CONTROL_PLANE_INITIALIZED.value, ClusterCondition.PAUSED.value})


class _MachineSpec(msgspec.Struct, rename="camel"):
    cluster_name: str = ""


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""


class _ClusterStatus(msgspec.Struct):
    endpoint: dict[str, str | int | bool] | None = None
    conditions: list[_Condition] = []  # msgspec copies an empty default


def cluster_of(machine: Object) -> Iterable[Key]:
    """The cluster that a machine names in its spec (labels can be stripped, the spec cannot be changed)."""
    if not isinstance(machine.spec, msgspec.Raw):
        return []
    try:
        name = msgspec.json.decode(machine.spec, type=_MachineSpec).cluster_name
    except msgspec.MsgspecError:
        return []
    return [Key(machine.metadata.namespace, name)] if name else []


def index_by_cluster(machine: Object) -> Iterable[str]:
    """Index value of a machine: `<namespace>/<cluster>`."""
    return [str(key) for key in cluster_of(machine)]


def index_by_namespace(obj: Object) -> Iterable[str]:
    """Index value of anything: its namespace."""
    return [obj.metadata.namespace]


def index_by_claims(cluster: Object) -> Iterable[str]:
    """Index value of a cluster: the namespace of its children's claims, whether it may have any or not."""
    return [claims_namespace(cluster.metadata.name, cluster.metadata.uid)]


def index_by_gate_name(cluster: Object) -> Iterable[str]:
    """Index value of a cluster: the TLS server name by which the gate knows it."""
    return [names.build_gate_name(cluster.metadata.uid)]


def opens_gate(old: Object | None, new: Object | None) -> bool:
    """Whether a cluster's change matters to its machines: spec, deletion, endpoint, initialized, paused."""
    return has_new_spec(old, new) or _gates(old) != _gates(new)


def has_new_report(old: Object | None, new: Object | None) -> bool:
    """Whether a claim came, went, or says something new of its cluster."""
    return _report(old) != _report(new) or (old is None) != (new is None)


def _report(claim: Object | None) -> str | None:
    return None if claim is None else (claim.metadata.annotations or {}).get(names.ANNOTATION_REPORTED)


def only_when(
    predicate: Callable[[Object | None, Object | None], bool], handler: Callable[[Object | None, Object | None], None]
) -> Callable[[Object | None, Object | None], None]:
    """A handler that hears only the changes that `predicate` picks."""

    def handle(old: Object | None, new: Object | None) -> None:
        if predicate(old, new):
            handler(old, new)

    return handle


def on_removal(forget: Callable[[str], None]) -> Callable[[Object | None, Object | None], None]:
    """A handler that tells `forget` the UID of each object that is gone, or was replaced by another of its name."""

    def handle(old: Object | None, new: Object | None) -> None:
        if old is not None and (new is None or new.metadata.uid != old.metadata.uid):
            forget(old.metadata.uid)

    return handle


def _gates(cluster: Object | None) -> object:
    if cluster is None or not isinstance(cluster.status, msgspec.Raw):
        return None
    try:
        status = msgspec.json.decode(cluster.status, type=_ClusterStatus)
    except msgspec.MsgspecError:
        return None
    return status.endpoint, {entry.type: entry.status for entry in status.conditions if entry.type in _GATES}
