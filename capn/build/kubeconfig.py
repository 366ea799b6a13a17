"""Kubeconfigs of children: written for people, read back as hostile input.

Role: pure. A kubeconfig can run programs, read files and send credentials anywhere; `parse_kubeconfig` therefore takes
the server, the CA and a client certificate, and refuses everything else. Must not: put values of it into messages.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import yaml
from cryptography import x509

from capn.build.pki import KeyPair, certificate_matches_key
from capn.build.yaml_text import build_yaml
from capn.errors import TerminalError

MAX_BYTES = 64 * 1024
REASON_INVALID = "KubeconfigInvalid"
_MAX_DEPTH = 12
_CLUSTER_KEYS = frozenset({"server", "certificate-authority-data", "tls-server-name"})
_USER_KEYS = frozenset({"client-certificate-data", "client-key-data"})
_MAX_NAME = 253
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")
_REFUSED_NAMES = frozenset({"localhost", "metadata", "metadata.google.internal", "instance-data"})


@dataclass(frozen=True, slots=True)
class ChildCredentials:
    """All that is needed, and all that is taken, to reach a child's API."""

    server: str
    ca_pem: bytes
    cert_pem: bytes
    key_pem: bytes = field(repr=False)
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where an API server is: a URL such as https://10.89.0.10:6443, and its name where the URL's host is not it."""

    url: str
    server_name: str | None = None

    def build_entry(self, ca_pem: bytes) -> dict[str, str]:
        """The cluster's part of a kubeconfig."""
        entry = {"server": self.url, "certificate-authority-data": _encode(ca_pem)}
        return entry | ({"tls-server-name": self.server_name} if self.server_name else {})


def build_kubeconfig(*, cluster: str, server: ServerAddress, ca_pem: bytes, client: KeyPair) -> str:
    """A kubeconfig for kubectl."""
    user = f"{cluster}-admin"
    context = f"{user}@{cluster}"
    return build_yaml(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": cluster, "cluster": server.build_entry(ca_pem)}],
            "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
            "current-context": context,
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": _encode(client.cert_pem),
                        "client-key-data": _encode(client.key_pem),
                    },
                }
            ],
        }
    )


def build_token_kubeconfig(*, cluster: str, server: ServerAddress, ca_pem: str, user: str, token: str) -> str:
    """A kubeconfig for a program that has a ServiceAccount's token."""
    context = f"{user}@{cluster}"
    return build_yaml(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": cluster, "cluster": server.build_entry(ca_pem.encode())}],
            "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
            "current-context": context,
            "users": [{"name": user, "user": {"token": token}}],
        }
    )


def parse_kubeconfig(data: bytes, *, refused_hosts: Collection[str] = ()) -> ChildCredentials:
    """The credentials in a kubeconfig that nobody vouches for.

    `refused_hosts` are hosts that a child never has (the parent's own API server). TerminalError says what is wrong
    without repeating any value.
    """
    document = _load(data)
    context = _find(document, "contexts", "context", document.get("current-context"))
    cluster = _find(document, "clusters", "cluster", context.get("cluster"))
    user = _find(document, "users", "user", context.get("user"))
    _refuse_extra(cluster, _CLUSTER_KEYS, "cluster")
    _refuse_extra(user, _USER_KEYS, "user")
    server = cluster.get("server")
    _check_server(server, refused_hosts)
    server_name = cluster.get("tls-server-name")
    if server_name is not None and not _is_name(server_name):
        raise _invalid("has a tls-server-name that is no DNS name")
    ca_pem = _decode(cluster, "certificate-authority-data")
    client = KeyPair(_decode(user, "client-certificate-data"), _decode(user, "client-key-data"))
    _check_material(ca_pem, client)
    return ChildCredentials(
        server=str(server),
        ca_pem=ca_pem,
        cert_pem=client.cert_pem,
        key_pem=client.key_pem,
        server_name=server_name,
    )


def _load(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise _invalid("is larger than 64 KiB")
    try:
        text = data.decode()
        _check_structure(text)
        document = yaml.load(text, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        # Without the cause: YAML errors quote the text around the mistake, which here is a key.
        raise _invalid("is not YAML in UTF-8") from (error if isinstance(error, UnicodeDecodeError) else None)
    if not isinstance(document, dict):
        raise _invalid("is not a mapping")
    return document


def _check_structure(text: str) -> None:
    """Refuse anchors (exponential expansion) and deep nesting (recursion) before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _invalid("uses YAML anchors")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise _invalid("is nested too deeply")


def _find(document: dict[str, Any], section: str, kind: str, name: object) -> dict[str, Any]:
    entries = document.get(section)
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(name, str) and entry.get("name") == name:
            value = entry.get(kind)
            if isinstance(value, dict):
                return value
    raise _invalid(f"has no {kind} entry under {section} for its current context")


def _refuse_extra(entry: dict[str, Any], known: frozenset[str], what: str) -> None:
    if set(entry) - known:
        # Not named: keys are untrusted text as well.
        raise _invalid(f"has fields in its {what} other than {', '.join(sorted(known))}; only those are taken")


def _check_server(server: object, refused_hosts: Collection[str]) -> None:
    if not isinstance(server, str) or len(server) > 300 or not server.isascii() or not server.isprintable():  # noqa: PLR2004 - a URL of a DNS name (253) and a port
        raise _invalid("has no usable server")
    try:
        url = urlsplit(server)
        host, port = url.hostname, url.port
    except ValueError:
        raise _invalid("has no usable server") from None
    extra = url.path not in ("", "/") or url.query or url.fragment or "@" in url.netloc
    if url.scheme != "https" or not host or port == 0 or extra or " " in server or "\\" in server:
        raise _invalid("has a server that is not just https://host:port")
    if host in {name.lower() for name in refused_hosts} or _is_refused(host):
        raise _invalid("has a server that is local, link-local, a metadata service or the parent itself")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_NAME and _NAME.fullmatch(value) is not None


def _is_refused(host: str) -> bool:
    if "%" in host:  # a zone: only link-local addresses have one
        return True
    try:
        address = ip_address(host)
    except ValueError:
        # 2130706433 and 0x7f.1 are addresses to resolvers, so a name must have a letter in its last label.
        last = host.rstrip(".").rsplit(".", 1)[-1]
        return host.rstrip(".") in _REFUSED_NAMES or host.endswith(".localhost") or not last[:1].isalpha()
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    reserved = address.is_link_local or address.is_loopback or address.is_unspecified or address.is_multicast
    return reserved or address == ip_address("fd00:ec2::254")


def _decode(entry: dict[str, Any], key: str) -> bytes:
    value = entry.get(key)
    if not isinstance(value, str):
        raise _invalid(f"has no {key}")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise _invalid(f"has a {key} that is not base64") from None


def _check_material(ca_pem: bytes, client: KeyPair) -> None:
    try:
        x509.load_pem_x509_certificates(ca_pem)
        matching = certificate_matches_key(client)
    except Exception:  # noqa: BLE001 - cryptography raises several kinds for bad PEM
        raise _invalid("has certificates or a key that cannot be read") from None
    if not matching:
        raise _invalid("has a client key that does not belong to its certificate")


def _invalid(what: str) -> TerminalError:
    return TerminalError(
        f"the child's kubeconfig {what}; delete the Secret and it is written anew", reason=REASON_INVALID
    )


def _encode(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
