"""The gate between real TLS clients and real TLS servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from capn.build.pki import generate_pki, issue_server
from capn.errors import TerminalError
from capn.gate.client_hello import LIMIT_BYTES, ClientHello
from capn.gate.server import Gate
from tests.unit.build.samples import NOW

PKI = generate_pki(now=NOW, cluster="demo")
NAMES = ("a.gate.capn.dev", "b.gate.capn.dev")


class Echo:
    """A TLS server that says its name and then everything back."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self.connections = name, 0
        pair = issue_server(PKI.ca, common_name=name, sans=[name], now=NOW, valid=timedelta(days=3650))
        path = directory / f"{name}.pem"
        path.write_bytes(pair.cert_pem + pair.key_pem)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(path)
        self._server: asyncio.Server | None = None

    async def start(self) -> tuple[str, int]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        return "127.0.0.1", self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError):
            writer.write(f"{self.name}\n".encode())
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=PKI.ca.cert_pem.decode())
    return context


@contextlib.asynccontextmanager
async def running(directory: Path, *, connections: int = 100) -> AsyncIterator[tuple[Gate, dict[str, Echo]]]:
    servers = {name: Echo(name, directory) for name in NAMES}
    targets = {name: await server.start() for name, server in servers.items()}
    gate = Gate(targets.get, bind="127.0.0.1", port=0, connections=connections)
    await gate.start()
    try:
        yield gate, servers
    finally:
        await gate.close()
        for server in servers.values():
            server.close()


async def open_by_name(gate: Gate, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", gate.port, ssl=client_context(), server_hostname=name)


@pytest.mark.parametrize("name", NAMES)
async def test_each_name_leads_to_its_own_server_unread(tmp_path: Path, name: str) -> None:
    async with running(tmp_path) as (gate, servers):
        reader, writer = await open_by_name(gate, name)
        assert await reader.readline() == f"{name}\n".encode()
        sent = bytes(range(256)) * 4096  # a MiB: more than any buffer on the way
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        assert [server.connections for server in servers.values()] == [int(known == name) for known in NAMES]
        writer.close()


@pytest.mark.parametrize("name", ["c.gate.capn.dev", "127.0.0.1"])
async def test_what_is_no_cluster_is_closed_without_an_answer(tmp_path: Path, name: str) -> None:
    async with running(tmp_path) as (gate, servers):
        with pytest.raises((ssl.SSLError, OSError)):
            await open_by_name(gate, name)
        assert all(server.connections == 0 for server in servers.values())


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: a.gate.capn.dev\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 40_000]
)
async def test_what_is_no_tls_is_closed(tmp_path: Path, said: bytes) -> None:
    async with running(tmp_path) as (gate, _servers):
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write(said)
        with contextlib.suppress(OSError):
            assert await reader.read() == b""
        writer.close()


async def test_a_dead_server_ends_the_connection_and_not_the_gate(tmp_path: Path) -> None:
    async with running(tmp_path) as (gate, servers):
        servers[NAMES[0]].close()
        with pytest.raises((ssl.SSLError, OSError)):
            await open_by_name(gate, NAMES[0])
        reader, writer = await open_by_name(gate, NAMES[1])
        assert await reader.readline() == f"{NAMES[1]}\n".encode()
        writer.close()


async def test_no_more_connections_than_allowed_and_room_again_afterwards(tmp_path: Path) -> None:
    async with running(tmp_path, connections=1) as (gate, _servers):
        reader, writer = await open_by_name(gate, NAMES[0])
        await reader.readline()
        with pytest.raises((ssl.SSLError, OSError)):
            await open_by_name(gate, NAMES[1])
        writer.close()
        await reader.read()
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(ssl.SSLError, OSError):
                    reader, writer = await open_by_name(gate, NAMES[1])
                    break
        assert await reader.readline() == f"{NAMES[1]}\n".encode()
        writer.close()


async def test_closing_the_gate_ends_what_is_open(tmp_path: Path) -> None:
    async with running(tmp_path) as (gate, _servers):
        reader, writer = await open_by_name(gate, NAMES[0])
        await reader.readline()
        await gate.close()
        with contextlib.suppress(OSError):
            assert await reader.read() == b""
        with pytest.raises(OSError, match=r"\d"):
            await asyncio.open_connection("127.0.0.1", gate.port)
        writer.close()


async def test_a_port_in_use_is_explained(tmp_path: Path) -> None:
    async with running(tmp_path) as (gate, _servers):
        other = Gate(lambda _name: None, bind="127.0.0.1", port=gate.port)
        with pytest.raises(TerminalError, match=r"gate\.bind_port"):
            await other.run()


def hello(name: str | None, version: ssl.TLSVersion) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["a.gate.capn.dev", None])
def test_the_name_is_known_with_the_last_byte_however_the_bytes_come(name: str | None, version: ssl.TLSVersion) -> None:
    data = hello(name, version)
    reader = ClientHello()
    done = [reader.feed(data[at : at + 1]) for at in range(len(data))]
    assert done == [False] * (len(data) - 1) + [True]
    assert (reader.name, reader.received) == (name, data)


def test_an_endless_hello_is_given_up() -> None:
    reader, fed = ClientHello(), 0
    header = b"\x16\x03\x01\x40\x00\x01\x00\xff\xff"
    while not reader.feed(header if not fed else b"\0" * 1024):
        fed += 1
        assert fed < 2 * LIMIT_BYTES // 1024
    assert reader.name is None
