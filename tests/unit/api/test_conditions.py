"""A condition is found in whatever shape an object's status has."""

from __future__ import annotations

from typing import Any

import pytest

from capn.api.conditions import find_condition


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
