"""Imports container images into a node's root file system, unpacked, so that the first boot has nothing left to do.

Role: runs the containerd of the parts on the build machine with its `root` inside the node's, imports one archive, pins
every image (the kubelet's garbage collection must not remove what cannot be pulled again) and stops containerd.
Needs root, for mounts. Must not: leave containerd or a mount behind, or touch a containerd of the build machine.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from capn.errors import TerminalError
from capn.image.debian import REASON
from capn.parts.process import run, stop_group

NAMESPACE = "k8s.io"
_PIN_LABEL = "io.cri-containerd.pinned=pinned"
_START_TIMEOUT_S = 60.0
_POLL_S = 0.2
# The plugins that serve pods are of no use here, and need things that a build machine may lack.
_DISABLED_PLUGINS = (
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.grpc.v1.cri",
    "io.containerd.internal.v1.opt",
    "io.containerd.nri.v1.nri",
    "io.containerd.podsandbox.controller.v1.podsandbox",
    "io.containerd.tracing.processor.v1.otlp",
)


async def preload_images(
    archive: Path, names: Sequence[str], *, root: Path, containerd: Path, ctr: Path, work: Path
) -> None:
    """Import the archive into `<root>/var/lib/containerd`. Raises TerminalError if an image is not there afterwards."""
    socket = work / "containerd.sock"
    async with _running(containerd, socket, store=root / "var/lib/containerd", work=work):
        client = [str(ctr), "--address", str(socket), "--namespace", NAMESPACE]
        imported = await run([*client, "images", "import", "--local", "--snapshotter", "overlayfs", str(archive)])
        imported.require_success("importing container images", reason=REASON)
        for name in names:
            pinned = await run([*client, "images", "label", name, _PIN_LABEL])
            pinned.require_success(f"pinning the image {name}", reason=REASON)
        await _check_unpacked(client, len(names))


async def _check_unpacked(client: list[str], images: int) -> None:
    checked = await run([*client, "images", "check", "--quiet"], tail_lines=4 * images)
    checked.require_success("checking the container images", reason=REASON)
    complete = [line for line in checked.tail if line.strip()]
    if len(complete) < images:
        raise TerminalError(f"only {complete} of {images} container images are complete", reason=REASON)


def build_config(*, store: Path, state: Path, socket: Path) -> str:
    """The configuration of the build machine's containerd."""
    return "\n".join(
        [
            "version = 3",
            f"root = {json.dumps(str(store))}",
            f"state = {json.dumps(str(state))}",
            f"disabled_plugins = {json.dumps(list(_DISABLED_PLUGINS))}",
            "[grpc]",
            f"address = {json.dumps(str(socket))}",
            "[ttrpc]",
            f"address = {json.dumps(f'{socket}.ttrpc')}",
            "",
        ]
    )


@asynccontextmanager
async def _running(containerd: Path, socket: Path, *, store: Path, work: Path) -> AsyncIterator[None]:
    """A containerd that serves on `socket`; stopped at the end, its log in `work/containerd.log`."""
    config, log_path = work / "containerd.toml", work / "containerd.log"
    config.write_text(build_config(store=store, state=work / "state", socket=socket))
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(containerd),
            "--config",
            str(config),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            await _wait_for(socket, process, log_path)
            yield
        finally:
            await asyncio.shield(stop_group(process))


async def _wait_for(socket: Path, process: asyncio.subprocess.Process, log_path: Path) -> None:
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not socket.is_socket():
                if process.returncode is not None:
                    tail = "\n  ".join(log_path.read_text(errors="replace").splitlines()[-10:])
                    raise TerminalError(f"containerd ended with status {process.returncode}:\n  {tail}", reason=REASON)
                await asyncio.sleep(_POLL_S)
    except TimeoutError as error:
        raise TerminalError(f"containerd did not serve within {_START_TIMEOUT_S:.0f} s", reason=REASON) from error
