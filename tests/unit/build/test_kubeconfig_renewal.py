"""When a kubeconfig's client certificate is due, and what its successor keeps."""

from __future__ import annotations

from datetime import timedelta

import pytest
import yaml
from cryptography import x509

from capn.build.kubeconfig import ServerAddress, build_kubeconfig, parse_kubeconfig
from capn.build.kubeconfig_renewal import CLIENT_VALID, compute_renewal, issue_admin, renew_kubeconfig
from capn.build.pki import BACKDATE, KeyPair, generate_ca, issue_client
from capn.errors import TerminalError
from tests.unit.build.samples import NOW

CA = generate_ca(common_name="kubernetes", organization="demo", now=NOW)


def build(client: KeyPair) -> bytes:
    server = ServerAddress("https://10.89.0.10:6443")
    return build_kubeconfig(cluster="demo", server=server, ca_pem=CA.cert_pem, client=client).encode()


def test_it_is_due_after_two_thirds_of_its_life() -> None:
    due = compute_renewal(build(issue_admin(CA, now=NOW)), CA)
    assert due is not None
    expected = NOW - BACKDATE + (CLIENT_VALID + BACKDATE) * 2 / 3
    assert abs(due - expected) < timedelta(seconds=2)


def test_what_is_not_capns_own_is_never_due() -> None:
    other_ca = generate_ca(common_name="kubernetes", organization="demo", now=NOW)
    person = issue_client(CA, common_name="jane", organizations=("system:masters",), now=NOW, valid=CLIENT_VALID)
    assert compute_renewal(build(issue_admin(other_ca, now=NOW)), CA) is None
    assert compute_renewal(build(person), CA) is None
    assert compute_renewal(b"no kubeconfig", CA) is None


def test_the_successor_is_back_dated_and_everything_else_is_kept() -> None:
    before = yaml.safe_load(build(issue_admin(CA, now=NOW)))
    before["clusters"][0]["cluster"]["server"] = "https://k8s.example.org:443"
    before["users"].append({"name": "jane", "user": {"token": "x"}})
    later = NOW + timedelta(days=250)
    renewed = renew_kubeconfig(yaml.safe_dump(before).encode(), issue_admin(CA, now=later))
    after = yaml.safe_load(renewed)
    certificate = x509.load_pem_x509_certificate(parse_kubeconfig(renewed).cert_pem)
    assert certificate.not_valid_before_utc == later - BACKDATE
    old, new = before["users"].pop(0), after["users"].pop(0)
    assert after == before
    assert old["name"] == new["name"]
    assert old["user"] != new["user"]


def test_what_capn_would_not_use_is_not_renewed() -> None:
    with pytest.raises(TerminalError):
        renew_kubeconfig(b"{}", issue_admin(CA, now=NOW))
