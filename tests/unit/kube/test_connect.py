"""Connections: kubeconfigs of administrators, and children that are not trusted at all."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from capn.api.resources import CONFIG_MAP
from capn.build.kubeconfig import ChildCredentials, ServerAddress, build_kubeconfig
from capn.build.pki import ClusterPki, KeyPair, generate_pki, issue_client, issue_server
from capn.errors import InvalidSpecError, TerminalError, UnreachableError
from capn.kube.child import CHILD_LIMITS, _CheckedResolver, connect_child, refuse_address
from capn.kube.connect import connect_in_cluster, connect_kubeconfig

NOW = datetime.now(UTC)
PKI = generate_pki(now=NOW, cluster="c")
CLIENT = issue_client(PKI.ca, common_name="admin", organizations=["system:masters"], now=NOW, valid=timedelta(days=1))
OTHER = generate_pki(now=NOW, cluster="other")


def credentials(server: str, **changes: Any) -> ChildCredentials:
    made = ChildCredentials(server=server, ca_pem=PKI.ca.cert_pem, cert_pem=CLIENT.cert_pem, key_pem=CLIENT.key_pem)
    return replace(made, **changes)


@asynccontextmanager
async def tls_server(tmp_path: Path, pki: ClusterPki = PKI) -> AsyncIterator[int]:
    """An API server's TLS: its certificate, and clients' certificates required."""
    pair: KeyPair = issue_server(
        pki.ca, common_name="kube-apiserver", sans=["127.0.0.1", "localhost"], now=NOW, valid=timedelta(days=1)
    )
    (tmp_path / "pair.pem").write_bytes(pair.cert_pem + pair.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=PKI.ca.cert_pem.decode())

    async def handle(request: web.Request) -> web.Response:
        peer = request.transport.get_extra_info("peercert") if request.transport else None
        name = dict(part[0] for part in peer["subject"])["commonName"] if peer else "nobody"
        token = request.headers.get("Authorization", "")
        return web.json_response({"metadata": {"name": "a"}, "data": {"peer": name, "token": token}})

    app = web.Application()
    app.router.add_get("/{tail:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
        await asyncio.sleep(0.05)  # TLS connections say goodbye


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for temporary files that nobody else uses."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


async def test_a_child_is_reached_with_its_certificate(tmp_path: Path, temporary: Path) -> None:
    async with tls_server(tmp_path) as port:
        client = await connect_child(credentials(f"https://127.0.0.1:{port}"), allow_loopback=True)
        found = await client.get(CONFIG_MAP, "a", "ns")
        await client.close()
    assert found is not None
    assert found["data"] == {"peer": "admin", "token": ""}
    assert list(temporary.iterdir()) == []


async def test_a_child_with_another_ca_is_refused(tmp_path: Path) -> None:
    async with tls_server(tmp_path, OTHER) as port:
        client = await connect_child(credentials(f"https://127.0.0.1:{port}"), allow_loopback=True)
        with pytest.raises(UnreachableError, match="certificate verify failed"):
            await client.get(CONFIG_MAP, "a", "ns")
        await client.close()


async def test_the_environment_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    async with tls_server(tmp_path) as port:
        client = await connect_child(credentials(f"https://127.0.0.1:{port}"), allow_loopback=True)
        assert await client.get(CONFIG_MAP, "a", "ns") is not None
        assert client._transport.limits == CHILD_LIMITS
        await client.close()


@pytest.mark.parametrize(
    "server",
    [
        "https://169.254.169.254:443", "https://[fe80::1]:6443", "https://127.0.0.1:6443", "https://[::1]:6443",
        "https://0.0.0.0:6443", "https://[::ffff:127.0.0.1]:6443", "https://[::ffff:169.254.169.254]", "https://[::]:1",
        "https://224.0.0.1:6443", "https://[fd00:ec2::254]:443", "http://10.0.0.1:6443", "https://", "ftp://10.0.0.1",
        "https://user:pass@10.0.0.1:6443", "https://10.0.0.1:6443/path", "https://10.0.0.1:6443?x=y", "https://[x",
        "https://10.0.0.1:99999", "https://[fe80::1%25eth0]:6443",
    ],
)  # fmt: skip
async def test_addresses_that_no_child_has(server: str) -> None:
    with pytest.raises(TerminalError) as caught:
        await connect_child(credentials(server))
    assert caught.value.reason == "EndpointRefused"


async def test_the_parents_own_server_is_no_child() -> None:
    with pytest.raises(TerminalError, match="parent's own"):
        await connect_child(credentials("https://10.0.0.1:6443"), forbidden={"10.0.0.1:6443"})


async def test_a_name_cannot_do_what_an_address_may_not() -> None:
    resolver = _CheckedResolver(allow_loopback=False)
    with pytest.raises(TerminalError):
        await resolver.resolve("localhost", 6443)
    await resolver.close()
    assert await _CheckedResolver(allow_loopback=True).resolve("localhost", 6443)
    client = await connect_child(credentials("https://localhost:1"))
    with pytest.raises(TerminalError):
        await client.get(CONFIG_MAP, "a", "ns")
    await client.close()


def test_ordinary_addresses_pass() -> None:
    for text in ("10.89.0.10", "192.168.1.1", "203.0.113.5", "fd00::1", "2001:db8::1"):
        refuse_address(ipaddress.ip_address(text), allow_loopback=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"ca_pem": b"nonsense"}, {"ca_pem": b"\xff"}, {"cert_pem": b""}, {"key_pem": OTHER.ca.key_pem},
        {"key_pem": b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"},
    ],
)  # fmt: skip
async def test_damaged_certificates(changes: dict[str, Any]) -> None:
    with pytest.raises(TerminalError, match="damaged certificate or key"):
        await connect_child(credentials("https://10.0.0.1:6443", **changes))


async def test_an_administrators_kubeconfig(tmp_path: Path, temporary: Path) -> None:
    async with tls_server(tmp_path) as port:
        text = build_kubeconfig(
            cluster="c", server=ServerAddress(f"https://127.0.0.1:{port}"), ca_pem=PKI.ca.cert_pem, client=CLIENT
        )
        path = tmp_path / "kubeconfig"
        path.write_text(text)
        for source in (path, text.encode(), path):  # twice the same: the library remembers its files
            client = await connect_kubeconfig(source)
            found = await client.get(CONFIG_MAP, "a", "ns")
            await client.close()
            assert found is not None
            assert found["data"]["peer"] == "admin"
    assert list(temporary.iterdir()) == []


async def test_relative_files_and_a_token_file_that_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capn.kube.connect._TOKEN_FILE_S", 0.0)
    files = {"ca.crt": PKI.ca.cert_pem, "c.crt": CLIENT.cert_pem, "c.key": CLIENT.key_pem, "token": b"one"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    async with tls_server(tmp_path) as port:
        user = {"client-certificate": "c.crt", "client-key": "c.key", "tokenFile": "token"}
        config = {
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "clusters": [
                {"name": "x", "cluster": {"server": f"https://127.0.0.1:{port}", "certificate-authority": "ca.crt"}}
            ],
            "users": [{"name": "x", "user": user}],
        }
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        client = await connect_kubeconfig(path)
        for token in ("one", "two"):
            (tmp_path / "token").write_text(token)
            found = await client.get(CONFIG_MAP, "a", "ns")
            assert found is not None
            assert found["data"]["token"] == f"Bearer {token}"
        await client.close()


@pytest.mark.parametrize("text", ["", "[]", "{", "clusters: []", "clusters: [{name: x}]\n", "kind: Config"])
async def test_a_bad_kubeconfig_is_told_with_its_path(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken"
    path.write_text(text)
    with pytest.raises(InvalidSpecError, match="broken") as caught:
        await connect_kubeconfig(path)
    assert caught.value.field == "--kubeconfig"


async def test_no_kubeconfig_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSpecError, match="absent"):
        await connect_kubeconfig(tmp_path / "absent")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InvalidSpecError, match="not in a pod"):
        await connect_in_cluster()
