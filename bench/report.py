"""Results as Markdown: for the terminal, and between two marks in docs/performance.md.

Role: pure text. Must not: measure, judge or leave a failed gate out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from bench.contestants import NAMES
from bench.gates import Verdict
from bench.results import Quiet, Results, Round

BEGIN = "<!-- results: written by `python -m bench publish`, not by hand -->"
END = "<!-- end of results -->"


def build_report(results: Results, verdicts: Sequence[Verdict]) -> str:
    """All tables."""
    rounds = max((one.number for one in results.rounds), default=0)
    parts = [
        f"Measured {results.date} on {results.machine}; {results.clusters} clusters, {rounds} round(s), medians.",
        "### B1 and B2: from the first create to the last Ready",
        _build_rounds(results),
        "### B2: writes a cluster, by verb and resource",
        _build_writes(results),
        "### B6: from a changed spec to its status",
        _build_latencies(results),
        "### B3: capn at rest and over a restart",
        _build_quiet(results.quiet),
        "### Gates",
        build_gates(verdicts),
    ]
    return "\n\n".join(parts) + "\n"


def insert(document: str, report: str, *, first: str = BEGIN, last: str = END) -> str:
    """The document with the report between its marks. ValueError when a mark is missing."""
    head, begin, rest = document.partition(first)
    _old, end, tail = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"the document lacks the line {first!r} or {last!r}")
    return f"{head}{first}\n\n{report}\n{last}{tail}"


def build_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _build_rounds(results: Results) -> str:
    columns: tuple[tuple[str, Callable[[Round], float], str], ...] = (
        ("clusters/s", lambda one: one.rate, ".2f"),
        ("state writes", lambda one: sum(one.state_writes.values()) / one.clusters, ".1f"),
        ("Events", lambda one: sum(one.event_writes.values()) / one.clusters, ".1f"),
        ("GETs", lambda one: sum(one.gets.values()) / one.clusters, ".1f"),
        ("controller CPU s", lambda one: one.controller_cpu_s, ".3f"),
        ("API server CPU s", lambda one: one.api_server_cpu_s, ".3f"),
        ("etcd CPU s", lambda one: one.etcd_cpu_s, ".3f"),
        ("others' share of the machine", lambda one: one.foreign_share, ".0%"),
        ("controller RSS MiB", lambda one: one.rss_mib, ".0f"),
    )
    rows = [
        [name, *(format(median(measure(one) for one in results.of(name)), form) for _head, measure, form in columns)]
        for name in NAMES
        if results.of(name)
    ]
    return build_table(["", *(head for head, _measure, _form in columns)], rows)


def _build_writes(results: Results) -> str:
    present = [name for name in NAMES if results.of(name)]
    calls = sorted({call for one in results.rounds for call in (*one.state_writes, *one.event_writes)})

    def count(name: str, call: str) -> str:
        each = (({**one.state_writes, **one.event_writes}).get(call, 0) / one.clusters for one in results.of(name))
        return f"{median(each):.2f}"

    return build_table(["", *present], [[call, *(count(name, call) for name in present)] for call in calls])


def _build_latencies(results: Results) -> str:
    header = ["", "wanted ev/s", "taken ev/s", "p50 ms", "p99 ms", "refused", "unanswered"]
    rows = []
    for name in NAMES:
        for rate in sorted({latency.wanted_rate for one in results.of(name) for latency in one.latencies}):
            found = [latency for one in results.of(name) for latency in one.latencies if latency.wanted_rate == rate]
            row = [name, f"{rate:g}"]
            row += [f"{median(latency.reached_rate for latency in found):.0f}"]
            row += [f"{median(latency.p50_ms for latency in found):.1f}"]
            row += [f"{median(latency.p99_ms for latency in found):.1f}"]
            row += [str(sum(latency.refused for latency in found))]
            row += [str(sum(latency.unanswered for latency in found))]
            rows.append(row)
    return build_table(header, rows)


def _build_quiet(measured: Sequence[Quiet]) -> str:
    header = ["", "clusters", "s", "state writes", "Events", "GETs", "LISTs", "watches", "controller CPU s"]
    rows = [
        [
            quiet.what,
            str(quiet.clusters),
            f"{quiet.seconds:.0f}",
            _join(quiet.state_writes),
            _join(quiet.event_writes),
            _join(quiet.gets),
            _join(quiet.lists),
            _join(quiet.watches),
            f"{quiet.controller_cpu_s:.2f}",
        ]
        for quiet in measured
    ]
    return build_table(header, rows) if rows else "Not measured."


def _join(calls: dict[str, int]) -> str:
    return ", ".join(f"{count} {call}" for call, count in calls.items()) or "0"


def build_gates(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a table."""
    words = {True: "held", False: "**missed**", None: "not judged"}
    return build_table(
        ["gate", "target", "found", ""], [[one.gate, one.target, one.found, words[one.passed]] for one in verdicts]
    )
