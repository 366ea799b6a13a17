"""Finds the `hack/` directory: the pinned Go modules that third-party parts are built from.

Role: one lookup. Output: a path. Must not: write there, since an installed package is read-only.
"""

from __future__ import annotations

from pathlib import Path

from capn.errors import NotFoundError

_PACKAGE = Path(__file__).resolve().parent.parent


def hack_dir() -> Path:
    """The `hack/` beside the package in a checkout, else the copy inside an installed wheel. Raises NotFoundError."""
    for candidate in (_PACKAGE.parent / "hack", _PACKAGE / "_hack"):
        if (candidate / "parts").is_dir():
            return candidate
    raise NotFoundError("hack/parts is missing: install capn from its wheel or run it from a complete checkout")
