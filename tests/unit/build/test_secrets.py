from __future__ import annotations

import base64
from typing import Any

import pytest

from capn.build.pki import ClusterPki, generate_pki
from capn.build.secrets import (
    build_bootstrap_secret,
    build_kubeconfig_secret,
    build_pki_secrets,
    pki_from_secrets,
    read_secret_value,
)
from capn.errors import TerminalError
from tests.unit.build.samples import NOW, make_cluster, make_machine


@pytest.fixture(scope="module")
def pki() -> ClusterPki:
    return generate_pki(now=NOW, cluster="demo")


@pytest.fixture
def secrets(pki: ClusterPki) -> dict[str, dict[str, Any]]:
    return {secret["metadata"]["name"]: secret for secret in build_pki_secrets(make_cluster(), pki)}


def test_pki_survives_the_round_trip(pki: ClusterPki, secrets: dict[str, dict[str, Any]]) -> None:
    assert list(secrets) == ["demo-ca", "demo-etcd", "demo-proxy", "demo-sa"]
    assert pki_from_secrets("demo", secrets) == pki


def test_secrets_are_found_by_cluster_api_tools_and_owned(secrets: dict[str, dict[str, Any]]) -> None:
    for secret in secrets.values():
        assert secret["type"] == "cluster.x-k8s.io/secret"
        assert secret["metadata"]["namespace"] == "team-a"
        assert secret["metadata"]["labels"] == {"capn.dev/cluster": "demo", "cluster.x-k8s.io/cluster-name": "demo"}
        owner = secret["metadata"]["ownerReferences"][0]
        assert owner["kind"] == "NestedCluster"
        assert owner["uid"] == "3b8f6a1e-0000-4000-8000-000000000001"
        assert owner["controller"] is owner["blockOwnerDeletion"] is True


def test_kubeconfig_secret() -> None:
    secret = build_kubeconfig_secret(make_cluster(), "apiVersion: v1\n")
    assert secret["metadata"]["name"] == "demo-kubeconfig"
    assert read_secret_value(secret, "value") == b"apiVersion: v1\n"


def test_bootstrap_secret_is_owned_by_its_machine() -> None:
    secret = build_bootstrap_secret(make_machine(), b"#cloud-config\n")
    assert secret["metadata"]["name"] == "demo-cp-0-bootstrap"
    assert secret["metadata"]["ownerReferences"][0]["kind"] == "NestedMachine"
    assert read_secret_value(secret, "value") == b"#cloud-config\n"
    assert read_secret_value(secret, "format") == b"cloud-config"


def test_a_lost_secret_is_never_replaced(secrets: dict[str, dict[str, Any]]) -> None:
    del secrets["demo-etcd"]
    with pytest.raises(TerminalError, match="Secret demo-etcd is missing; restore it") as caught:
        pki_from_secrets("demo", secrets)
    assert caught.value.reason == "CertificatesDamaged"


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("demo-ca", "tls.crt", None, "Secret demo-ca, key tls.crt: is missing"),
        ("demo-ca", "tls.key", 7, "Secret demo-ca, key tls.key: is missing"),
        ("demo-proxy", "tls.key", "%%%", "Secret demo-proxy, key tls.key: is not base64"),
        ("demo-proxy", "tls.key", "é", "Secret demo-proxy, key tls.key: is not base64"),
        ("demo-sa", "tls.crt", base64.b64encode(b"x").decode(), "Secret demo-sa, key tls.crt or tls.key: is not PEM"),
        ("demo-sa", "tls.key", "A" * 100_000, "is larger than 64 KiB"),
    ],
)
def test_damage_names_the_secret_and_the_key(
    secrets: dict[str, dict[str, Any]], name: str, key: str, value: object, message: str
) -> None:
    if value is None:
        del secrets[name]["data"][key]
    else:
        secrets[name]["data"][key] = value
    with pytest.raises(TerminalError, match=message):
        pki_from_secrets("demo", secrets)


@pytest.mark.parametrize("value", [None, "%%%"])
def test_a_secret_that_can_be_made_again_says_so(value: str | None) -> None:
    secret = {"metadata": {"name": "demo-kubeconfig"}, "data": {"value": value}}
    with pytest.raises(TerminalError, match=r"key value: is .*, or delete the Secret") as caught:
        read_secret_value(secret, "value", remakeable=True)
    assert caught.value.reason == "SecretDamaged"


def test_a_key_of_another_ca_is_damage(secrets: dict[str, dict[str, Any]]) -> None:
    secrets["demo-ca"]["data"]["tls.key"] = secrets["demo-etcd"]["data"]["tls.key"]
    with pytest.raises(TerminalError, match=r"Secret demo-ca, key tls\.key: does not belong to tls\.crt"):
        pki_from_secrets("demo", secrets)


def test_a_secret_without_data_is_damage(secrets: dict[str, dict[str, Any]]) -> None:
    secrets["demo-ca"]["data"] = None
    with pytest.raises(TerminalError, match=r"key tls\.crt: is missing"):
        pki_from_secrets("demo", secrets)
