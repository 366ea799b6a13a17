"""What a run measured, as plain data: written to JSON and read back for tables, plots and gates.

Role: pure data. Must not: measure or judge.
"""

from __future__ import annotations

from pathlib import Path

import msgspec


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """B6 at one rate, in milliseconds. `refused` changes were not taken, `unanswered` ones got no status in time."""

    wanted_rate: float
    reached_rate: float
    count: int
    p50_ms: float
    p99_ms: float
    refused: int
    unanswered: int


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One contestant on a fresh API server: B1, B2 and B6. Writes by "VERB resource"; CPU in seconds a cluster.

    `foreign_share` is the part of the machine's CPU that other programs took meanwhile. `lone_writes` are those of
    `lone_clusters` made one after the other, `state_writes` those of all the others at once.
    """

    contestant: str
    number: int
    clusters: int
    ready: int
    seconds: float
    lone_clusters: int
    lone_writes: dict[str, int]
    state_writes: dict[str, int]
    event_writes: dict[str, int]
    gets: dict[str, int]
    controller_cpu_s: float
    api_server_cpu_s: float
    etcd_cpu_s: float
    rss_mib: float
    foreign_share: float
    latencies: list[Latency]

    @property
    def rate(self) -> float:
        """Clusters a second, from the first create to the last Ready; 0 when not all became Ready."""
        return self.clusters / self.seconds if self.ready == self.clusters and self.seconds > 0 else 0.0


class Quiet(msgspec.Struct, frozen=True, kw_only=True):
    """B3: what was asked of the API server while nothing happened, or over a restart. `watches` are open after it."""

    what: str
    clusters: int
    seconds: float
    state_writes: dict[str, int]
    event_writes: dict[str, int]
    gets: dict[str, int]
    lists: dict[str, int]
    watches: dict[str, int]
    controller_cpu_s: float


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """All of one `python -m bench run`. `machine` says on what."""

    date: str
    machine: str
    clusters: int
    rounds: list[Round]
    quiet: list[Quiet]

    def of(self, contestant: str) -> list[Round]:
        """The rounds of one contestant."""
        return [one for one in self.rounds if one.contestant == contestant]


def save(results: Results, path: Path) -> None:
    """Write as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))


def load(path: Path) -> Results:
    """Read back. msgspec.ValidationError when it is not such a file."""
    return msgspec.json.decode(path.read_bytes(), type=Results)


def quantile(values: list[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed; 0 for none."""
    ordered = sorted(values)
    rank = max(1, -(-round(share * 1e6) * len(ordered) // 1_000_000))
    return ordered[rank - 1] if ordered else 0.0
