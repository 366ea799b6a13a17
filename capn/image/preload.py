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
from dataclasses import dataclass
from pathlib import Path

from capn.errors import TerminalError
from capn.image.debian import REASON
from capn.parts.process import run, stop_group

NAMESPACE = "k8s.io"
SNAPSHOTTER = "overlayfs"
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


@dataclass(frozen=True)
class Importer:
    """The programs that import, and a directory for their socket, state and log."""

    containerd: Path
    ctr: Path
    work: Path


async def preload_images(archive: Path, names: Sequence[str], *, root: Path, importer: Importer) -> None:
    """Import the archive into `<root>/var/lib/containerd`. Raises TerminalError if an image is not unpacked there."""
    socket = importer.work / "containerd.sock"
    async with _running(importer, socket, store=root / "var/lib/containerd"):
        client = [str(importer.ctr), "--address", str(socket), "--namespace", NAMESPACE]
        # The layers' own archives are not kept once they are unpacked: they would double the image's size.
        options = ["--local", "--discard-unpacked-layers", "--snapshotter", SNAPSHOTTER]
        imported = await run([*client, "images", "import", *options, str(archive)])
        imported.require_success("importing container images", reason=REASON)
        for name in names:
            pinned = await run([*client, "images", "label", name, _PIN_LABEL])
            pinned.require_success(f"pinning the image {name}", reason=REASON)
        pruned = await run([*client, "content", "prune", "references"])
        pruned.require_success("dropping the archives of unpacked layers", reason=REASON)
        await _check_unpacked(client, names)


async def _check_unpacked(client: list[str], names: Sequence[str]) -> None:
    """Compare the names with the table that `ctr images check` prints: first column the name, last one UNPACKED."""
    checked = await run([*client, "images", "check", "--snapshotter", SNAPSHOTTER], tail_lines=16 + 4 * len(names))
    checked.require_success("checking the container images", reason=REASON)
    rows = [line.split() for line in checked.tail if line.strip()]
    unpacked = {row[0] for row in rows if row[-1] == "true"}
    if missing := [name for name in names if name not in unpacked]:
        raise TerminalError(f"container images that are not unpacked: {', '.join(missing)}", reason=REASON)


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
async def _running(importer: Importer, socket: Path, *, store: Path) -> AsyncIterator[None]:
    """A containerd that serves on `socket`; stopped at the end, its log in `<work>/containerd.log`."""
    config, log_path = importer.work / "containerd.toml", importer.work / "containerd.log"
    config.write_text(build_config(store=store, state=importer.work / "state", socket=socket))
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(importer.containerd),
            f"--config={config}",
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
    for _ in range(int(_START_TIMEOUT_S / _POLL_S)):
        if _is_socket(socket):
            return
        if process.returncode is not None:
            raise TerminalError(f"containerd ended by itself:\n  {_read_tail(log_path)}", reason=REASON)
        await asyncio.sleep(_POLL_S)
    message = f"containerd did not serve within {_START_TIMEOUT_S:.0f} s:\n  {_read_tail(log_path)}"
    raise TerminalError(message, reason=REASON)


def _is_socket(path: Path) -> bool:
    return path.is_socket()


def _read_tail(log_path: Path) -> str:
    return "\n  ".join(log_path.read_text(errors="replace").splitlines()[-10:])
