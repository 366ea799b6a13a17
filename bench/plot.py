"""The picture of a run: clusters a second, and latency quantiles by rate.

Role: results -> one small SVG, the same bytes for the same results. Must not: show what the tables do not.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from bench.contestants import NAMES
from bench.results import Results

COLORS = {"floor": "#9aa5b1", "kopf": "#d9822b", "capn": "#2f6fdf"}


def draw(results: Results, path: Path) -> None:
    """Write the SVG."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second, and only wanted here

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    with mpl.rc_context({"svg.hashsalt": "capn", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.8), layout="constrained")
        _draw_rates(left, results)
        _draw_latencies(right, results)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})
        plt.close(figure)


def _draw_rates(axes: Any, results: Results) -> None:  # noqa: ANN401 - matplotlib's types are not worth it here
    names = [name for name in NAMES if results.of(name)]
    values = [median(one.rate for one in results.of(name)) for name in names]
    axes.bar(names, values, color=[COLORS[name] for name in names], width=0.6)
    for position, name in enumerate(names):
        rates = [one.rate for one in results.of(name)]
        axes.scatter([position] * len(rates), rates, color="black", s=8, zorder=3)
        axes.annotate(f"{values[position]:.1f}", (position, values[position]), ha="center", va="bottom")
    axes.set_title("B1: clusters a second (dots: rounds)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_latencies(axes: Any, results: Results) -> None:  # noqa: ANN401
    rates = sorted({latency.wanted_rate for one in results.rounds for latency in one.latencies})
    names = [name for name in NAMES if any(one.latencies for one in results.of(name))]
    for index, name in enumerate(names):
        for position, rate in enumerate(rates):
            found = [latency for one in results.of(name) for latency in one.latencies if latency.wanted_rate == rate]
            if not found:
                continue
            x = position + (index - (len(names) - 1) / 2) * 0.2
            low, high = median(one.p50_ms for one in found), median(one.p99_ms for one in found)
            axes.plot([x, x], [low, high], color=COLORS[name], linewidth=4, label=name if position == 0 else None)
    axes.set_yscale("log")
    axes.set_xticks(range(len(rates)), [f"{rate:g} ev/s" for rate in rates])
    axes.set_title("B6: spec to status, p50 to p99, ms", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    if names:
        axes.legend(frameon=False, fontsize=8)
