"""`capn dev` and `capn demo`: terminal in, terminal out.

Role: draws what `capn.dev` does. Must not: do the work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from capn.cli.progress import make_progress
from capn.cli.read import format_table, write_data
from capn.dev.clean import clean
from capn.dev.demo import DemoResult, run_demo
from capn.dev.demo_recursive import run_recursive
from capn.dev.environment import Environment
from capn.dev.progress import Progress, format_elapsed
from capn.dev.state import DevState
from capn.dev.supplies import find_programs
from capn.errors import NotFoundError

Accel = Literal["auto", "kvm", "emulate"]
Provider = Literal["libvirt", "kubevirt"]


def show_demo(name: str, accel: Accel, provider: Provider, *, recursive: bool = False) -> None:
    """Run the demo and end with the tree, the commands to go on with and the times."""
    state, progress, started = DevState.of(name), make_progress(), time.monotonic()
    what = "a cluster in a cluster in a cluster" if recursive else "a real child cluster from one `kubectl apply`"
    progress.line(f"capn demo: {what} (files in {state.directory})")
    if recursive:
        result = asyncio.run(run_recursive(state, progress, accel=accel))
    else:
        result = asyncio.run(run_demo(state, progress, accel=accel, provider=provider))
    progress.line("")
    for line in (*result.tree, "", *_times(progress, result, time.monotonic() - started), "", *_go_on(state, result)):
        progress.line(line)


def _times(progress: Progress, result: DemoResult, total_s: float) -> Iterable[str]:
    rows = [(timing.title, format_elapsed(timing.seconds)) for timing in progress.timings]
    rows += [(f"  {stage.subject}: {stage.stage}", format_elapsed(stage.seconds)) for stage in result.stages]
    return format_table(("STEP", "TIME"), [*rows, ("everything", format_elapsed(total_s))])


def _go_on(state: DevState, result: DemoResult) -> Iterable[str]:
    yield "Go on with:"
    yield f"  export PATH={state.commands}:$PATH KUBECONFIG={Environment(state).parent().kubeconfig}"
    yield "  capn tree"
    for path in result.paths:
        name = path.rpartition("/")[2]
        yield f"  capn kubeconfig {path} --write {name}.kubeconfig"
        yield f"  kubectl --kubeconfig {name}.kubeconfig get nodes,pods -A"
    extra = "" if state.name == "demo" else f" NAME={state.name}"
    yield f"  make demo-clean{extra}      # takes all of it down"


def clean_demo(name: str) -> None:
    """Take the demo down."""
    asyncio.run(clean(DevState.of(name), make_progress()))


def bring_up(name: str, accel: Accel, *, node: bool, kubevirt: bool, nesting: bool) -> None:
    """Start the environment and say how to use it."""
    state, progress = DevState.of(name), make_progress()
    environment = Environment(state)
    asyncio.run(environment.up(progress, accel=accel, node=node, kubevirt=kubevirt, nesting=nesting))
    progress.line(f"\nexport PATH={state.commands}:$PATH KUBECONFIG={environment.parent().kubeconfig}")


def load_images(name: str, archive: Path) -> None:
    """Import an OCI archive into the parent's node. NotFoundError when the node does not run."""
    progress = make_progress()
    node = Environment(DevState.of(name)).node(find_programs(["ctr"]))
    with progress.step(f"Importing {archive.name} into {node.name}") as report:
        asyncio.run(node.import_images(archive, report))


def bring_down(name: str) -> None:
    """Stop the environment."""
    asyncio.run(Environment(DevState.of(name)).down(make_progress()))


def show_status(name: str, output: str) -> None:
    """Print what runs. NotFoundError when there is nothing of that name."""
    state = DevState.of(name)
    if not state.directory.exists():
        raise NotFoundError(f"no environment {name!r}; start one with `capn dev up --name {name}`")
    data = asdict(Environment(state).status())
    write_data(data, output, lambda: [f"{key:<12} {value}" for key, value in data.items()])
