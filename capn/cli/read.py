"""Commands that only read: `capn tree`, and the forms of output.

Role: fetch and print. Must not: write to a cluster.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from capn.errors import NotFoundError
from capn.kube.client import KubeClient


def write_data(data: Any, output: str, lines: Callable[[], Iterable[str]]) -> None:  # noqa: ANN401 - JSON-shaped
    """Print `data` as JSON or YAML, or `lines` for people."""
    if output == "json":
        sys.stdout.write(json.dumps(data, indent=2) + "\n")
    elif output == "yaml":
        plain = json.loads(json.dumps(data))  # YAML's safe dumper knows no enumerations and no tuples
        sys.stdout.write(yaml.safe_dump(plain, sort_keys=False))
    else:
        sys.stdout.writelines(f"{line}\n" for line in lines())


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns, two blanks apart."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]


def choose_kubeconfig(given: Path | None) -> Path:
    """The given kubeconfig (KUBECONFIG may list several: the first that exists), else ~/.kube/config.

    NotFoundError when there is none. kubectl would merge them; here one file says all.
    """
    candidates = [Path(part) for part in str(given).split(os.pathsep) if part] if given else []
    candidates = candidates or [Path.home() / ".kube" / "config"]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise NotFoundError(f"no kubeconfig at {', '.join(map(str, candidates))}; name one by --kubeconfig or KUBECONFIG")


@asynccontextmanager
async def connected(kubeconfig: Path) -> AsyncIterator[KubeClient]:
    """A client for the length of a `with` block."""
    from capn.kube.connect import connect_kubeconfig  # noqa: PLC0415 - slow to import

    client = await connect_kubeconfig(kubeconfig)
    try:
        yield client
    finally:
        await client.close()


def show_tree(kubeconfig: Path | None, namespace: str | None, output: str) -> None:
    """Print the tree. NotFoundError when the CRDs are not installed."""
    from capn.tree.draw import draw_tree  # noqa: PLC0415
    from capn.tree.model import read_tree  # noqa: PLC0415

    path = choose_kubeconfig(kubeconfig)

    async def read() -> list[Any]:
        async with connected(path) as client:
            return await read_tree(client, namespace=namespace)

    clusters = asyncio.run(read())
    data = {"parent": str(path), "clusters": [asdict(cluster) for cluster in clusters]}
    write_data(data, output, lambda: draw_tree(clusters, parent=str(path), now=datetime.now(UTC)))
