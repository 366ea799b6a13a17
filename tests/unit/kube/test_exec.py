"""Commands in containers over a WebSocket, against servers that say what a hostile child could."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from capn.errors import ApiStatusError, CapnError, NotFoundError, UnreachableError
from capn.kube.client import ExecResult
from capn.kube.errors import CommandFailedError, OverloadedError
from capn.kube.exec import V4, V5
from capn.kube.http import HttpKubeClient
from tests.unit.kube.api_server import Scripted, answers

SUCCESS = b'\x03{"status": "Success"}'
Talk = Callable[[web.WebSocketResponse], Awaitable[None]]


def failed(code: str) -> bytes:
    causes = [{"reason": "ExitCode", "message": code}]
    end = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
    return b"\x03" + json.dumps(end).encode()


def says(*messages: bytes) -> Talk:
    async def talk(socket: web.WebSocketResponse) -> None:
        for message in messages:
            await socket.send_bytes(message)

    return talk


@asynccontextmanager
async def server(
    talk: Talk, *, protocols: Sequence[str] = (V5, V4), timeout_s: float = 5.0
) -> AsyncIterator[tuple[HttpKubeClient, Scripted]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=protocols)
        await socket.prepare(request)
        await talk(socket)
        await socket.close()
        return socket

    scripted = Scripted(handle)
    async with scripted.client(timeout_s=timeout_s) as client:
        yield client, scripted


async def run(client: HttpKubeClient, **more: Any) -> ExecResult:
    return await client.exec("p", "ns", container="c", command=["a b", "&x"], **more)


async def test_output_errors_and_exit_code_come_back() -> None:
    talk = says(b"\x01", b"\x02", b"\x01one ", b"\x02oh", b"\x01two\xff", failed("3"))
    async with server(talk) as (client, scripted):
        assert await run(client) == ExecResult(b"one two\xff", b"oh", 3)
    [request] = scripted.requests
    assert request.path == "/api/v1/namespaces/ns/pods/p/exec"
    assert request.query.getall("command") == ["a b", "&x"]
    assert "stdin" not in request.query
    assert (request.query["container"], request.query["stdout"], request.query["stderr"]) == ("c", "true", "true")
    assert scripted.codes == [("EXEC", "101")]


async def test_input_is_sent_beside_reading_and_ended() -> None:
    async def echo(socket: web.WebSocketResponse) -> None:
        while (message := await socket.receive_bytes()) != b"\xff\x00":
            await socket.send_bytes(b"\x01" + message[1:])
        await socket.send_bytes(SUCCESS)

    data = bytes(range(256)) * 4000
    async with server(echo) as (client, _):
        result = await run(client, stdin=data, limit_bytes=len(data))
    assert result == ExecResult(data, b"", 0)


async def test_an_old_server_runs_commands_without_input_only() -> None:
    async with server(says(SUCCESS), protocols=(V4,)) as (client, _):
        assert (await run(client)).exit_code == 0
        with pytest.raises(ApiStatusError, match="cannot end a command's input") as caught:
            await run(client, stdin=b"x")
    assert caught.value.reason == "ProtocolTooOld"


async def test_more_output_than_wanted_is_refused() -> None:
    async with server(says(b"\x01" + b"x" * 60, b"\x02" + b"y" * 60, SUCCESS)) as (client, _):
        with pytest.raises(ApiStatusError, match="longer than 100 bytes") as caught:
            await run(client, limit_bytes=100)
    assert caught.value.reason == "OutputTooLarge"


@pytest.mark.parametrize(
    ("messages", "expected", "text"),
    [
        ([b"\x01half"], UnreachableError, "ended before the command did"),
        ([b"\x03nonsense"], ApiStatusError, "not what an API server sends"),
        ([b"\x03" + b"[" * 5000], ApiStatusError, "not what an API server sends"),
        ([failed("-1")], ApiStatusError, "HTTP 500"),
        ([failed("9" * 5000)], None, ""),
        ([b'\x03{"status":"Failure","code":404,"message":"no pod\\u001b[31m"}'], NotFoundError, r"no pod \[31m"),
        ([b'\x03{"status":"Failure","code":200,"message":"odd"}'], ApiStatusError, "odd"),
        ([b""], ApiStatusError, "not what an API server sends"),
        ([b"\x07what", SUCCESS], None, ""),
    ],
)
async def test_odd_ends(messages: list[bytes], expected: type[CapnError] | None, text: str) -> None:
    async with server(says(*messages)) as (client, _):
        if expected is None:
            assert (await run(client)).exit_code in {0, 99999}
            return
        with pytest.raises(expected, match=text):
            await run(client)


async def test_a_huge_message_ends_it() -> None:
    async with server(says(b"\x01" + b"x" * (2 << 20), SUCCESS)) as (client, _):
        with pytest.raises(UnreachableError):
            await run(client, limit_bytes=10 << 20)


async def test_silence_and_slowness_end_in_time() -> None:
    async def silent(socket: web.WebSocketResponse) -> None:
        await socket.receive()

    async with server(silent) as (client, _):
        with pytest.raises(UnreachableError, match=r"did not end within 0\.2 s"):
            await run(client, timeout_s=0.2)
        with pytest.raises(UnreachableError, match=r"nothing came for 0\.2 s"):
            async for _piece in client.exec_stream("p", "ns", container="c", command=["x"], silence_s=0.2):
                pass


async def test_no_answer_to_the_handshake_ends_in_time() -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async with Scripted(hang).client(timeout_s=0.2) as client:
        with pytest.raises(UnreachableError, match=r"no answer within 0\.2 s"):
            await run(client)


async def test_an_unknown_protocol_is_refused() -> None:
    async with server(says(SUCCESS), protocols=("other",)) as (client, _):
        with pytest.raises(ApiStatusError, match="not what an API server sends"):
            await run(client)


@pytest.mark.parametrize(
    ("code", "expected"), [(404, NotFoundError), (403, ApiStatusError), (503, OverloadedError), (200, ApiStatusError)]
)
async def test_refusals_tell_why(code: int, expected: type[CapnError]) -> None:
    answer = answers(lambda: web.json_response({"kind": "Status", "message": "since we say so"}, status=code))
    scripted = Scripted(answer)
    async with scripted.client() as client:
        with pytest.raises(expected, match="exec in pod p: since we say so"):
            await run(client)
    assert len(scripted.requests) == 1


async def test_a_redirect_is_not_followed() -> None:
    scripted = Scripted(answers(lambda: web.Response(status=302, headers={"Location": "/elsewhere"})))
    async with scripted.client() as client:
        with pytest.raises(ApiStatusError, match="HTTP 302"):
            await run(client)
    assert [request.path for request in scripted.requests] == ["/api/v1/namespaces/ns/pods/p/exec"]


async def test_a_stream_ends_by_itself_only_after_success() -> None:
    talk = says(b"\x01one", b"\x02a\nlast \x1bline\n", b"\x01two", failed("2"))
    got: list[bytes] = []
    async with server(talk) as (client, _):
        stream = client.exec_stream("p", "ns", container="c", command=["x"])
        got += [await anext(stream), await anext(stream)]
        with pytest.raises(CommandFailedError, match="exit code 2: last  line") as caught:
            await anext(stream)
    assert got == [b"one", b"two"]
    assert caught.value.exit_code == 2
    async with server(says(b"\x01one", b"\x01two", SUCCESS)) as (client, _):
        stream = client.exec_stream("p", "ns", container="c", command=["x"])
        assert [piece async for piece in stream] == [b"one", b"two"]
    async with server(says(b"\x01one")) as (client, _):
        with pytest.raises(UnreachableError, match="ended before"):
            async for _piece in client.exec_stream("p", "ns", container="c", command=["x"]):
                pass


async def test_an_abandoned_stream_ends_the_connection() -> None:
    ended = asyncio.Event()

    async def pour(socket: web.WebSocketResponse) -> None:
        try:
            while not socket.closed:
                await socket.send_bytes(b"\x01" + b"x" * 1000)
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        ended.set()

    async with server(pour) as (client, _):
        async with aclosing(client.exec_stream("p", "ns", container="c", command=["x"])) as stream:
            assert await anext(stream)
        async with asyncio.timeout(5):
            await ended.wait()


async def test_a_closed_client_says_so() -> None:
    async with server(says(SUCCESS)) as (client, _):
        await client.close()
        with pytest.raises(UnreachableError, match="the client is closed"):
            await run(client)
