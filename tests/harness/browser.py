"""A real headless browser, driven by the W3C WebDriver protocol (https://www.w3.org/TR/webdriver2/)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

_START_LIMIT_S = 60.0


class Browser:
    """One page."""

    def __init__(self, http: aiohttp.ClientSession, base: str) -> None:
        self._http, self._base = http, base

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One WebDriver command; its value."""
        payload = None if method == "GET" else (body or {})
        async with self._http.request(method, self._base + path, json=payload) as answer:
            data = await answer.json()
        assert answer.status == 200, data
        return data["value"]

    async def open(self, url: str) -> None:
        await self.call("POST", "/url", {"url": url})

    async def run(self, script: str) -> Any:
        """The value of a script's `return`."""
        return await self.call("POST", "/execute/sync", {"script": script, "args": []})

    async def text(self) -> str:
        found: str = await self.run("return document.body.innerText")
        return found

    async def until(self, script: str, *, limit_s: float = 30.0) -> Any:
        """Wait until the script returns something true."""
        try:
            async with asyncio.timeout(limit_s):
                while not (value := await self.run(script)):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"never true: {script}\n{await self.text()}") from None
        return value

    async def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(await self.call("GET", "/screenshot")))


@contextlib.asynccontextmanager
async def browsing(*, width: int = 1000, height: int = 900, arguments: tuple[str, ...] = ()) -> AsyncIterator[Browser]:
    """A browser with a profile of its own; driver and browser end with the `with` block."""
    driver = shutil.which("chromedriver")
    assert driver, "chromedriver is missing: apt-get install chromium chromium-driver"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="capn-browser-", ignore_cleanup_errors=True) as home:
        env = {"HOME": home, "PATH": "/usr/bin:/bin", "TMPDIR": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home}
        process = subprocess.Popen(  # noqa: ASYNC220 - it only starts
            [driver, f"--port={port}"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as http:
                base = f"http://127.0.0.1:{port}"
                await _wait(http, base)
                options = {
                    "args": [
                        *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"),
                        *(f"--user-data-dir={home}/profile", f"--window-size={width},{height}", *arguments),
                    ]
                }
                wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
                session = (await Browser(http, base).call("POST", "/session", wanted))["sessionId"]
                browser = Browser(http, f"{base}/session/{session}")
                try:
                    yield browser
                finally:
                    await browser.call("DELETE", "")
        finally:
            process.terminate()
            process.wait(timeout=20)


async def _wait(http: aiohttp.ClientSession, base: str) -> None:
    async with asyncio.timeout(_START_LIMIT_S):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(f"{base}/status") as answer:
                    if (await answer.json())["value"]["ready"]:
                        return
            await asyncio.sleep(0.05)
