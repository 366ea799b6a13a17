from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from capn.build.kubeconfig import ChildCredentials, ServerAddress, build_kubeconfig, parse_kubeconfig
from capn.build.pki import ClusterPki, KeyPair, generate_pki, issue_client
from capn.errors import TerminalError
from tests.unit.build.samples import NOW

SERVER = "https://10.89.0.10:6443"
PKI: ClusterPki = generate_pki(now=NOW, cluster="demo")
CLIENT: KeyPair = issue_client(
    PKI.ca, common_name="admin", organizations=["system:masters"], now=NOW, valid=timedelta(days=1)
)
TEXT = build_kubeconfig(cluster="demo", server=ServerAddress(SERVER), ca_pem=PKI.ca.cert_pem, client=CLIENT)
Document = dict[str, Any]


def parse_changed(change: Callable[[Document], object]) -> ChildCredentials:
    document = yaml.safe_load(TEXT)
    change(document)
    return parse_kubeconfig(yaml.safe_dump(document).encode())


def cluster_of(document: Document) -> Document:
    entry: Document = document["clusters"][0]["cluster"]
    return entry


def user_of(document: Document) -> Document:
    entry: Document = document["users"][0]["user"]
    return entry


def test_round_trip() -> None:
    credentials = parse_kubeconfig(TEXT.encode())
    assert credentials == ChildCredentials(SERVER, PKI.ca.cert_pem, CLIENT.cert_pem, CLIENT.key_pem)
    assert "PRIVATE" not in repr(credentials)
    assert base64.b64encode(CLIENT.key_pem).decode() in TEXT


@pytest.mark.parametrize(
    "extra",
    [
        {"exec": {"command": "/bin/sh", "apiVersion": "client.authentication.k8s.io/v1"}},
        {"auth-provider": {"name": "gcp", "config": {"cmd-path": "/bin/sh"}}},
        {"token": "canary"},
        {"tokenFile": "/etc/shadow"},
        {"username": "u", "password": "canary"},
        {"client-certificate": "/etc/ssl/x"},
        {"client-key": "/etc/ssl/x"},
        {"as": "root"},
        {"as-groups": ["system:masters"]},
    ],
)
def test_other_ways_to_authenticate_are_refused(extra: Document) -> None:
    with pytest.raises(TerminalError, match="fields in its user other than") as caught:
        parse_changed(lambda document: user_of(document).update(extra))
    assert "canary" not in str(caught.value)
    assert caught.value.reason == "KubeconfigInvalid"


@pytest.mark.parametrize(
    "extra",
    [
        {"proxy-url": "http://evil.example"},
        {"insecure-skip-tls-verify": True},
        {"certificate-authority": "/etc/ssl/x"},
        {7: 7},
    ],
)
def test_other_cluster_settings_are_refused(extra: Document) -> None:
    with pytest.raises(TerminalError, match="fields in its cluster other than"):
        parse_changed(lambda document: cluster_of(document).update(extra))


@pytest.mark.parametrize(
    "server",
    [
        "http://10.89.0.10:6443",
        "https://user@10.89.0.10:6443",
        "https://@10.89.0.10:6443",
        "https://10.89.0.10:6443/path",
        "https://10.89.0.10:6443?x=1",
        "https://10.89.0.10:6443#x",
        "https://10.89.0.10:0",
        "https://10.89.0.10:99999",
        "https://10.89.0.10:abc",
        "https://",
        "https://[::1",
        "https://10.89.0.10\\@evil.example",
        "https://10.89.0.10 .evil.example",
        "https://10.89.0.10\n:6443",
        "https://ex\u0430mple.org",
        "https://" + "a" * 400,
        "file:///etc/passwd",
        "https://127.0.0.1:6443",
        "https://127.1:6443",
        "https://2130706433:6443",
        "https://0x7f000001:6443",
        "https://localhost:6443",
        "https://LOCALHOST.:6443",
        "https://a.localhost:6443",
        "https://[::1]:6443",
        "https://[::ffff:127.0.0.1]:6443",
        "https://0.0.0.0:6443",
        "https://169.254.169.254",
        "https://[fe80::1]",
        "https://[fe80::1%25eth0]",
        "https://[fd00:ec2::254]",
        "https://224.0.0.1",
        "https://metadata.google.internal",
        None,
        7,
        ["x"],
    ],
)
def test_servers_that_are_no_child_are_refused(server: object) -> None:
    with pytest.raises(TerminalError, match="server"):
        parse_changed(lambda document: cluster_of(document).update(server=server))


@pytest.mark.parametrize("server", ["https://demo.example:6443", "https://[fd00::1]:6443/", "https://10.0.0.1"])
def test_ordinary_servers_are_taken(server: str) -> None:
    assert parse_changed(lambda document: cluster_of(document).update(server=server)).server == server


def test_the_parents_own_endpoint_is_refused() -> None:
    with pytest.raises(TerminalError, match="the parent itself"):
        parse_kubeconfig(TEXT.encode(), refused_hosts=["10.89.0.10"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update({"current-context": "other"}), "no context entry"),
        (lambda d: d.update({"current-context": ["x"]}), "no context entry"),
        (lambda d: d.update(contexts={}), "no context entry"),
        (lambda d: d.update(clusters=["x", None]), "no cluster entry"),
        (lambda d: d["users"][0].update(user="x"), "no user entry"),
        (lambda d: cluster_of(d).pop("certificate-authority-data"), "has no certificate-authority-data"),
        (lambda d: user_of(d).update({"client-key-data": "%"}), "client-key-data that is not base64"),
        (lambda d: user_of(d).update({"client-key-data": "eA=="}), "certificates or a key that cannot be read"),
        (lambda d: cluster_of(d).update({"certificate-authority-data": "eA=="}), "cannot be read"),
        (
            lambda d: user_of(d).update({"client-key-data": base64.b64encode(PKI.ca.key_pem).decode()}),
            "does not belong to its certificate",
        ),
    ],
)
def test_what_is_missing_or_damaged_is_said(change: Callable[[Document], object], message: str) -> None:
    with pytest.raises(TerminalError, match=message):
        parse_changed(change)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x" * 70_000, "larger than 64 KiB"),
        (b"\xff\xfe", "is not YAML in UTF-8"),
        (b"a: [", "is not YAML in UTF-8"),
        (b"!!python/object/apply:os.system ['true']", "is not YAML in UTF-8"),
        (b"2026-99-99", "is not"),
        (b"[]", "is not a mapping"),
        (b"", "is not a mapping"),
        (b"a: &x [1]\nb: *x", "uses YAML anchors"),
        (b"[" * 30_000, "is nested too deeply"),
        (b"? [1, 2]\n: 3", "is not YAML|no context"),
    ],
)
def test_hostile_yaml_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(TerminalError, match=message):
        parse_kubeconfig(data)


_LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
_JSON = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
_PATHS = st.sampled_from(
    [
        ("clusters",),
        ("users",),
        ("contexts",),
        ("current-context",),
        ("clusters", 0, "cluster", "server"),
        ("clusters", 0, "cluster", "certificate-authority-data"),
        ("users", 0, "user"),
        ("users", 0, "user", "client-certificate-data"),
        ("users", 0, "user", "client-key-data"),
        ("contexts", 0, "context"),
    ]
)


@given(path=_PATHS, value=_JSON)
@settings(max_examples=150)
def test_any_value_anywhere_is_refused_with_one_kind_of_error(path: tuple[str | int, ...], value: object) -> None:
    document = yaml.safe_load(TEXT)
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(TerminalError):
        parse_kubeconfig(yaml.safe_dump(document).encode())


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_any_bytes_are_refused_with_one_kind_of_error(data: bytes) -> None:
    with pytest.raises(TerminalError):
        parse_kubeconfig(data)


def test_a_servers_own_name_goes_round() -> None:
    text = build_kubeconfig(
        cluster="demo",
        server=ServerAddress("https://198.18.16.1:8443", "0b0e.gate.capn.dev"),
        ca_pem=PKI.ca.cert_pem,
        client=CLIENT,
    )
    credentials = parse_kubeconfig(text.encode())
    assert (credentials.server, credentials.server_name) == ("https://198.18.16.1:8443", "0b0e.gate.capn.dev")
    assert parse_kubeconfig(TEXT.encode()).server_name is None


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "*.capn.dev", "-a.dev", "a..b", "A.dev", "x" * 64, 7, ["a"]])
def test_a_servers_name_must_be_a_dns_name(name: object) -> None:
    with pytest.raises(TerminalError, match="tls-server-name that is no DNS name"):
        parse_changed(lambda document: cluster_of(document).update({"tls-server-name": name}))
