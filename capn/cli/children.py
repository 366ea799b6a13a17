"""Commands that go into children: `capn kubeconfig`, `capn exec`, `capn explain`.

Role: fetch, then print or run. Must not: write to a cluster, or leave a kubeconfig behind that nobody asked for.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import yaml

from capn.bundle import find_shipped
from capn.cli.read import choose_kubeconfig, connected, format_table, write_data
from capn.dev.files import write_private
from capn.errors import InvalidSpecError, NotFoundError
from capn.kube.client import KubeClient
from capn.tree.explain import Link, Verdict, explain, parse_fixes
from capn.tree.hops import Reached, Step, look, parse_path, reach, read_step

T = TypeVar("T")


def show_kubeconfig(
    kubeconfig: Path | None, *, namespace: str, cluster: str, write: Path | None, output: str = "yaml"
) -> None:
    """Print the kubeconfig of the cluster at the end of the path as it is stored, or write it 0600."""
    steps = parse_path(cluster, namespace=namespace)
    data = asyncio.run(_with_client(kubeconfig, lambda client: _read_stored(client, steps)))
    if output == "json":
        data = (json.dumps(yaml.safe_load(data), indent=2) + "\n").encode()
    if write is None:
        sys.stdout.write(data.decode())
        return
    write_private(write, data)
    sys.stderr.write(f"wrote {write}\n")


async def _read_stored(client: KubeClient, steps: Sequence[Step]) -> bytes:
    """The last one need not answer: its kubeconfig is in the level above."""
    if len(steps) == 1:
        return (await read_step(client, steps[0], where="this cluster"))[1]
    return (await reach(client, steps)).kubeconfig


def run_in_child(kubeconfig: Path | None, *, namespace: str, cluster: str, command: Sequence[str]) -> int:
    """Run a command with KUBECONFIG set to the cluster at the end of the path; its exit status."""
    if not command:
        raise InvalidSpecError("COMMAND", "is missing: capn exec a/b -- kubectl get nodes")
    if shutil.which(command[0]) is None:
        raise NotFoundError(f"{command[0]} is not on PATH")
    steps = parse_path(cluster, namespace=namespace)
    reached: Reached = asyncio.run(_with_client(kubeconfig, lambda client: reach(client, steps)))
    with tempfile.TemporaryDirectory(prefix="capn-exec-") as directory:
        path = Path(directory) / "kubeconfig"
        write_private(path, reached.build_kubeconfig().encode())
        # kubectl's cache of what an API offers is keyed by address, and one gate leads to many APIs.
        env = {**os.environ, "KUBECONFIG": str(path), "KUBECACHEDIR": str(Path(directory) / "cache")}
        return subprocess.run(list(command), env=env, check=False).returncode


async def _with_client(kubeconfig: Path | None, work: Callable[[KubeClient], Awaitable[T]]) -> T:
    async with connected(choose_kubeconfig(kubeconfig)) as client:
        return await work(client)


def show_explanation(kubeconfig: Path | None, *, namespace: str, cluster: str, output: str) -> None:
    """Print the chain of a cluster up to its first failing link."""
    steps = parse_path(cluster, namespace=namespace)
    fixes = parse_fixes((find_shipped("docs") / "troubleshooting.md").read_text())
    seen = asyncio.run(_with_client(kubeconfig, lambda client: look(client, steps)))
    links = explain(seen, fixes)
    write_data({"cluster": cluster, "links": [asdict(link) for link in links]}, output, lambda: _draw(links))


def _draw(links: Sequence[Link]) -> Iterable[str]:
    yield from format_table(
        ("LINK", "VERDICT", "REASON", "OBJECT"),
        [(link.link, link.verdict, link.reason, link.subject) for link in links],
    )
    last = links[-1]
    if last.verdict is Verdict.OK:
        return
    yield ""
    yield f"{last.reason or 'unknown'}: {last.message}"
    yield from (f"  | {line}" for line in last.evidence)
    if last.fix:
        yield f"To do: {last.fix}"
