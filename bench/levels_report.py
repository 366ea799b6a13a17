"""B12 as verdicts, table and picture.

Role: pure but for the picture's file. Gates are counts and ratios within one run. Must not: show what was not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.gates import Verdict
from bench.levels import LevelResults
from bench.report import build_gates, build_table

BEGIN = "<!-- B12: written by `python -m bench levels --publish`, not by hand -->"
END = "<!-- end of B12 -->"
# The first claim of a chain costs as much as the eighth; coalesced status writes make single ones differ by a few.
_MAX_SPREAD = 3
_MAX_GROWTH = 1.5


def judge(results: LevelResults) -> list[Verdict]:
    """What must hold whatever the machine."""
    chain, tree = results.chain, results.tree
    nested = [cost.writes[-1] for cost in chain if cost.level > 1]
    passed_on = [writes for cost in chain for writes in cost.writes[:-1]]
    wanted = sum(tree.by_level)
    verdicts = [
        _spread("B12 writes in a cluster's own level, levels 2 and deeper", nested),
        _spread("B12 writes of a claim in each ancestor, whatever the distance", passed_on),
        Verdict("B12 clusters Ready", f"== {wanted}", str(tree.ready), tree.ready == wanted),
        Verdict("B12 writes at rest, all levels", "== 0", str(tree.rest_writes), tree.rest_writes == 0),
    ]
    hops = [latency / hop for hop, latency in enumerate(tree.leaf_to_root_ms) if hop]
    if len(hops) > 1:
        growth = hops[-1] / hops[0]
        target = f"<= {_MAX_GROWTH:g}x that of the first"
        verdicts.append(
            Verdict("B12 time a hop, deepest leaf to root", target, f"{growth:.2f}x", growth <= _MAX_GROWTH)
        )
    return verdicts


def _spread(gate: str, values: Sequence[int]) -> Verdict:
    low, high = min(values, default=0), max(values, default=0)
    return Verdict(gate, f"equal within {_MAX_SPREAD}", f"{low} to {high}", high - low <= _MAX_SPREAD)


def build_report(results: LevelResults, verdicts: Sequence[Verdict]) -> str:
    """Tables of the chain and of the tree, and the gates."""
    chain, tree = results.chain, results.tree
    depth = len(chain)
    head = ["made at level", *(f"writes at {level}" for level in range(1, depth + 1))]
    rows = [[str(cost.level), *map(str, cost.writes), *[""] * (depth - len(cost.writes))] for cost in chain]
    levels = [
        [
            str(number),
            str(count),
            f"{tree.root_writes_by_level[number - 1]:.1f}",
            f"{tree.leaf_to_root_ms[number - 1]:.0f}",
        ]
        for number, count in enumerate(tree.by_level, start=1)
    ]
    total = sum(tree.by_level)
    memory = (tree.rss_mib - tree.rss_mib_before) * 1024 / total
    summary = (
        f"{total:,} clusters over {len(tree.by_level)} levels: {tree.ready:,} Ready after {tree.seconds:.0f} s,"
        f" {tree.rest_writes} writes in {tree.rest_seconds:.0f} s at rest, {memory:.0f} KiB of memory a cluster (its"
        " simulated API server and its controllers' caches included):"
    )
    return "\n\n".join(
        (
            f"Measured {results.date} on {results.machine}; all in one process.",
            f"One more cluster (one machine) in a chain {depth} levels deep, and what it costs at each level:",
            build_table(head, rows),
            summary,
            build_table(["level", "clusters", "writes at the root each", "ms from Ready to the root's sum"], levels),
            build_gates(verdicts),
        )
    )


def draw(results: LevelResults, path: Path) -> None:
    """Write the SVG: writes by level of a chain, and time to the root by level."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second, and only wanted here

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    chain, tree = results.chain, results.tree
    with mpl.rc_context({"svg.hashsalt": "capn", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.8), layout="constrained")
        levels = [cost.level for cost in chain]
        left.bar(levels, [cost.writes[-1] for cost in chain], color="#2f6fdf", label="its own level")
        passed = [(cost.level, sum(cost.writes[:-1]) / (cost.level - 1)) for cost in chain if cost.level > 1]
        left.plot([x for x, _ in passed], [y for _, y in passed], "o-", color="#d9822b", label="each ancestor")
        left.set_title("writes of one more cluster, by its level", fontsize=9)
        right.plot(range(1, len(tree.leaf_to_root_ms) + 1), tree.leaf_to_root_ms, "o-", color="#177245")
        right.set_xticks(range(1, len(tree.leaf_to_root_ms) + 1))
        right.set_title(f"ms from a leaf's Ready to the root, of {sum(tree.by_level):,} clusters", fontsize=9)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_ylim(bottom=0)
        left.legend(frameon=False, fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})
        plt.close(figure)
