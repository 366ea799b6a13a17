"""What must hold: ratios and counts, never absolute times, since those are the machine's.

Role: pure. Inputs: results; outputs: verdicts. Must not: forgive. What cannot be judged is said so and why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from bench.contestants import CAPN, FLOOR, KOPF
from bench.results import Latency, Quiet, Results, Round

# A cluster's writes from create to Ready, each with the fact that it persists:
#   finalizer before the first side effect; four Secrets of the PKI, the kubeconfig, one bootstrap Secret a machine; the
#   two machines; cluster status: endpoint known, control plane initialized, control plane ready, Ready; machine status:
#   VM runs (both), bootstrapped (the first, which the cluster waits for), Ready (both).
MINIMUM = {
    "APPLY nestedclusters/status": 4,
    "APPLY nestedmachines/status": 5,
    "PATCH nestedclusters": 1,
    "POST nestedmachines": 2,
    "POST secrets": 7,
}
MIN_OF_FLOOR = 0.8
MIN_OF_KOPF = 5.0
MAX_LATENCY = 1.5
# The generator could not make the load when it stayed below this part of the wanted rate.
_LOADED = 0.9
# Times are not compared when other programs took more than this part of the machine's CPU in any round of either.
_DISTURBED = 0.2


@dataclass(frozen=True, slots=True)
class Verdict:
    """One gate. `passed` None: it could not be judged, and `found` says why."""

    gate: str
    target: str
    found: str
    passed: bool | None


def judge(results: Results) -> list[Verdict]:
    """All gates that these results allow to judge."""
    verdicts = [*_judge_rate(results), *_judge_writes(results)]
    for quiet in results.quiet:
        verdicts += _judge_quiet(quiet)
    return [*verdicts, *_judge_latency(results)]


def failed(verdicts: list[Verdict]) -> list[Verdict]:
    """Those that did not hold."""
    return [verdict for verdict in verdicts if verdict.passed is False]


def compute_ratio(results: Results, over: str, measure: Callable[[Round], float]) -> float | None:
    """Median over the rounds of capn's value over another's in the same round; None when a value is missing or 0."""
    others = {one.number: measure(one) for one in results.of(over)}
    mine = {one.number: measure(one) for one in results.of(CAPN)}
    ratios = [mine[number] / others[number] for number in mine if others.get(number)]
    return median(ratios) if ratios else None


def _judge_rate(results: Results) -> list[Verdict]:
    verdicts = []
    for other, least in ((FLOOR, MIN_OF_FLOOR), (KOPF, MIN_OF_KOPF)):
        gate, target = f"B1 clusters/s against {other}", f">= {least:g}x"
        ratio = compute_ratio(results, other, lambda one: one.rate)
        if ratio is not None and (disturbed := _describe_disturbance(results, other)):
            verdicts.append(Verdict(gate, target, f"{ratio:.2f}x, but {disturbed}", None))
            continue
        found = f"{other} was not measured" if ratio is None else f"{ratio:.2f}x"
        passed = None if ratio is None else ratio >= least
        verdicts.append(Verdict(gate, target, found, passed))
    return verdicts


def _describe_disturbance(results: Results, other: str) -> str:
    worst = max((one.foreign_share for one in (*results.of(CAPN), *results.of(other))), default=0.0)
    return f"other programs took up to {worst:.0%} of the machine" if worst > _DISTURBED else ""


def _judge_writes(results: Results) -> list[Verdict]:
    """Exact for a cluster alone; at once, two facts may fall into one status, so there may be fewer, never more."""
    verdicts = []
    each = sum(MINIMUM.values())
    for one in results.of(CAPN):
        off = compute_deviation(one.lone_writes, one.lone_clusters)
        gate = f"B2 writes to Ready, one cluster after the other, round {one.number}"
        verdicts.append(Verdict(gate, f"== {each} a cluster", _describe_deviation(off), not off))
        off = compute_deviation(one.state_writes, one.clusters)
        gate = f"B2 writes to Ready, {one.clusters} clusters at once, round {one.number}"
        few = not any(count > 0 for count in off.values())
        verdicts.append(Verdict(gate, f"<= {each} a cluster, no call above its own", _describe_deviation(off), few))
    return verdicts


def compute_deviation(writes: dict[str, int], clusters: int) -> dict[str, int]:
    """How far each kind of write is from its minimum for so many clusters; kinds that are exact are left out."""
    deviations = {
        call: writes.get(call, 0) - MINIMUM.get(call, 0) * clusters for call in sorted(MINIMUM.keys() | writes.keys())
    }
    return {call: count for call, count in deviations.items() if count}


def _describe_deviation(deviation: dict[str, int]) -> str:
    return "; ".join(f"{call}: {count:+d}" for call, count in deviation.items()) or "exact"


def _judge_quiet(quiet: Quiet) -> list[Verdict]:
    where = f"B3 {quiet.what}, {quiet.clusters} clusters"
    verdicts = [
        Verdict(f"{where}: writes", "== 0", _describe(quiet.state_writes), not quiet.state_writes),
        Verdict(f"{where}: GETs", "== 0", _describe(quiet.gets), not quiet.gets),
    ]
    if quiet.what == "restart":
        kinds = {kind: quiet.lists.get(f"LIST {kind}", 0) for kind in quiet.watches}
        one_each = all(count <= 1 for count in kinds.values()) and all(count == 1 for count in quiet.watches.values())
        found = ", ".join(f"{kind}: {kinds[kind]} LIST, {open_} watch" for kind, open_ in quiet.watches.items())
        verdicts.append(Verdict(f"{where}: LIST and watch a kind", "<= 1 LIST, 1 watch", found, one_each))
    return verdicts


def _describe(calls: dict[str, int]) -> str:
    return ", ".join(f"{count} {call}" for call, count in calls.items()) or "0"


def _judge_latency(results: Results) -> list[Verdict]:
    verdicts = []
    for rate in sorted({latency.wanted_rate for one in results.of(CAPN) for latency in one.latencies}):
        gate, target = f"B6 p99 at {rate:g} ev/s against floor", f"<= {MAX_LATENCY:g}x"
        floor = [_at(one, rate) for one in results.of(FLOOR)]
        if any(latency is None or latency.reached_rate < _LOADED * rate for latency in floor) or not floor:
            reached = min((latency.reached_rate for latency in floor if latency), default=0.0)
            found = f"not judged: with the floor the API server took only {reached:.0f} changes/s"
            verdicts.append(Verdict(gate, target, found, None))
            continue
        ratio = compute_ratio(results, FLOOR, lambda one, rate=rate: _p99(one, rate))  # type: ignore[misc]
        left = sum(latency.unanswered for one in results.of(CAPN) if (latency := _at(one, rate)))
        found = f"{ratio:.2f}x, {left} unanswered" if ratio is not None else "no latencies"
        if ratio is not None and (disturbed := _describe_disturbance(results, FLOOR)):
            verdicts.append(Verdict(gate, target, f"{found}, but {disturbed}", None))
            continue
        verdicts.append(Verdict(gate, target, found, ratio is not None and ratio <= MAX_LATENCY and left == 0))
    return verdicts


def _at(one: Round, rate: float) -> Latency | None:
    return next((latency for latency in one.latencies if latency.wanted_rate == rate), None)


def _p99(one: Round, rate: float) -> float:
    latency = _at(one, rate)
    return latency.p99_ms if latency else 0.0
