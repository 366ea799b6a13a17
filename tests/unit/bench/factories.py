"""Results to judge."""

from __future__ import annotations

from bench.gates import MINIMUM
from bench.results import Latency, Quiet, Results, Round


def build_writes(clusters: int) -> dict[str, int]:
    return {call: count * clusters for call, count in MINIMUM.items()}


def build_latency(*, p99_ms: float = 10.0, rate: float = 100.0, reached: float = 100.0, unanswered: int = 0) -> Latency:
    return Latency(
        wanted_rate=rate,
        reached_rate=reached,
        count=800,
        p50_ms=p99_ms / 2,
        p99_ms=p99_ms,
        refused=0,
        unanswered=unanswered,
    )


def build_round(  # noqa: PLR0913 - what tests vary
    contestant: str,
    *,
    number: int = 1,
    seconds: float = 10.0,
    ready: int = 100,
    lone: dict[str, int] | None = None,
    writes: dict[str, int] | None = None,
    latencies: list[Latency] | None = None,
    foreign: float = 0.0,
) -> Round:
    return Round(
        contestant=contestant,
        number=number,
        clusters=100,
        ready=ready,
        seconds=seconds,
        lone_clusters=5,
        lone_writes=build_writes(5) if lone is None else lone,
        state_writes=build_writes(100) if writes is None else writes,
        event_writes={"POST events": 1600},
        gets={},
        controller_cpu_s=0.1,
        api_server_cpu_s=0.2,
        etcd_cpu_s=0.05,
        rss_mib=100.0,
        foreign_share=foreign,
        latencies=[build_latency()] if latencies is None else latencies,
    )


def build_quiet(
    what: str = "restart", *, writes: dict[str, int] | None = None, gets: dict[str, int] | None = None, lists: int = 1
) -> Quiet:
    return Quiet(
        what=what,
        clusters=100,
        seconds=30.0,
        state_writes=writes or {},
        event_writes={},
        gets=gets or {},
        lists={"LIST nestedclusters": lists, "LIST nestedmachines": 1},
        watches={"nestedclusters": 1, "nestedmachines": 1},
        controller_cpu_s=0.1,
    )


def build_results(*rounds: Round, quiet: list[Quiet] | None = None) -> Results:
    return Results(date="2026-11-23 15:00 UTC", machine="2 CPUs", clusters=100, rounds=list(rounds), quiet=quiet or [])
