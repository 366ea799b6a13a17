"""The console protocol between a booting guest and the controller.

Role: encodes and parses lines `CAPN1 <first 12 hex digits of sha256(payload)> <base64 payload>`; the payload is JSON
with stage, state, seq and tail. Everything a guest prints is untrusted: the parser bounds memory, checks the digest
(against interleaved kernel messages, not against malice), and cleans and cuts every field. Must not: raise.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeGuard

MAX_LINE = 8192
MAX_STAGE = 128
MAX_TAIL = 3000
_MAX_SEQ = 2**31 - 1

_LINE = re.compile(rb"CAPN1 ([0-9a-f]{12}) ([A-Za-z0-9+/]+={0,2})\s*$")
_STAGE_JUNK = re.compile(r"[^A-Za-z0-9/_.-]+")
# Escape sequences first, whole; then any control or format character that is left (but line breaks stay).
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?")
_TAIL_JUNK = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2060-\u206f\ud800-\udfff\ufeff]")


class ReportState(StrEnum):
    """How the bootstrap stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Report:
    """What a guest last said. `tail` is the end of its log: of the failure, or of an attempt that is tried again."""

    stage: str
    state: ReportState
    seq: int = 0
    tail: str = ""


def encode_report(report: Report) -> bytes:
    """The console line (with line breaks around it) of a report, as a guest prints it."""
    payload = json.dumps(
        {"stage": report.stage, "state": report.state.value, "seq": report.seq, "tail": report.tail},
        separators=(",", ":"),
    ).encode()
    digest = hashlib.sha256(payload).hexdigest()[:12]
    return f"\nCAPN1 {digest} {base64.b64encode(payload).decode()}\n".encode()


class ReportParser:
    """Finds reports in a console stream, however it is cut into chunks and whatever else is printed between them."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._skipping = False  # the current line was too long; drop it up to its end

    def feed(self, chunk: bytes) -> list[Report]:
        """The reports that this chunk completes, in order; repeats included. Holds at most one line (8 KiB)."""
        reports: list[Report] = []
        *complete, rest = chunk.replace(b"\r", b"\n").split(b"\n")
        for piece in complete:
            self._append(piece)
            if not self._skipping and (report := _parse_line(bytes(self._line))) is not None:
                reports.append(report)
            self._line.clear()
            self._skipping = False
        self._append(rest)
        return reports

    def _append(self, piece: bytes) -> None:
        if self._skipping or len(self._line) + len(piece) > MAX_LINE:
            self._skipping = True
            self._line.clear()
        else:
            self._line += piece


def _parse_line(line: bytes) -> Report | None:
    match = _LINE.search(line)
    if match is None:
        return None
    try:
        payload = base64.b64decode(match[2], validate=True)
        if hashlib.sha256(payload).hexdigest()[:12].encode() != match[1]:
            return None
        return _read_payload(json.loads(payload))
    except (binascii.Error, ValueError, RecursionError):
        return None


def _read_payload(payload: object) -> Report | None:
    if not isinstance(payload, dict):
        return None
    stage, state, seq, tail = (payload.get(key) for key in ("stage", "state", "seq", "tail"))
    if not isinstance(stage, str) or not isinstance(seq, int) or isinstance(seq, bool):
        return None
    if not isinstance(tail, str | None) or not 0 <= seq <= _MAX_SEQ or not _is_state(state):
        return None
    clean_stage = _STAGE_JUNK.sub("-", stage)[:MAX_STAGE]
    return Report(stage=clean_stage or "unknown", state=ReportState(state), seq=seq, tail=clean_tail(tail or ""))


def _is_state(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value in set(ReportState)


def clean_tail(text: str) -> str:
    """The last 3000 characters, without escape sequences and control characters other than line breaks."""
    plain = _TAIL_JUNK.sub(" ", _ESCAPE.sub("", text))
    return plain[-MAX_TAIL:].strip()
