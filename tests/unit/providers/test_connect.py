"""The connection to another cluster: credentials that were rotated are read again."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from capn.api.resources import SECRET, SERVICE
from capn.errors import ApiStatusError, TransientError
from capn.kube.http import HttpKubeClient, Observer
from capn.kube.memory import MemoryKubeClient
from capn.providers.connect import Connection, connect_by_secret
from capn.settings import SecretKey

KEY = SecretKey(namespace="capn-system", name="vms")


class Cluster:
    """An API server that accepts one token, and the Secret that should have it."""

    def __init__(self) -> None:
        self.token = "first"
        self.own = MemoryKubeClient()
        self.reads = 0
        self.now = 100.0
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"kind": "Status", "code": 401, "reason": "Unauthorized"}, status=401)
        return web.json_response({"metadata": {"name": "a"}})

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection[HttpKubeClient]]:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*runner.addresses[0][:2])

        async def connect(told: Observer) -> HttpKubeClient:
            self.reads += 1
            return await connect_by_secret(self.own, KEY, on_request=told)

        connection = Connection(connect, clock=lambda: self.now)
        try:
            yield connection
        finally:
            await connection.close()
            await runner.cleanup()

    async def write(self, token: str) -> None:
        """Put a kubeconfig with that token into the Secret."""
        config = {
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        data = {"value": base64.b64encode(json.dumps(config).encode()).decode()}
        await self.own.apply(SECRET, {"metadata": {"name": "vms", "namespace": "capn-system"}, "data": data})


async def test_credentials_that_were_rotated_are_read_again() -> None:
    cluster = Cluster()
    async with cluster.connection() as connection:
        await cluster.write("first")
        assert await (await connection.get()).get(SERVICE, "a", "team")
        cluster.token = "second"
        await cluster.write("second")
        cluster.now += 3600
        with pytest.raises(ApiStatusError) as refused:
            await (await connection.get()).get(SERVICE, "a", "team")
        assert refused.value.code == 401
        assert await (await connection.get()).get(SERVICE, "a", "team")
        assert await connection.get() is await connection.get()
        assert cluster.reads == 2


async def test_credentials_that_nobody_renews_are_not_read_by_every_call() -> None:
    cluster = Cluster()
    async with cluster.connection() as connection:
        await cluster.write("ended")
        for _call in range(20):
            cluster.now += 1
            with pytest.raises(ApiStatusError):
                await (await connection.get()).get(SERVICE, "a", "team")
        assert cluster.reads == 2
        await cluster.write("first")
        cluster.now += 10
        assert await (await connection.get()).get(SERVICE, "a", "team")


async def test_a_secret_that_is_missing_for_a_while_is_asked_for_again() -> None:
    cluster = Cluster()
    async with cluster.connection() as connection:
        with pytest.raises(TransientError, match="capn-system/vms"):
            await connection.get()
        await cluster.write("first")
        assert await (await connection.get()).get(SERVICE, "a", "team")


async def test_a_client_of_somebody_else_is_kept() -> None:
    given = MemoryKubeClient()
    tell: list[Observer] = []

    async def connect(told: Observer) -> MemoryKubeClient:
        tell.append(told)
        return given

    connection = Connection(connect, owned=False)
    assert await connection.get() is given
    tell[0]("GET", "401")
    assert await connection.get() is given
    assert len(tell) == 1
