"""`capn run`: the controller's composition root.

Role: Settings -> client, providers, manager -> run until stopped. Must not: hold behaviour of its own.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from capn.cli.read import choose_kubeconfig
from capn.controllers.setup import build_manager
from capn.image.catalogue import ImageCatalogue
from capn.kube.connect import connect_in_cluster, connect_kubeconfig
from capn.providers.registry import ProviderRegistry
from capn.runtime.logs import configure_logs
from capn.settings import Settings, cache_dir, load_settings


def run_controller(kubeconfig: Path | None, settings_file: Path | None) -> None:
    """Run until SIGTERM or SIGINT; raises what ended it otherwise."""
    settings = load_settings(settings_file)
    configure_logs(log_format=settings.log_format, level=settings.log_level)
    asyncio.run(_run(kubeconfig, settings))


async def _run(kubeconfig: Path | None, settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    client = await (connect_kubeconfig(choose_kubeconfig(kubeconfig)) if kubeconfig else connect_in_cluster())
    try:
        images = ImageCatalogue(settings.image_dir or cache_dir() / "images" / "node")
        providers = ProviderRegistry(settings, images, client)
        try:
            await build_manager(client, settings, providers).run(stop)
        finally:
            await providers.close()
    finally:
        await client.close()
