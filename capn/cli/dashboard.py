"""`capn dashboard`: the tree as a live page, until Ctrl-C.

Role: client, feed and server together. Must not: write to a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from capn.cli.read import choose_kubeconfig, connected
from capn.dashboard.feed import TreeFeed
from capn.dashboard.server import Dashboard
from capn.tree.model import read_tree_data


def serve_dashboard(kubeconfig: Path | None, *, bind: str, port: int, interval_s: float) -> None:
    """Serve until SIGINT or SIGTERM. TerminalError when the port is taken."""
    asyncio.run(_serve(choose_kubeconfig(kubeconfig), bind, port, interval_s))


async def _serve(kubeconfig: Path, bind: str, port: int, interval_s: float) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with connected(kubeconfig) as client:
        feed = TreeFeed(lambda: read_tree_data(client), parent=str(kubeconfig), interval_s=interval_s)
        async with Dashboard(feed, bind=bind, port=port) as server:
            sys.stdout.write(f"the tree is at {server.url} (Ctrl-C ends it)\n")
            sys.stdout.flush()
            reading = asyncio.create_task(feed.run())
            waiting = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait([reading, waiting], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (reading, waiting):
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reading
