"""What is cancelled leaves no connection behind, though the server never says farewell."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from capn.api.resources import CONFIG_MAP
from capn.build.kubeconfig import ChildCredentials, ServerAddress, build_kubeconfig
from capn.build.pki import generate_pki, issue_client, issue_server
from capn.kube.child import connect_child
from capn.kube.client import KubeClient
from capn.kube.connect import connect_kubeconfig

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
PKI = generate_pki(now=NOW, cluster="c")
CLIENT = issue_client(PKI.ca, common_name="admin", organizations=["system:masters"], now=NOW, valid=DAY)
EVENT = b'{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"2"}}}\n'
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(EVENT), EVENT)


@contextlib.contextmanager
def deaf_server(directory: Path, answer: bytes) -> Iterator[int]:
    """Reads one request, sends `answer`, and from then on neither reads nor writes nor closes. Yields its port."""
    pair = issue_server(PKI.ca, common_name="kube-apiserver", sans=["127.0.0.1"], now=NOW, valid=DAY)
    (directory / "pair.pem").write_bytes(pair.cert_pem + pair.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "pair.pem")
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            plain, _ = listener.accept()
            with plain, context.wrap_socket(plain, server_side=True) as peer:
                peer.recv(65536)
                peer.sendall(answer)
                over.wait(30)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join()


async def as_child(port: int) -> KubeClient:
    made = ChildCredentials(
        server=f"https://127.0.0.1:{port}", ca_pem=PKI.ca.cert_pem, cert_pem=CLIENT.cert_pem, key_pem=CLIENT.key_pem
    )
    return await connect_child(made, allow_loopback=True)


async def as_parent(port: int) -> KubeClient:
    server = ServerAddress(f"https://127.0.0.1:{port}")
    text = build_kubeconfig(cluster="c", server=server, ca_pem=PKI.ca.cert_pem, client=CLIENT)
    return await connect_kubeconfig(text.encode())


async def watch(client: KubeClient) -> None:
    async for _ in client.watch(CONFIG_MAP, resource_version="1"):
        asyncio.current_task().cancel()  # type: ignore[union-attr]  # there is one


async def get(client: KubeClient) -> None:
    await client.get(CONFIG_MAP, "a", "b")


@pytest.mark.parametrize("connect", [as_child, as_parent])
@pytest.mark.parametrize(("answer", "call"), [(STREAM, watch), (b"", get)])
def test_a_cancelled_call_leaves_nothing_to_the_loop(
    tmp_path: Path,
    connect: Callable[[int], Awaitable[KubeClient]],
    answer: bytes,
    call: Callable[[KubeClient], Awaitable[None]],
) -> None:
    async def use(port: int) -> None:
        client = await connect(port)
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            async with asyncio.timeout(2):
                await call(client)
        await client.close()

    with deaf_server(tmp_path, answer) as port, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(use(port))
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
