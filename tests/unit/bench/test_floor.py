"""The floor lives on when the API server ends its watch, and makes no cluster twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from bench import floor
from bench.api import Api
from capn.api.resources import Resource


class EndingApi:
    """An API whose every watch shows the same clusters and then ends, as a real one's may at any time."""

    def __init__(self, watches: int) -> None:
        self.left = watches

    async def watch(self, resource: Resource) -> AsyncIterator[bytes]:
        assert resource.kind == "NestedCluster"
        if not self.left:
            raise asyncio.CancelledError
        self.left -= 1
        for name in ("a", "b"):
            await asyncio.sleep(0)
            yield json.dumps({"type": "ADDED", "object": {"metadata": {"name": name, "generation": 1}}}).encode()


async def test_a_watch_that_ends_is_opened_again_and_no_cluster_is_made_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    async def make(_: floor.Floor, live: dict[str, Any]) -> None:
        made.append(live["metadata"]["name"])

    monkeypatch.setattr(floor, "make_cluster", make)
    api = EndingApi(watches=3)
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.TaskGroup() as tasks:
            await floor.follow(floor.Floor(cast("Api", api), tasks, set(), {}, set()))
    assert api.left == 0
    assert made == ["a", "b"]
