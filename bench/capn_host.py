"""capn's controller in a process in which it can be restarted without its hypervisor.

Role: `capn run` for B3. The simulated machines of the memory provider live in the controller's process and would die
with it, as real ones do not; so on SIGHUP everything of the controller (client, caches, queues, children, manager) is
closed and built anew, and only the provider stays. Must not: differ from `capn.cli.run` in anything else.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from capn.controllers.setup import build_manager
from capn.image.catalogue import ImageCatalogue
from capn.kube.connect import connect_kubeconfig
from capn.providers.registry import ProviderRegistry
from capn.runtime.logs import configure_logs
from capn.settings import Settings, cache_dir, load_settings


async def run(kubeconfig: Path, settings: Settings) -> None:
    """Run until SIGTERM, one manager after the other."""
    terminate, restart = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        terminate.set()
        restart.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, restart.set)
    providers = ProviderRegistry(settings, ImageCatalogue(cache_dir() / "images" / "node"))
    try:
        while not terminate.is_set():
            restart.clear()
            client = await connect_kubeconfig(kubeconfig)
            try:
                await build_manager(client, settings, providers).run(restart)
            finally:
                await client.close()
    finally:
        await providers.close()


if __name__ == "__main__":
    chosen = load_settings(Path(sys.argv[2]))
    configure_logs(log_format=chosen.log_format, level=chosen.log_level)
    asyncio.run(run(Path(sys.argv[1]), chosen))
