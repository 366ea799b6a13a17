"""Writes a computed status, if it differs, and the events of its transitions.

Role: the one place where status goes to the API server, by server-side apply on the status subresource. Inputs: the
object's cached form, old and new status. Must not: decide anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from capn.api.conditions import compute_transitions
from capn.api.meta import Condition, ObjectMeta
from capn.api.resources import Resource
from capn.build.owners import build_subject
from capn.controllers.deps import Cache, Recorder
from capn.errors import NotFoundError
from capn.kube.client import KubeClient

# Conditions that only sum up others: an event for each would say everything twice.
QUIET = frozenset({"Reconciling", "Stalled", "Paused", "WorkersReady", "ControlPlaneReady"})

# What the user has asked for is no warning.
WISHES = frozenset({
    "PoweredOff", "PoweringOff", "PoweringOn", "ShuttingDown",
    "UpgradeStarting", "UpgradingControlPlane", "UpgradingWorkers", "UpgradingAddons",
})  # fmt: skip


class StatusModel(Protocol):
    """What both status models have."""

    @property
    def conditions(self) -> list[Condition]:
        """The conditions."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        ...


async def write_status(  # noqa: PLR0913 - all of it is the one write
    client: KubeClient,
    cache: Cache,
    recorder: Recorder,
    resource: Resource,
    meta: ObjectMeta,
    *,
    before: StatusModel,
    after: StatusModel,
) -> bool:
    """Apply the status when it differs; True when it was written. An object that is gone by now is fine."""
    if _read(after) == _read(before):
        return False
    obj = build_subject(resource, meta) | {"status": after.to_json()}
    try:
        cache.note_write(await client.apply(resource, obj, subresource="status"))
    except NotFoundError:
        return False
    for condition in select_transitions(before.conditions, after.conditions):
        event_type: Literal["Normal", "Warning"] = "Normal" if condition.status == "True" else "Warning"
        recorder.event(obj, event_type, condition.reason, f"{condition.type}: {condition.message or condition.reason}")
    return True


def select_transitions(before: Sequence[Condition], after: Sequence[Condition]) -> list[Condition]:
    """What people want to hear: what became true, and what failed; not each wait for the step before."""
    return [
        condition
        for condition in compute_transitions(before, after)
        if condition.type not in QUIET and (condition.status == "True" or not _is_expected(condition.reason))
    ]


def _read(status: StatusModel) -> dict[str, Any]:
    """The status for a comparison: the API server keeps conditions in the order in which it first saw them."""
    return status.to_json() | {"conditions": {condition.type: condition for condition in status.conditions}}


def _is_expected(reason: str) -> bool:
    return reason.startswith("Waiting") or reason in WISHES
