"""Reads the parent's audit log: who asked for what, and was it allowed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

WRITES = {"create", "update", "patch", "delete", "deletecollection"}


@dataclass(frozen=True)
class Request:
    """One request. `resource` is group/plural[/subresource], the group left out for core."""

    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int

    @property
    def writes(self) -> bool:
        return self.verb in WRITES


@dataclass
class AuditReader:
    """What was added to the log since it was last read."""

    path: Path
    offset: int = 0

    def skip(self) -> None:
        """Forget what is there already."""
        self.offset = self.path.stat().st_size

    def read(self, *, user: str) -> list[Request]:
        """New requests of that user (the end of its name)."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        whole = data.rpartition(b"\n")[0]
        self.offset += len(whole) + 1 if whole else 0
        found = [_parse(line) for line in whole.splitlines()]
        return [request for request in found if request is not None and request.user.endswith(user)]


def _parse(line: bytes) -> Request | None:
    entry = json.loads(line)
    ref = entry.get("objectRef")
    if ref is None or entry.get("stage") == "Panic":
        return None
    parts = (ref.get("apiGroup"), ref.get("resource"), ref.get("subresource"))
    return Request(
        user=entry["user"]["username"],
        verb=entry["verb"],
        resource="/".join(part for part in parts if part),
        namespace=ref.get("namespace", ""),
        name=ref.get("name", ""),
        code=entry.get("responseStatus", {}).get("code", 0),
    )
