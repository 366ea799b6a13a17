"""Which CAs a cluster can be built on, and from when on the end of one is told of."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from capn.build import pki
from capn.build.ca_check import check_new_pki, find_ending_ca
from capn.build.pki import KeyPair
from capn.errors import TerminalError
from tests.unit.build.samples import NOW

DAY = timedelta(days=1)
MADE = pki.generate_pki(now=NOW, cluster="demo")


def test_generated_ones_are_good_for_nine_years() -> None:
    check_new_pki("demo", MADE, now=NOW)
    assert find_ending_ca("demo", MADE, now=NOW + 3284 * DAY) is None


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (timedelta(days=3660), "has expired on "),
        (timedelta(days=3300), "before the certificates that kubeadm makes"),
        (timedelta(days=-2), "is not valid before "),
    ],
)
def test_a_ca_outside_its_time_is_refused(shift: timedelta, words: str) -> None:
    with pytest.raises(TerminalError, match=words) as caught:
        check_new_pki("demo", MADE, now=NOW + shift)
    assert caught.value.reason == "CAUnusable"
    assert "Secret demo-ca, key tls.crt" in str(caught.value)
    assert "delete the Secret" in str(caught.value)


def test_what_is_no_ca_is_refused_whichever_it_is() -> None:
    leaf = pki.issue_client(MADE.ca, common_name="x", organizations=(), now=NOW, valid=3650 * DAY)
    for field, secret in (("ca", "demo-ca"), ("etcd_ca", "demo-etcd"), ("proxy_ca", "demo-proxy")):
        with pytest.raises(TerminalError, match=f"Secret {secret}, .*is not the certificate of a CA"):
            check_new_pki("demo", replace(MADE, **{field: leaf}), now=NOW)


def test_a_ca_without_extensions_is_none() -> None:
    key = pki._load_key(MADE.ca.key_pem)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "old")])
    bare = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + 3650 * DAY)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    with pytest.raises(TerminalError, match="is not the certificate of a CA"):
        check_new_pki("demo", replace(MADE, ca=KeyPair(bare, MADE.ca.key_pem)), now=NOW)


def test_a_ca_without_key_usage_may_sign() -> None:
    key = pki._load_key(MADE.ca.key_pem)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "old")])
    bare = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + 3650 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    check_new_pki("demo", replace(MADE, ca=KeyPair(bare, MADE.ca.key_pem)), now=NOW)


def test_the_last_year_is_told_of_with_the_same_words_every_day() -> None:
    said = {find_ending_ca("demo", MADE, now=NOW + day * DAY) for day in (3286, 3400, 3700)}
    assert len(said) == 1
    assert "demo-ca" in str(said) or "demo-etcd" in str(said) or "demo-proxy" in str(said)
