"""Every reason that can end in a condition is explained in docs/troubleshooting.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
# Where conditions' reasons come from; the command line's and the runtime's own errors end on a terminal.
SOURCES = ("capn/controllers", "capn/providers", "capn/build", "capn/backup")
# A condition that is True, or an error that never leaves its call.
SETTLED = {"Invalid", "BadAnswer", "BadRequest", "LookupFailed"}


def _constants(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if called in {"Wait", "_wait", "Problem", "Refusal"}:
            yield from (value for value in map(_text, node.args[:2]) if re.fullmatch(r"[A-Z][A-Za-z]+", value))
        if called == "_rule":
            yield _text(node.args[1])
        for keyword in node.keywords:
            if keyword.arg == "reason" and isinstance(keyword.value, ast.Constant):
                yield _text(keyword.value)


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _reasons() -> set[str]:
    files = [path for source in SOURCES for path in (ROOT / source).rglob("*.py")]
    return {reason for path in files for reason in _constants(ast.parse(path.read_text()))}


def test_every_reason_is_explained() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text()
    explained = set(re.findall(r"\b[A-Z][A-Za-z]+\b", text))
    reasons = _reasons()
    assert len(reasons) > 40
    assert reasons - explained - SETTLED == set()
