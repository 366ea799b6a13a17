"""What a pure decision says of itself: the reason and message of a condition.

Role: pure; to builders what a phase's `Wait` is to reconcilers. Must not: hold the time in its message.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Said:
    """Why a condition is not True, in one word and for people."""

    reason: str
    message: str
