"""A condition is found in whatever shape an object's status has."""

from __future__ import annotations

from typing import Any

import pytest

from capn.api.conditions import find_condition, overlay
from capn.api.meta import Condition

BEFORE, NOW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


@pytest.mark.parametrize(
    "obj",
    [
        {},
        {"status": None},
        {"status": {}},
        {"status": {"conditions": None}},
        {"status": {"conditions": [{"type": "A"}]}},
    ],
)
def test_a_condition_that_is_not_there_is_none(obj: dict[str, Any]) -> None:
    assert find_condition(obj, "Ready") is None


def test_a_condition_is_found_by_its_type() -> None:
    ready = {"type": "Ready", "status": "True"}
    assert find_condition({"status": {"conditions": [{"type": "A"}, ready]}}, "Ready") == ready


def test_an_overlay_leaves_each_condition_at_its_place() -> None:
    """An API server merges conditions by type and keeps their places: another order would be written for ever."""
    previous = [
        Condition(type=kind, status="True", reason="Good", last_transition_time=BEFORE)
        for kind in ("NodeHealthy", "Ready", "Paused")
    ]
    first = overlay(previous, "Deleting", ("Draining", "1 pod left"), now=NOW, generation=2, paused=False)
    assert [condition.type for condition in first] == ["NodeHealthy", "Ready", "Paused", "Deleting"]
    assert [condition.reason for condition in first] == ["Good", "Draining", "NotPaused", "Draining"]
    assert (
        overlay(first, "Deleting", ("Draining", "1 pod left"), now="2026-01-03T00:00:00Z", generation=2, paused=False)
        == first
    )
