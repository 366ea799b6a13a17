"""The page in a real headless browser."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from capn.build.claim_report import ClaimReport
from capn.dashboard.feed import TreeFeed
from capn.dashboard.server import Dashboard
from capn.tree.model import arrange
from tests.harness.browser import Browser, browsing
from tests.unit.tree.test_depth import LOST, READY, claim, claimed_machine
from tests.unit.tree.test_tree import cluster, machine

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
HOSTILE = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
CARDS = "return [...document.querySelectorAll('.cluster > .card .name')].map((name) => name.textContent)"


class World:
    """Objects as an API has them, and the page's data of them."""

    def __init__(self) -> None:
        self.clusters: list[dict[str, Any]] = [cluster("a")]
        self.machines: list[dict[str, Any]] = [machine("a-cp-0", owner="a")]

    async def read(self) -> list[dict[str, Any]]:
        return [asdict(node) for node in arrange(self.clusters, self.machines)]


def feed_of(world: World) -> TreeFeed:
    return TreeFeed(world.read, parent="root", interval_s=0.05)


async def test_the_tree_grows_without_a_reload_and_what_people_write_is_text(tmp_path: Path) -> None:
    world = World()
    feed = feed_of(world)
    reading = asyncio.create_task(feed.run())
    async with Dashboard(feed, bind="127.0.0.1", port=0) as server, browsing() as browser:
        await browser.open(server.url)
        await browser.until("return document.getElementById('live').textContent === 'live'")
        await browser.until(f"{CARDS}.join() === 'default/a'")
        await browser.run("window.marked = true")

        # A child of a child, then one below that.
        world.clusters.append(claim("default/a/t/b", READY))
        world.machines.append(claimed_machine("b-cp-0", "b-ff00"))
        await browser.until(f"{CARDS}.join() === 'default/a,t/b'")
        depth = "let n = 0; for (let e = [...document.querySelectorAll('.cluster')].at(-1); e; e = e.parentElement)"
        assert await browser.run(f"{depth} n += e.matches('.cluster'); return n") == 2
        failed = ClaimReport(phase="Failed", machines=1, reason="Hostile", message=HOSTILE, since=LOST)
        world.clusters.append(claim("default/a/t/b/t/c", failed))
        await browser.until(f"{CARDS}.length === 3")
        assert await browser.run("return document.querySelector('.note').textContent") == HOSTILE
        assert await browser.run("return document.images.length + document.title") == "0capn"
        assert await browser.run("return document.getElementById('sums').innerText.replace(/\\s+/g, ' ')") == (
            "3 clusters 2 ready 2 machines 3 levels"
        )

        # The middle goes silent: what is below it stays, and says since when.
        silent = cluster("a", ready=False)
        silent["status"]["conditions"][0]["lastTransitionTime"] = LOST
        world.clusters[0] = silent
        await browser.until("return document.querySelectorAll('.card.lost').length === 2")
        assert "last seen" in await browser.text()
        assert await browser.run("return window.marked") is True
        await keep_picture(browser, tmp_path)
    reading.cancel()


async def keep_picture(browser: Browser, tmp_path: Path) -> None:
    """The page as a picture, for who wants to look (CAPN_PICTURES names a directory); it must not be blank."""
    path = Path(os.environ.get("CAPN_PICTURES", str(tmp_path))) / "dashboard.png"
    await browser.screenshot(path)
    assert path.stat().st_size > 10_000


async def test_the_page_comes_back_by_itself_when_the_server_does() -> None:
    world = World()
    feed = feed_of(world)
    await feed.look()
    async with browsing() as browser:
        async with Dashboard(feed, bind="127.0.0.1", port=0) as server:
            port = server.port
            await browser.open(server.url)
            await browser.until(f"{CARDS}.join() === 'default/a'")
        await browser.until("return document.getElementById('live').textContent === 'reconnecting'")
        # What was known stays on the page.
        assert await browser.run(CARDS) == ["default/a"]
        world.clusters.append(cluster("z"))
        again = feed_of(world)
        await again.look()
        async with Dashboard(again, bind="127.0.0.1", port=port):
            await browser.until(f"{CARDS}.join() === 'default/a,default/z'")
            assert await browser.run("return document.getElementById('live').textContent") == "live"
