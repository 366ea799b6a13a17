"""The Python half of the rules that compare old and new; the API server's half is in tests/integration/test_plan.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from capn.api.cluster import NestedCluster, NestedClusterSpec
from capn.api.machine import NestedMachine
from capn.api.rule import Rule
from capn.api.transitions import find_refused
from tests.unit.api.cases import cluster, machine

# What is there, what is asked for, and the field that a refusal names; None: it is allowed.
CASES: tuple[tuple[str, dict[str, Any], dict[str, Any], str | None], ...] = (
    ("nothing", {}, {}, None),
    ("a newer patch", {"version": "v1.37.2"}, {"version": "v1.37.3"}, None),
    ("the next minor", {"version": "v1.36.4"}, {"version": "v1.37.0"}, None),
    ("two minors", {"version": "v1.35.0"}, {"version": "v1.37.0"}, "spec.version"),
    # Whether an upgrade has begun is not in the object: the controller refuses what cannot be taken back.
    ("an older patch", {"version": "v1.37.2"}, {"version": "v1.37.1"}, None),
    ("the minor before", {"version": "v1.37.2"}, {"version": "v1.36.9"}, None),
    ("two minors back", {"version": "v1.37.2"}, {"version": "v1.35.9"}, "spec.version"),
    ("pods", {}, {"network": {"podCIDR": "10.8.0.0/16"}}, "spec.network.podCIDR"),
    ("services", {}, {"network": {"serviceCIDR": "10.8.0.0/16"}}, "spec.network.serviceCIDR"),
    ("domain", {}, {"network": {"dnsDomain": "a.b"}}, "spec.network.dnsDomain"),
    ("cni", {}, {"network": {"cni": "None"}}, "spec.network.cni"),
    ("infrastructure", {}, {"infrastructure": {"kind": "memory"}}, "spec.infrastructure"),
    ("nesting on", {}, {"nesting": {"enabled": True}}, None),
    ("nesting deeper", {"nesting": {"enabled": True}}, {"nesting": {"enabled": True, "maxDepth": 3}}, None),
    ("nesting off", {"nesting": {"enabled": True}}, {"nesting": {"enabled": False}}, "spec.nesting"),
    ("nesting gone", {"nesting": {"enabled": True}}, {}, "spec.nesting"),
    ("a claim more", {}, {"claim": {"path": "a/b"}}, "spec"),
    ("another claim", {"claim": {"path": "a/b"}}, {"claim": {"path": "a/c"}}, "spec"),
    ("a snapshot to begin with", {}, {"restoreFrom": {"store": "a"}}, "spec.restoreFrom"),
    ("another snapshot", {"restoreFrom": {"store": "a"}}, {"restoreFrom": {"store": "b"}}, "spec.restoreFrom"),
    ("no snapshot any more", {"restoreFrom": {"store": "a"}}, {}, "spec.restoreFrom"),
    ("the same snapshot", {"restoreFrom": {"store": "a"}}, {"restoreFrom": {"store": "a"}, "paused": True}, None),
    ("power", {}, {"powerState": "Off"}, None),
    ("more workers", {"workers": [{"name": "a"}]}, {"workers": [{"name": "b"}, {"name": "a", "replicas": 3}]}, None),
)


@pytest.mark.parametrize(("old", "new", "field"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_may_be_changed(old: dict[str, Any], new: dict[str, Any], field: str | None) -> None:
    before, after = (NestedCluster.model_validate(cluster(spec)).spec for spec in (old, new))
    refused = find_refused(before, after)
    assert [one.field for one in refused] == ([] if field is None else [field])
    assert all(one.message for one in refused)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {"ordinal": 1}),
        ({}, {"failureDomain": "a"}),
        ({"failureDomain": "a"}, {"failureDomain": "b"}),
        ({"failureDomain": "a"}, {}),
    ],
)
def test_a_machine_is_not_changed(old: dict[str, Any], new: dict[str, Any]) -> None:
    before, after = (NestedMachine.model_validate(machine(spec)).spec for spec in (old, new))
    assert [one.field for one in find_refused(before, after)] == ["spec"]


def _rules_of(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[Rule]:
    if model in seen:
        return
    seen.add(model)
    yield from getattr(model, "RULES", ())
    for field in model.model_fields.values():
        yield from (mark for mark in field.metadata if isinstance(mark, Rule))
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _rules_of(part, seen)


def test_every_rule_has_the_half_in_python_that_its_cel_needs() -> None:
    found = [*_rules_of(NestedClusterSpec, set()), *_rules_of(NestedMachine, set())]
    transitions = [rule for rule in found if "oldSelf" in rule.cel]
    assert len(transitions) > 8
    for rule in found:
        assert (rule.allows is not None) == ("oldSelf" in rule.cel), rule.message
        assert (rule.holds is not None) == ("oldSelf" not in rule.cel), rule.message
