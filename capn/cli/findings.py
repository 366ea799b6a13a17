"""What a check of `capn doctor` came to. Pure data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome. `fix` is empty when nothing is to be done."""

    check: str
    ok: bool
    found: str
    fix: str = ""
