"""A command in a container: the channels of Kubernetes' `exec` over a WebSocket.

Role: from a call to its output and exit code. Each message starts with a byte that says which channel it belongs to:
0 is the command's input, 1 its output, 2 its errors, 3 the end (a `metav1.Status`), and in v5 255 closes the channel
that its second byte names. Every message is untrusted: a child's administrators own both the API server and the
container. Must not: keep more of the output than the caller asked for, or know what the command does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlencode

import aiohttp
import msgspec

from capn.api.resources import POD
from capn.errors import ApiStatusError, UnreachableError
from capn.kube.client import ExecResult
from capn.kube.errors import CommandFailedError, Status, build_error
from capn.kube.paths import build_path
from capn.kube.transport import Transport
from capn.kube.websocket import open_websocket

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
STDIN, STDOUT, STDERR, END, CLOSE = 0, 1, 2, 3, 255
STDERR_BYTES = 64 * 1024
_STDIN_PIECE = 32 * 1024
_END_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ExecCall:
    """One command, never a shell's line: each word reaches the program as it is."""

    pod: str
    namespace: str
    container: str
    command: Sequence[str]
    stdin: bytes | None = field(default=None, repr=False)

    @property
    def what(self) -> str:
        """The call in an error's text."""
        return f"exec in pod {self.pod}"

    def path(self) -> str:
        """The request's path with its query."""
        options = [("container", self.container), ("stdout", "true"), ("stderr", "true")]
        if self.stdin is not None:
            options.append(("stdin", "true"))
        options += [("command", word) for word in self.command]
        base = build_path(POD, namespace=self.namespace, name=self.pod, subresource="exec")
        return f"{base}?{urlencode(options)}"


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct):
    causes: list[_Cause] | None = None


class _End(msgspec.Struct):
    status: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


_END = msgspec.json.Decoder(_End)


async def collect_exec(messages: AsyncGenerator[tuple[int, bytes], None], call: ExecCall, *, limit: int) -> ExecResult:
    """The whole output. ApiStatusError (reason OutputTooLarge) when it is longer than `limit` bytes."""
    parts: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
    size = 0
    async with aclosing(messages):
        async for channel, data in messages:
            if channel == END:
                return ExecResult(b"".join(parts[STDOUT]), b"".join(parts[STDERR]), parse_end(data, call.what))
            size += len(data)
            if size > limit:
                raise build_too_large(call.what, limit)
            parts[channel].append(data)
    raise _ended_early(call)


async def stream_exec(messages: AsyncGenerator[tuple[int, bytes], None], call: ExecCall) -> AsyncGenerator[bytes, None]:
    """The output as it comes. CommandFailedError after its last piece when the command failed."""
    errors = b""
    async with aclosing(messages):
        async for channel, data in messages:
            if channel == STDOUT:
                yield data
            elif channel == STDERR:
                errors = (errors + data)[-STDERR_BYTES:]
            else:
                require_success(ExecResult(b"", errors, parse_end(data, call.what)), call.what)
                return
    raise _ended_early(call)


async def open_exec(
    transport: Transport, call: ExecCall, *, open_s: float, silence_s: float
) -> AsyncGenerator[tuple[int, bytes], None]:
    """Pairs of channel and bytes: output and errors as they come, the end last.

    UnreachableError when the connection ends before the command, or nothing comes for `silence_s`.
    """
    opening = open_websocket(transport, call.path(), protocols=(V5, V4), what=call.what)
    async with contextlib.AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(open_s):
                socket = await stack.enter_async_context(opening)
        except TimeoutError as error:
            raise UnreachableError(f"{call.what}: no answer within {open_s:g} s") from error
        _check_protocol(socket, call)
        await stack.enter_async_context(_feeding(socket, call.stdin))
        while True:
            channel, data = await _receive(socket, call, silence_s)
            if channel in {STDOUT, STDERR} and data:
                yield channel, data
            elif channel == END:
                yield channel, data
                return


async def _receive(socket: aiohttp.ClientWebSocketResponse, call: ExecCall, silence_s: float) -> tuple[int, bytes]:
    try:
        async with asyncio.timeout(silence_s):
            message = await socket.receive()
    except TimeoutError as error:
        raise UnreachableError(f"{call.what}: nothing came for {silence_s:g} s") from error
    if message.type is aiohttp.WSMsgType.BINARY and message.data:
        return message.data[0], message.data[1:]
    if message.type in {aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT}:
        raise _bad_answer(call.what)
    raise _ended_early(call)


@contextlib.asynccontextmanager
async def _feeding(socket: aiohttp.ClientWebSocketResponse, stdin: bytes | None) -> AsyncIterator[None]:
    """Send the input beside reading: a command that writes while it reads would else block both sides."""
    if stdin is None:
        yield
        return

    async def feed() -> None:
        for start in range(0, len(stdin), _STDIN_PIECE):
            await socket.send_bytes(bytes([STDIN]) + stdin[start : start + _STDIN_PIECE])
        await socket.send_bytes(bytes([CLOSE, STDIN]))

    task = asyncio.create_task(feed(), name="exec stdin")
    try:
        yield
    finally:
        task.cancel()
        # A connection that broke is told by the reading side.
        await asyncio.gather(task, return_exceptions=True)


def _check_protocol(socket: aiohttp.ClientWebSocketResponse, call: ExecCall) -> None:
    if socket.protocol == V5 or (socket.protocol == V4 and call.stdin is None):
        return
    if socket.protocol == V4:
        message = f"{call.what}: the API server speaks only {V4}, which cannot end a command's input"
        raise ApiStatusError(HTTPStatus.NOT_IMPLEMENTED, message, reason="ProtocolTooOld")
    raise _bad_answer(call.what)


def parse_end(data: bytes, what: str) -> int:
    """The exit code in the message that ends a command, or the error when it was not even started."""
    try:
        end = _END.decode(data[:_END_BYTES])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _bad_answer(what) from error
    if end.status == "Success":
        return 0
    for cause in (end.details.causes if end.details else None) or ():
        if cause.reason == "ExitCode" and cause.message.isascii() and cause.message.isdigit():
            return int(cause.message[:5])
    code = end.code if end.code >= HTTPStatus.BAD_REQUEST else HTTPStatus.INTERNAL_SERVER_ERROR
    raise build_error(code, Status(code=code, reason=end.reason, message=end.message), what=what)


def require_success(result: ExecResult, what: str) -> None:
    """CommandFailedError with the last line of what it said when the command failed."""
    if result.exit_code != 0:
        raise CommandFailedError(what, exit_code=result.exit_code, stderr=result.stderr)


def build_too_large(what: str, limit: int) -> ApiStatusError:
    """The error of a command that said more than its caller wanted to keep."""
    message = f"{what}: the output is longer than {limit} bytes"
    return ApiStatusError(HTTPStatus.BAD_GATEWAY, message, reason="OutputTooLarge")


def _ended_early(call: ExecCall) -> UnreachableError:
    return UnreachableError(f"{call.what}: the connection ended before the command did")


def _bad_answer(what: str) -> ApiStatusError:
    message = f"{what}: the answer is not what an API server sends"
    return ApiStatusError(HTTPStatus.BAD_GATEWAY, message, reason="BadAnswer")
