"""Connections to a child's API: every answer, and the kubeconfig itself, is hostile input.

Role: validated `ChildCredentials` -> `HttpKubeClient`. Nothing of the environment is trusted (no proxies, no system
CAs, no cookies), redirects are not followed, answers are capped, and addresses that would reach the host's own metadata
service or loopback are refused, after name resolution too. Must not: read kubeconfigs (`capn.build.kubeconfig` does).
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from capn.build.kubeconfig import ChildCredentials
from capn.errors import TerminalError
from capn.kube.http import HttpKubeClient, Observer
from capn.kube.transport import MIB, Limits, Transport, build_session

CHILD_LIMITS = Limits(object_bytes=4 * MIB, list_bytes=64 * MIB, raw_bytes=MIB)
_CONNECTIONS = 16
_HTTPS = 443
# Cloud metadata services beside 169.254.169.254, which is link-local anyway.
_METADATA = frozenset({ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")})
_REASON = "EndpointRefused"


async def connect_child(
    credentials: ChildCredentials,
    *,
    timeout_s: float = 30.0,
    allow_loopback: bool = False,
    forbidden: Collection[str] = (),
    on_request: Observer | None = None,
) -> HttpKubeClient:
    """A client for a child. TerminalError (reason EndpointRefused) for an address that a child cannot have.

    `forbidden` are `host:port` of servers that no child may pose as, such as the parent's own API server.
    """
    host, port = _split(credentials.server)
    if f"{host}:{port}" in forbidden:
        raise TerminalError(f"{credentials.server} is the parent's own API server", reason=_REASON)
    if (literal := _literal(host)) is not None:
        refuse_address(literal, allow_loopback=allow_loopback)
    session = build_session(
        aiohttp.TCPConnector(
            limit=_CONNECTIONS,
            ssl=build_ssl_context(credentials),
            resolver=_CheckedResolver(allow_loopback=allow_loopback),
        ),
        auto_decompress=False,  # we ask for none; a compressed answer would be a bomb
    )
    named = {"server_hostname": credentials.server_name} if credentials.server_name else {}
    transport = Transport(
        base_url=f"https://{_bracket(host)}:{port}", session=session, limits=CHILD_LIMITS, request_args=named
    )
    return HttpKubeClient(transport, timeout_s=timeout_s, on_request=on_request)


def build_ssl_context(credentials: ChildCredentials) -> ssl.SSLContext:
    """TLS that trusts the given CA only and presents the given client certificate. TerminalError when damaged."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=credentials.ca_pem.decode("ascii"))
        _load_client(context, credentials)
    except (ssl.SSLError, UnicodeDecodeError, ValueError) as error:
        raise TerminalError(f"the child's kubeconfig holds a damaged certificate or key: {error}") from error
    return context


def refuse_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address, *, allow_loopback: bool) -> None:
    """TerminalError (reason EndpointRefused) when no child can be at `address`."""
    mapped = getattr(address, "ipv4_mapped", None)
    plain = mapped or address
    local = plain.is_loopback or plain.is_unspecified  # the unspecified address reaches loopback on Linux
    if plain.is_link_local or plain.is_multicast or plain in _METADATA or (local and not allow_loopback):
        raise TerminalError(
            f"the child's kubeconfig points to {plain}, where no child can be; restore its server address",
            reason=_REASON,
        )


class _CheckedResolver(AbstractResolver):
    """Name resolution whose results are checked, so that a name cannot do what an address may not."""

    def __init__(self, *, allow_loopback: bool, inner: Callable[[], AbstractResolver] = ThreadedResolver) -> None:
        self._inner = inner()
        self._allow_loopback = allow_loopback

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        results = await self._inner.resolve(host, port, family)
        for result in results:
            if (address := _literal(result["host"])) is not None:
                refuse_address(address, allow_loopback=self._allow_loopback)
        return results

    async def close(self) -> None:
        await self._inner.close()


def _load_client(context: ssl.SSLContext, credentials: ChildCredentials) -> None:
    # OpenSSL reads key pairs from files only; this one is ours alone and gone at once.
    with tempfile.TemporaryDirectory(prefix="capn-") as private:
        path = Path(private) / "client.pem"
        path.touch(mode=0o600)
        path.write_bytes(credentials.cert_pem + b"\n" + credentials.key_pem)
        context.load_cert_chain(path, password=_no_password)


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal when the key is encrypted.
    raise ValueError("the client key is encrypted")


def _split(server: str) -> tuple[str, int]:
    try:
        parts = urlsplit(server)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise TerminalError(f"the child's server address cannot be read: {error}", reason=_REASON) from error
    plain = parts.path in {"", "/"} and not (parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme != "https" or not host or not plain:
        raise TerminalError("the child's server address is not of the form https://host:port", reason=_REASON)
    return host, port or _HTTPS


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
