"""`python -m bench`: run the benchmarks, print the tables, publish them in docs/ (`run` alone does not publish).

Role: the composition root of the benchmarks. Exit status: 0 all gates held or could not be judged, 1 a gate was missed
or a contestant failed, 2 usage. Must not: loosen a gate.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import gates, report
from bench.contestants import CAPN, CAPN_HOST, NAMES, REPO
from bench.measure import Plan, measure_quiet, measure_round, open_stage
from bench.results import Quiet, Results, Round, load, save
from capn.dev.parent_flags import PROGRAMS
from capn.errors import CapnError
from capn.parts.catalogue import select_parts
from capn.parts.ensure import ensure_parts
from capn.parts.gobuild import GoBuildSource
from capn.settings import cache_dir

LEVELS_PICTURE = REPO / "docs" / "img" / "levels.svg"
DOCUMENT = REPO / "docs" / "performance.md"
PICTURE = REPO / "docs" / "img" / "bench.svg"
_LIMIT_S = 600.0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, report; the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in {"-h", "--help"}):
        words = ["run", "--publish", *words]  # what `make bench` asks for
    options = _parse(words)
    if options.command == "levels":
        return _run_levels(options)
    try:
        if options.command == "run":
            save(asyncio.run(_run(options)), options.results)
        results = load(options.results)
    except (CapnError, OSError, ValueError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    verdicts = gates.judge(results)
    text = report.build_report(results, verdicts)
    sys.stdout.write(text)
    if options.command == "publish" or options.publish:
        _publish(results, text)
    missed = gates.failed(verdicts)
    sys.stdout.write(f"\n{len(missed)} of {len(verdicts)} gates missed\n")
    return 1 if missed else 0


def _run_levels(options: argparse.Namespace) -> int:
    """Measure, judge and, if asked, publish B12; the exit status."""
    from bench import levels, levels_report  # noqa: PLC0415 - imports the tests' harness
    from capn.runtime.logs import configure_logs  # noqa: PLC0415

    configure_logs(log_format="console", level="error")
    chain = asyncio.run(levels.measure_chain(options.depth))
    _say(f" * a chain of {options.depth} levels")
    results = levels.LevelResults(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        chain=chain,
        tree=asyncio.run(levels.measure_tree(options.shape, _say)),
        machine=_describe_machine(),
    )
    verdicts = levels_report.judge(results)
    text = levels_report.build_report(results, verdicts)
    sys.stdout.write(f"{text}\n")
    if options.publish:
        first, last = levels_report.BEGIN, levels_report.END
        DOCUMENT.write_text(report.insert(DOCUMENT.read_text(), text, first=first, last=last))
        levels_report.draw(results, LEVELS_PICTURE)
    missed = gates.failed(verdicts)
    sys.stdout.write(f"\n{len(missed)} of {len(verdicts)} gates missed\n")
    return 1 if missed else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure and judge")
    show = commands.add_parser("show", help="judge the last results again")
    publish = commands.add_parser("publish", help="write the last results into docs/")
    levels = commands.add_parser("levels", help="B12: clusters in clusters, simulated")
    levels.add_argument("--depth", type=int, default=8, help="levels of the chain")
    levels.add_argument("--shape", type=int, nargs="+", default=[8, 4, 2, 14], help="clusters in each, level by level")
    levels.add_argument("--publish", action="store_true", help="write the results into docs/ as well")
    for command in (run, show, publish):
        default = cache_dir() / "bench" / "results.json"
        command.set_defaults(publish=False)
        command.add_argument("--results", type=Path, default=default, help="results file (default: in the cache)")
    run.add_argument("--clusters", type=int, default=100, help="clusters of B1 and B2")
    run.add_argument("--rounds", type=int, default=2, help="how often each contestant runs")
    run.add_argument("--rates", type=float, nargs="*", default=[100.0, 500.0], help="changes a second of B6")
    run.add_argument("--rate-seconds", type=float, default=8.0, help="how long each")
    run.add_argument("--rest-clusters", type=int, default=100, help="clusters of B3; 0 leaves it out")
    run.add_argument("--rest-seconds", type=float, default=30.0, help="how long they rest")
    run.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), help="contestants")
    run.add_argument("--publish", action="store_true", help="write the results into docs/ as well")
    run.add_argument("--quick", action="store_true", help="50 clusters, one round, short rests: for CI")
    run.add_argument("--full", action="store_true", help="500 clusters, three rounds, 1,000 at rest for 10 minutes")
    options = parser.parse_args(argv)
    if options.command == "run":
        _apply_preset(options)
    return options


def _apply_preset(options: argparse.Namespace) -> None:
    if options.quick:
        options.clusters, options.rounds, options.rate_seconds = 50, 1, 5.0
        options.rest_clusters, options.rest_seconds = 20, 10.0
    if options.full:
        options.clusters, options.rounds, options.rate_seconds = 500, 3, 20.0
        options.rest_clusters, options.rest_seconds = 1000, 600.0


async def _run(options: argparse.Namespace) -> Results:
    cache = cache_dir()
    parts = select_parts(PROGRAMS)
    binaries = await ensure_parts(parts, source=GoBuildSource(), cache=cache, report=_say)
    base = cache / "bench"
    base.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=base))
    try:
        rounds = await _run_rounds(options, binaries, directory)
        quiet = await _run_quiet(options, binaries, directory) if CAPN in options.only else []
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return Results(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=_describe_machine(),
        clusters=options.clusters,
        rounds=rounds,
        quiet=quiet,
    )


async def _run_rounds(options: argparse.Namespace, binaries: Mapping[str, Path], directory: Path) -> list[Round]:
    plan = Plan(options.clusters, tuple(options.rates), options.rate_seconds, 0.0, _LIMIT_S)
    rounds = []
    for number in range(1, options.rounds + 1):
        # Each second round backwards: a machine that grows slower over the run then favours nobody.
        for name in options.only if number % 2 else reversed(options.only):
            begun = time.monotonic()
            async with open_stage(name, binaries=binaries, directory=directory / f"{name}-{number}") as stage:
                one = await measure_round(stage, plan, number)
            rounds.append(one)
            _say(
                f" * round {number}, {name}: {one.ready}/{one.clusters} Ready, {one.rate:.2f} clusters/s"
                f" ({time.monotonic() - begun:.0f} s)"
            )
    return rounds


async def _run_quiet(options: argparse.Namespace, binaries: Mapping[str, Path], directory: Path) -> list[Quiet]:
    if not options.rest_clusters:
        return []
    plan = Plan(options.rest_clusters, (), 0.0, options.rest_seconds, _LIMIT_S)
    begun = time.monotonic()
    async with open_stage(CAPN_HOST, binaries=binaries, directory=directory / CAPN_HOST) as stage:
        measured = await measure_quiet(stage, plan)
    _say(f" * rest and restart of {options.rest_clusters} clusters ({time.monotonic() - begun:.0f} s)")
    return measured


def _publish(results: Results, text: str) -> None:
    from bench.plot import draw  # noqa: PLC0415 - needs matplotlib, which running does not

    DOCUMENT.write_text(report.insert(DOCUMENT.read_text(), text))
    draw(results, PICTURE)


def _describe_machine() -> str:
    load = os.getloadavg()[0]
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} CPUs, {system}, load average {load:.1f} at the end"


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
