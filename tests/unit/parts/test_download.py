from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from capn.errors import NotFoundError, TerminalError, UnreachableError
from capn.parts.catalogue import select_parts
from capn.parts.download import DownloadSource, host_architecture
from capn.parts.ensure import ensure_parts
from tests.unit.parts.fakes import TOOL

BODY = b"#!/bin/sh\nexit 0\n" * 1000
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PATH = "/mirror/release/v1.2.3/bin/linux/amd64/tool"


async def good(_: web.Request) -> web.StreamResponse:
    return web.Response(body=BODY)


async def checksum(_: web.Request) -> web.StreamResponse:
    return web.Response(text=f"{hashlib.sha256(BODY).hexdigest()}  tool\n")


async def truncated(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(BODY))})
    await response.prepare(request)
    await response.write(BODY[:100])
    assert request.transport is not None
    request.transport.abort()
    return response


async def bad_gateway(_: web.Request) -> web.StreamResponse:
    return web.Response(status=502)


@asynccontextmanager
async def serving(body: Handler, sums: Handler) -> AsyncIterator[DownloadSource]:
    app = web.Application()
    app.router.add_get(PATH, body)
    app.router.add_get(f"{PATH}.sha256", sums)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield DownloadSource(
            f"http://{host}:{port}/mirror/", everything=True, architecture="amd64", attempts=2, retry_delay_s=0
        )
    finally:
        await runner.cleanup()


async def test_a_good_binary_is_executable_and_whole(tmp_path: Path) -> None:
    async with serving(good, checksum) as source:
        paths = await ensure_parts([TOOL], source=source, cache=tmp_path, report=lambda _: None)
    assert paths["tool"].read_bytes() == BODY
    assert os.access(paths["tool"], os.X_OK)


async def test_a_wrong_checksum_leaves_no_file(tmp_path: Path) -> None:
    async def other(_: web.Request) -> web.StreamResponse:
        return web.Response(text="0" * 64)

    async with serving(good, other) as source:
        with pytest.raises(TerminalError, match="0000 is published") as caught:
            await source.fetch(TOOL, tmp_path / "tool")
    assert caught.value.reason == "ChecksumMismatch"
    assert not (tmp_path / "tool").exists()


async def test_a_checksum_file_without_a_checksum_is_refused(tmp_path: Path) -> None:
    async def page(_: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>log in first</html>")

    async with serving(good, page) as source:
        with pytest.raises(TerminalError, match=r"tool\.sha256: does not hold a SHA-256"):
            await source.fetch(TOOL, tmp_path / "tool")
    assert not (tmp_path / "tool").exists()


async def test_not_found_names_the_address(tmp_path: Path) -> None:
    async with serving(good, checksum) as source:
        missing = dataclasses.replace(TOOL, version="v9.9.9")
        with pytest.raises(NotFoundError, match=r"/release/v9\.9\.9/bin/linux/amd64/tool\S*: not found \(404\)"):
            await source.fetch(missing, tmp_path / "tool")


async def test_a_truncated_body_is_never_taken(tmp_path: Path) -> None:
    async with serving(truncated, checksum) as source:
        with pytest.raises(UnreachableError):
            await ensure_parts([TOOL], source=source, cache=tmp_path, report=lambda _: None)
    assert list((tmp_path / "parts/tool").iterdir()) == []


async def test_a_server_that_recovers_is_tried_again(tmp_path: Path) -> None:
    calls: list[Handler] = [bad_gateway, good]

    async def recovering(request: web.Request) -> web.StreamResponse:
        return await calls.pop(0)(request)

    async with serving(recovering, checksum) as source:
        await source.fetch(TOOL, tmp_path / "tool")
    assert (tmp_path / "tool").read_bytes() == BODY
    assert calls == []


async def test_a_server_that_stays_broken_is_an_error(tmp_path: Path) -> None:
    async with serving(bad_gateway, checksum) as source:
        with pytest.raises(UnreachableError, match="the server answered 502"):
            await source.fetch(TOOL, tmp_path / "tool")


async def test_a_refusal_is_not_tried_again(tmp_path: Path) -> None:
    calls: list[str] = []

    async def forbidden(request: web.Request) -> web.StreamResponse:
        calls.append(request.path)
        return web.Response(status=403)

    async with serving(forbidden, checksum) as source:
        with pytest.raises(TerminalError, match="the server answered 403"):
            await source.fetch(TOOL, tmp_path / "tool")
    assert len(calls) == 1


async def test_no_server_at_all(tmp_path: Path) -> None:
    source = DownloadSource("http://127.0.0.1:9", everything=True, attempts=1)
    with pytest.raises(UnreachableError, match=r"^http://127\.0\.0\.1:9/release/v1\.2\.3/"):
        await source.fetch(TOOL, tmp_path / "tool")


def test_only_what_is_published_is_expected_of_a_server() -> None:
    kubeadm, runc = select_parts(["kubeadm", "runc"])
    source = DownloadSource("http://server.test", architecture="amd64")
    assert source.supports(kubeadm)
    assert not source.supports(runc)
    assert source.url(kubeadm) == f"http://server.test/release/{kubeadm.version}/bin/linux/amd64/kubeadm"
    assert source.digest(kubeadm) != DownloadSource("http://other.test").digest(kubeadm)


@pytest.mark.parametrize(("machine", "expected"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("riscv64", "riscv64")])
def test_architectures_have_go_names(monkeypatch: pytest.MonkeyPatch, machine: str, expected: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert host_architecture() == expected
