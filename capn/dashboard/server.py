"""Serves the page, its data once (`/tree.json`) and as server-sent events (`/events`).

Role: HTTP for the feed. Reads only; whoever reaches the port sees names, addresses and messages of clusters, so it
listens on loopback unless told otherwise, and answers only for names that no stranger's web site can have (DNS
rebinding). Must not: show a Secret, load anything from elsewhere, or let the page run what an object's author wrote.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

from aiohttp import web

from capn.dashboard.feed import TreeFeed
from capn.errors import TerminalError

HEARTBEAT_S = 15.0
_RETRY_MS = 1000
_PAGE = Path(__file__).with_name("page.html")
_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


class Dashboard:
    """An HTTP server while it is entered as a context. `port` 0 takes a free one."""

    def __init__(self, feed: TreeFeed, *, bind: str, port: int, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._feed = feed
        self._bind, self.port = bind, port
        self._heartbeat_s = heartbeat_s
        self._page = _PAGE.read_text()
        self._policy = build_policy(self._page)
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", self._show)
        app.router.add_get("/events", self._stream)
        app.router.add_get("/tree.json", self._tree)
        app.router.add_get("/healthz", self._healthy)
        # Streams end with the server, at once: a browser that looks must not keep the command from ending.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    @property
    def url(self) -> str:
        """Where the page is."""
        host = f"[{self._bind}]" if ":" in self._bind else self._bind
        return f"http://{host}:{self.port}/"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._bind, self.port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise TerminalError(
                f"cannot listen on {self._bind}:{self.port}: {error.strerror}; choose another --port or --bind",
                reason="AddressInUse",
            ) from error
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not is_own_host(request.host):
            raise web.HTTPMisdirectedRequest(text="this host name is not answered for; use the address or localhost\n")
        return await handler(request)

    def _headers(self, content_type: str) -> dict[str, str]:
        return {
            "Content-Type": content_type,
            "Content-Security-Policy": self._policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }

    async def _show(self, _: web.Request) -> web.Response:
        return web.Response(text=self._page, headers=self._headers("text/html; charset=utf-8"))

    async def _tree(self, _: web.Request) -> web.Response:
        return web.Response(text=self._feed.state.text, headers=self._headers("application/json"))

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """The newest state now and at each change; a comment when nothing changes, so that a dead peer is noticed."""
        response = web.StreamResponse(headers=self._headers("text/event-stream"))
        await response.prepare(request)
        await response.write(f"retry: {_RETRY_MS}\n\n".encode())
        shown = -1
        while True:
            state = await self._feed.next(shown, limit_s=self._heartbeat_s)
            if state is None:
                await response.write(b": still here\n\n")
                continue
            shown = state.number
            await response.write(f"id: {shown}\ndata: {state.text}\n\n".encode())


def is_own_host(host: str) -> bool:
    """Whether a Host header is an address or localhost, which no other web site's name can be."""
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def build_policy(page: str) -> str:
    """A Content-Security-Policy that lets the page's own style and script run and nothing else."""
    hashes = {
        kind: "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for kind, text in _INLINE.findall(page)
    }
    return (
        f"default-src 'none'; style-src {hashes['style']}; script-src {hashes['script']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
