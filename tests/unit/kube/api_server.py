"""A scripted HTTP server that misbehaves as API servers, proxies and hostile children do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from capn.kube.http import HttpKubeClient
from capn.kube.transport import Limits, Transport

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Scripted:
    """Serves `handler` for every request and keeps the requests."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.codes: list[tuple[str, str]] = []

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        return await self.handler(request)

    @asynccontextmanager
    async def client(self, *, timeout_s: float = 10.0, limits: Limits | None = None) -> AsyncIterator[HttpKubeClient]:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self.serve)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        transport = Transport(
            base_url=f"http://{host}:{port}", session=aiohttp.ClientSession(), limits=limits or Limits()
        )
        client = HttpKubeClient(
            transport, timeout_s=timeout_s, on_request=lambda method, code: self.codes.append((method, code))
        )
        try:
            yield client
        finally:
            await client.close()
            await runner.cleanup()


def answers(*responses: Callable[[], web.Response]) -> Handler:
    """Each response once, the last one for ever."""
    left = list(responses)

    async def handle(_: web.Request) -> web.Response:
        make = left.pop(0) if len(left) > 1 else left[0]
        return make()

    return handle


def streams(*chunks: bytes, hang_s: float = 0.0) -> Handler:
    """A watch answer that comes in these pieces, then ends (or hangs)."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0.001)
        await asyncio.sleep(hang_s)
        return response

    return handle


def drops() -> Handler:
    """Closes the connection without an answer."""

    async def handle(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    return handle
