"""Secrets of a cluster in the parent, in Cluster API's form, and the way back from them.

Role: pure. Inputs: models and key material; outputs: Secret manifests, or a `ClusterPki` read from Secrets.
Must not: put key material into an error message, or make new material in place of damaged one (a CA never changes).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from capn import names
from capn.api.cluster import NestedCluster
from capn.api.machine import NestedMachine
from capn.build.owners import build_cluster_labels, build_owner_reference
from capn.build.pki import ClusterPki, KeyPair, certificate_matches_key, public_key_matches_key
from capn.errors import TerminalError

REASON_DAMAGED = "CertificatesDamaged"
_REASON_REMAKEABLE = "SecretDamaged"
_MAX_PEM = 64 * 1024


def build_pki_secrets(cluster: NestedCluster, pki: ClusterPki) -> list[dict[str, Any]]:
    """The four Secrets `<c>-ca`, `-etcd`, `-proxy`, `-sa` with keys `tls.crt` and `tls.key`."""
    name = cluster.metadata.name
    pairs = {
        names.secret_ca(name): pki.ca,
        names.secret_etcd(name): pki.etcd_ca,
        names.secret_proxy(name): pki.proxy_ca,
        names.secret_sa(name): pki.sa,
    }
    return [
        _build_secret(cluster, name, secret, {"tls.crt": pair.cert_pem, "tls.key": pair.key_pem})
        for secret, pair in pairs.items()
    ]


def build_kubeconfig_secret(cluster: NestedCluster, kubeconfig: str) -> dict[str, Any]:
    """The Secret `<c>-kubeconfig` with key `value`."""
    name = cluster.metadata.name
    return _build_secret(cluster, name, names.secret_kubeconfig(name), {"value": kubeconfig.encode()})


def build_bootstrap_secret(machine: NestedMachine, user_data: bytes) -> dict[str, Any]:
    """The Secret `<m>-bootstrap` with keys `value` (user-data) and `format`, owned by the machine."""
    data = {"value": user_data, "format": b"cloud-config"}
    return _build_secret(machine, machine.spec.cluster_name, names.secret_bootstrap(machine.metadata.name), data)


def read_secret_value(secret: Mapping[str, Any], key: str, *, remakeable: bool = False) -> bytes:
    """The decoded value of one key. TerminalError names the Secret and the key if it is missing or damaged.

    `remakeable`: the Secret is made again when it is deleted, and the error says so. A CA's never is.
    """
    name = str(secret.get("metadata", {}).get("name", ""))
    encoded = (secret.get("data") or {}).get(key)
    if not isinstance(encoded, str):
        raise _damaged(name, key, "is missing", remakeable=remakeable)
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _damaged(name, key, "is not base64", remakeable=remakeable) from error


def pki_from_secrets(cluster: str, secrets: Mapping[str, Mapping[str, Any]]) -> ClusterPki:
    """The PKI of the named cluster, from its Secrets by name. TerminalError names the Secret and key on damage."""
    return ClusterPki(
        ca=_read_pair(secrets, names.secret_ca(cluster), certificate_matches_key),
        etcd_ca=_read_pair(secrets, names.secret_etcd(cluster), certificate_matches_key),
        proxy_ca=_read_pair(secrets, names.secret_proxy(cluster), certificate_matches_key),
        sa=_read_pair(secrets, names.secret_sa(cluster), public_key_matches_key),
    )


def _read_pair(secrets: Mapping[str, Mapping[str, Any]], name: str, matches: Callable[[KeyPair], bool]) -> KeyPair:
    secret = secrets.get(name)
    if secret is None:
        raise TerminalError(
            f"Secret {name} is missing; restore it from a backup (a lost CA is never made anew)", reason=REASON_DAMAGED
        )
    secret = {**secret, "metadata": {"name": name}}
    pair = KeyPair(read_secret_value(secret, "tls.crt"), read_secret_value(secret, "tls.key"))
    if len(pair.cert_pem) > _MAX_PEM or len(pair.key_pem) > _MAX_PEM:
        raise _damaged(name, "tls.crt or tls.key", "is larger than 64 KiB")
    try:
        matching = matches(pair)
    except Exception as error:  # cryptography raises several kinds for bad PEM, unsupported keys included
        raise _damaged(name, "tls.crt or tls.key", "is not PEM of a certificate and its EC or RSA key") from error
    if not matching:
        raise _damaged(name, "tls.key", "does not belong to tls.crt")
    return pair


def _damaged(name: str, key: str, what: str, *, remakeable: bool = False) -> TerminalError:
    advice = "restore it, or delete the Secret to have it made again" if remakeable else "restore it from a backup"
    reason = _REASON_REMAKEABLE if remakeable else REASON_DAMAGED
    return TerminalError(f"Secret {name}, key {key}: {what}; {advice}", reason=reason)


def _build_secret(
    owner: NestedCluster | NestedMachine, cluster: str, name: str, data: Mapping[str, bytes]
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": owner.metadata.namespace,
            "labels": build_cluster_labels(cluster),
            "ownerReferences": [build_owner_reference(owner)],
        },
        "type": names.SECRET_TYPE_CAPI,
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }
