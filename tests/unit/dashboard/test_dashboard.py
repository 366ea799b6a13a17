from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from capn.dashboard.feed import TreeFeed
from capn.dashboard.server import Dashboard, build_policy, is_own_host
from capn.errors import TerminalError, UnreachableError

A = {"namespace": "default", "name": "a", "path": "default/a", "clusters": []}


class World:
    """What the API would say."""

    def __init__(self) -> None:
        self.clusters: list[dict[str, Any]] = [A]
        self.down = False
        self.reads = 0

    async def read(self) -> list[dict[str, Any]]:
        self.reads += 1
        if self.down:
            raise UnreachableError("no answer from the API server")
        return list(self.clusters)


@asynccontextmanager
async def serving(*, heartbeat_s: float = 15.0) -> AsyncIterator[tuple[World, TreeFeed, str, aiohttp.ClientSession]]:
    world = World()
    feed = TreeFeed(world.read, parent="root")
    await feed.look()
    async with (
        Dashboard(feed, bind="127.0.0.1", port=0, heartbeat_s=heartbeat_s) as server,
        aiohttp.ClientSession() as session,
    ):
        yield world, feed, server.url, session


async def next_event(stream: aiohttp.ClientResponse) -> tuple[int, Any]:
    number = -1
    async for raw in stream.content:
        line = raw.decode().rstrip("\n")
        if line.startswith("id: "):
            number = int(line[4:])
        if line.startswith("data: "):
            return number, json.loads(line[6:])
    raise AssertionError("the stream ended")


async def test_a_stream_has_the_state_at_once_and_each_change_and_nothing_else() -> None:
    async with serving() as (world, feed, url, session), session.get(url + "events") as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        first, data = await next_event(stream)
        assert data == {"parent": "root", "error": "", "clusters": [A]}
        for _nothing_new in range(3):
            await feed.look()
        world.clusters = [A, {**A, "name": "b"}]
        await feed.look()
        second, data = await next_event(stream)
        assert second == first + 1
        assert [cluster["name"] for cluster in data["clusters"]] == ["a", "b"]


async def test_a_silent_api_is_said_with_what_was_known() -> None:
    async with serving() as (world, feed, url, session):
        world.down = True
        await feed.look()
        async with session.get(url + "tree.json") as answer:
            assert await answer.json() == {
                "parent": "root",
                "error": "no answer from the API server",
                "clusters": [A],
            }
        world.down = False
        await feed.look()
        assert json.loads(feed.state.text)["error"] == ""


async def test_a_slow_onlooker_gets_the_newest_state_only() -> None:
    world = World()
    feed = TreeFeed(world.read, parent="root")
    await feed.look()
    seen = feed.state
    for number in range(5):
        world.clusters = [{**A, "name": f"c{number}"}]
        await feed.look()
    newest = await feed.next(seen.number, limit_s=5)
    assert newest is not None
    assert json.loads(newest.text)["clusters"][0]["name"] == "c4"
    assert await feed.next(newest.number, limit_s=0.01) is None


async def test_one_reader_however_many_look() -> None:
    async with serving() as (world, _feed, url, session):
        before = world.reads
        streams = [await session.get(url + "events") for _ in range(5)]
        for stream in streams:
            await next_event(stream)
            stream.close()
        assert world.reads == before


async def test_nothing_new_is_a_comment_now_and_then() -> None:
    async with serving(heartbeat_s=0.01) as (_world, _feed, url, session), session.get(url + "events") as stream:
        await next_event(stream)
        async with asyncio.timeout(10):
            async for line in stream.content:
                if line.startswith(b": "):
                    break


async def test_the_page_may_run_its_own_script_and_no_other() -> None:
    async with serving() as (_world, _feed, url, session), session.get(url) as answer:
        page, policy = await answer.text(), answer.headers["Content-Security-Policy"]
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "innerHTML" not in page
    assert policy == build_policy(page)
    assert build_policy(page.replace("use strict", "use Strict")) != policy
    assert "unsafe" not in policy
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8086", "127.0.0.1.evil.example", "", "localhost.evil"])
async def test_a_strangers_name_is_not_answered_for(host: str) -> None:
    assert not is_own_host(host)
    if host:
        async with serving() as (_world, _feed, url, session):
            for path in ("", "events", "tree.json"):
                async with session.get(url + path, headers={"Host": host}) as answer:
                    assert answer.status == 421


@pytest.mark.parametrize("host", ["localhost", "LocalHost:1", "127.0.0.1:8086", "[::1]:8086", "10.0.0.5"])
def test_addresses_are(host: str) -> None:
    assert is_own_host(host)


async def test_only_reading() -> None:
    async with serving() as (_world, _feed, url, session):
        for method in ("POST", "PUT", "DELETE"):
            async with session.request(method, url) as answer:
                assert answer.status == 405
        async with session.get(url + "../../etc/passwd") as answer:
            assert answer.status == 404


async def test_an_open_stream_does_not_keep_it_from_ending_and_a_taken_port_is_explained() -> None:
    async with aiohttp.ClientSession() as session:
        async with serving() as (_world, feed, url, _):
            stream = await session.get(url + "events")
            await next_event(stream)
            taken = Dashboard(feed, bind="127.0.0.1", port=int(url.rstrip("/").rpartition(":")[2]))
            with pytest.raises(TerminalError, match="choose another --port"):
                async with taken:
                    pass
            started = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started < 5
        stream.close()
