"""/healthz, /readyz and /metrics over HTTP.

Role: answers probes and scrapes. Checks are functions that give None, or a line about what is wrong. Must not: run the
checks' subjects, or listen on more than the given address.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from capn.errors import TerminalError

Check = Callable[[], str | None]

_log = structlog.get_logger(__name__)


class HealthServer:
    """Serves probes while it is entered as a context. `port` 0 takes a free one; `address` says which."""

    def __init__(
        self,
        *,
        bind: str,
        port: int,
        registry: CollectorRegistry,
        healthy: Mapping[str, Check] | None = None,
        ready: Mapping[str, Check] | None = None,
    ) -> None:
        self._bind, self._port = bind, port
        self._registry = registry
        self.healthy: dict[str, Check] = dict(healthy or {})
        self.ready: dict[str, Check] = dict(ready or {})
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on."""
        addresses = self._runner.addresses if self._runner else []
        return (addresses[0][0], addresses[0][1]) if addresses else (self._bind, self._port)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._bind, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise TerminalError(
                f"cannot listen on {self._bind}:{self._port}: {error.strerror}; set `bind` or `port` in the settings",
                reason="AddressInUse",
            ) from error
        _log.info("serving probes and metrics", address="{}:{}".format(*self.address))
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return _answer(self.healthy)

    async def _readyz(self, _: web.Request) -> web.Response:
        return _answer(self.ready)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _answer(checks: Mapping[str, Check]) -> web.Response:
    found = {name: check() for name, check in checks.items()}
    lines = [f"[+] {name} ok" if problem is None else f"[-] {name}: {problem}" for name, problem in found.items()]
    bad = any(problem is not None for problem in found.values())
    return web.Response(status=503 if bad else 200, text="\n".join([*lines, "failed" if bad else "ok"]) + "\n")
