"""Draws the tree as text.

Role: pure; nodes to aligned lines, failures' messages under what they are of. Must not: read a cluster or the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from capn.tree.model import ClusterNode, MachineNode

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_HEADER = ("NAME", "PHASE", "VERSION", "STAGE", "READY", "ADDRESS", "DOMAIN", "AGE")
_DOMAIN = _HEADER.index("DOMAIN")


def format_age(created: str, now: datetime) -> str:
    """Age as kubectl gives it, roughly: 42s, 7m, 3h, 12d; empty when unknown."""
    try:
        seconds = max(0, int((now - datetime.fromisoformat(created)).total_seconds()))
    except ValueError:
        return ""
    for unit, size, limit in (("s", 1, 2 * _MINUTE), ("m", _MINUTE, 2 * _HOUR), ("h", _HOUR, 2 * _DAY)):
        if seconds < limit:
            return f"{seconds // size}{unit}"
    return f"{seconds // _DAY}d"


def draw_tree(clusters: Sequence[ClusterNode], *, parent: str, now: datetime) -> list[str]:
    """The tree as aligned lines; failures' messages stand under the machine or cluster that they are of.

    There is a column of failure domains where a machine is in one.
    """
    drawing = _Drawing(now)
    drawing.add_level(clusters, indent="")
    rows: list[tuple[str, ...]] = [_HEADER, *drawing.rows]
    if not any(row[_DOMAIN] for row in drawing.rows):
        rows = [row[:_DOMAIN] + row[_DOMAIN + 1 :] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines = [texts[0], parent]
    for number, text in enumerate(texts[1:]):
        lines.append(text)
        if number in drawing.notes:
            lines.append(drawing.notes[number])
    return lines


class _Drawing:
    """Rows, and the notes that stand below some of them by the row's number."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self.rows: list[tuple[str, ...]] = []
        self.notes: dict[int, str] = {}

    def add_level(self, clusters: Sequence[ClusterNode], *, indent: str) -> None:
        """Clusters beside each other; `indent` is what stands before their branches."""
        for number, cluster in enumerate(clusters):
            last = number == len(clusters) - 1
            self._add_cluster(cluster, f"{indent}{'└─ ' if last else '├─ '}", f"{indent}{'   ' if last else '│  '}")

    def _add_cluster(self, cluster: ClusterNode, branch: str, indent: str) -> None:
        ready = f"{cluster.machines_ready}/{cluster.machines_desired}"
        phase = cluster.phase if cluster.reachable else f"({cluster.phase})"
        age = format_age(cluster.created, self._now)
        self.rows.append((f"{branch}{cluster.names}", phase, cluster.version, "", ready, cluster.endpoint, "", age))
        if not cluster.reachable:
            seen = format_age(cluster.last_seen, self._now)
            self._note(f"{indent}   ? unreachable, last seen {seen} ago: the cluster above does not answer")
        elif cluster.message and not any(machine.message for machine in cluster.machines):
            self._note(f"{indent}   ! {cluster.message}")
        for number, machine in enumerate(cluster.machines):
            last = number == len(cluster.machines) - 1 and not cluster.clusters
            self._add_machine(machine, f"{indent}{'└─ ' if last else '├─ '}", indent)
        self.add_level(cluster.clusters, indent=indent)

    def _add_machine(self, machine: MachineNode, branch: str, indent: str) -> None:
        ready, age = "yes" if machine.ready else "no", format_age(machine.created, self._now)
        self.rows.append(
            (
                f"{branch}{machine.name}",
                machine.phase,
                machine.version,
                machine.stage,
                ready,
                machine.address,
                machine.domain,
                age,
            )
        )
        if machine.message:
            self._note(f"{indent}      ! {machine.message.splitlines()[0]}")

    def _note(self, text: str) -> None:
        self.notes[len(self.rows) - 1] = text
