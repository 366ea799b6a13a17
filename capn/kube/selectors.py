"""Label and field selectors, for the in-process API double.

Role: pure; of labels `a=b`, `a==b`, `a!=b`, `a`, `!a`, `a in (b,c)`, `a notin (b,c)`, joined by commas; of
fields `path=value`. Must not: do I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from capn.errors import ApiStatusError
from capn.kube.fields import read_field

Labels = Mapping[str, str]
Matcher = Callable[[Labels], bool]

_SET = re.compile(r"^(?P<key>\S+)\s+(?P<operator>in|notin)\s+\((?P<values>[^)]*)\)$")
_SPLIT = re.compile(r",(?![^(]*\))")


def build_matcher(selector: str | None) -> Matcher:
    """A predicate over labels. ApiStatusError 400 for what is no selector, as an API server answers."""
    parts = [_requirement(part.strip()) for part in _SPLIT.split(selector)] if selector else []
    return lambda labels: all(part(labels) for part in parts)


def build_field_matcher(selector: str | None) -> Callable[[Mapping[str, Any]], bool]:
    """A predicate over objects: `path=value` of text fields, joined by commas, such as `spec.nodeName=a`."""
    wanted = [part.strip().partition("=") for part in selector.split(",")] if selector else []
    if any(not path or not equals for path, equals, _ in wanted):
        raise ApiStatusError(400, f"unable to parse the field selector {selector!r}", reason="BadRequest")
    return lambda obj: all((read_field(obj, tuple(path.split("."))) or "") == value for path, _, value in wanted)


def _requirement(text: str) -> Matcher:
    if match := _SET.match(text):
        key, values = match["key"], {value.strip() for value in match["values"].split(",")}
        if match["operator"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    for operator in ("!=", "==", "="):
        if operator in text:
            key, _, value = (part.strip() for part in text.partition(operator))
            if operator == "!=":
                return lambda labels: labels.get(key) != value
            return lambda labels: labels.get(key) == value
    name = text.removeprefix("!")
    if not name or " " in name:
        raise ApiStatusError(400, f"unable to parse requirement {text!r} of a label selector", reason="BadRequest")
    return (lambda labels: name not in labels) if text.startswith("!") else (lambda labels: name in labels)
