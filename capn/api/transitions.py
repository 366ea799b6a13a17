"""What may not be changed on an object that exists: the Python half of the rules that compare old and new.

Role: pure; for those who know both objects before the API server does (`capn plan`). Inputs: two valid models of one
kind; output: what is refused, with the path as the API server prints it. Must not: hold a rule (`capn.api.crd_rules`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from capn.api.rule import Rule, Unique


@dataclass(frozen=True, slots=True)
class Refused:
    """A change that is not allowed: where, and the rule's message."""

    field: str
    message: str


def find_refused(old: BaseModel, new: BaseModel, path: str = "spec") -> list[Refused]:
    """Every rule that the change from `old` to `new` breaks, from the outside in."""
    return list(_walk(old, new, path))


def _walk(old: BaseModel, new: BaseModel, path: str) -> Iterator[Refused]:
    rules: tuple[Rule, ...] = getattr(type(new), "RULES", ())
    yield from _ask(rules, old, new, path)
    for name, field in type(new).model_fields.items():
        before, after = getattr(old, name), getattr(new, name)
        if before is None or after is None:
            continue  # as in CEL: a rule with oldSelf asks only where both are there
        where = f"{path}.{field.alias or name}"
        yield from _ask([mark for mark in field.metadata if isinstance(mark, Rule)], before, after, where)
        if isinstance(after, BaseModel):
            yield from _walk(before, after, where)
        elif isinstance(after, list):
            keys = next((mark.keys for mark in field.metadata if isinstance(mark, Unique)), ())
            yield from _walk_items(before, after, keys, where)


def _walk_items(old: list[Any], new: list[Any], keys: tuple[str, ...], path: str) -> Iterator[Refused]:
    """Items are the same when their keys are, wherever they stand."""
    if not keys:
        return
    known = {tuple(getattr(item, key) for key in keys): item for item in old}
    for number, item in enumerate(new):
        before = known.get(tuple(getattr(item, key) for key in keys))
        if before is not None:
            yield from _walk(before, item, f"{path}[{number}]")


def _ask(rules: tuple[Rule, ...] | list[Rule], old: object, new: object, path: str) -> Iterator[Refused]:
    for rule in rules:
        if rule.allows is not None and not rule.allows(old, new):
            yield Refused(f"{path}{rule.field}", rule.message)
