from __future__ import annotations

import hashlib
import ssl
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from capn.build import pki
from capn.build.pki import KeyPair
from tests.unit.build.samples import NOW

DAY = timedelta(days=1)


def rsa_key_pem() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_cas_live_ten_years_and_are_back_dated() -> None:
    made = pki.generate_pki(now=NOW, cluster="demo")
    for pair, name in ((made.ca, "kubernetes"), (made.etcd_ca, "etcd-ca"), (made.proxy_ca, "front-proxy-ca")):
        certificate = x509.load_pem_x509_certificate(pair.cert_pem)
        assert certificate.not_valid_before_utc == NOW - timedelta(minutes=5)
        assert certificate.not_valid_after_utc == NOW + timedelta(days=3650) == pki.expires_at(pair.cert_pem)
        assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == name
        assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
        assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
        assert pki.certificate_matches_key(pair)
    assert pki.public_key_matches_key(made.sa)
    assert made.sa.cert_pem.startswith(b"-----BEGIN PUBLIC KEY-----")
    assert len({made.ca.key_pem, made.etcd_ca.key_pem, made.proxy_ca.key_pem, made.sa.key_pem}) == 4


def test_repr_hides_keys() -> None:
    made = pki.generate_pki(now=NOW, cluster="demo")
    assert "PRIVATE" not in repr(made)
    assert "key_pem" not in repr(made)


def test_client_certificate_names_user_and_groups() -> None:
    ca = pki.generate_ca(common_name="kubernetes", organization="demo", now=NOW)
    client = pki.issue_client(ca, common_name="admin", organizations=["system:masters", "x"], now=NOW, valid=DAY)
    certificate = x509.load_pem_x509_certificate(client.cert_pem)
    groups = [attribute.value for attribute in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    assert groups == ["system:masters", "x"]
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "admin"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.not_valid_after_utc == NOW + DAY
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.cert_pem))


def test_server_certificate_has_names_and_addresses() -> None:
    ca = pki.generate_ca(common_name="kubernetes", organization="demo", now=NOW)
    server = pki.issue_server(ca, common_name="s", sans=["demo.example", "10.0.0.1", "fd00::1"], now=NOW, valid=DAY)
    certificate = x509.load_pem_x509_certificate(server.cert_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["demo.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "fd00::1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


def test_openssl_accepts_the_chain(tmp_path: Path) -> None:
    ca = pki.generate_ca(common_name="kubernetes", organization="demo", now=NOW)
    server = pki.issue_server(ca, common_name="s", sans=["demo.example"], now=NOW, valid=DAY)
    (tmp_path / "ca.pem").write_bytes(ca.cert_pem)
    (tmp_path / "server.pem").write_bytes(server.cert_pem)
    (tmp_path / "server.key").write_bytes(server.key_pem)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    at = str(int(NOW.timestamp()))
    arguments = ["-x509_strict", "-attime", at, "-verify_hostname", "demo.example", "-CAfile", "ca.pem", "server.pem"]
    result = subprocess.run(
        ["openssl", "verify", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "server.pem: OK", result.stderr


def test_ca_hash_is_of_the_public_key(tmp_path: Path) -> None:
    ca = pki.generate_ca(common_name="kubernetes", organization="demo", now=NOW)
    (tmp_path / "ca.pem").write_bytes(ca.cert_pem)
    public = subprocess.run(
        ["openssl", "x509", "-pubkey", "-noout", "-in", tmp_path / "ca.pem"], capture_output=True, check=True
    )
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "der"], input=public.stdout, capture_output=True, check=True
    )
    assert pki.ca_cert_hash(ca.cert_pem) == "sha256:" + hashlib.sha256(der.stdout).hexdigest()


def test_a_foreign_key_does_not_match() -> None:
    one = pki.generate_pki(now=NOW, cluster="demo")
    assert not pki.certificate_matches_key(KeyPair(one.ca.cert_pem, one.etcd_ca.key_pem))
    assert not pki.public_key_matches_key(KeyPair(one.sa.cert_pem, one.ca.key_pem))


def test_rsa_keys_of_users_are_taken_and_other_kinds_refused() -> None:
    one = pki.generate_pki(now=NOW, cluster="demo")
    rsa_pem = rsa_key_pem()
    assert not pki.certificate_matches_key(KeyPair(one.ca.cert_pem, rsa_pem))
    private = serialization.load_pem_private_key(rsa_pem, None)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert pki.public_key_matches_key(KeyPair(public, rsa_pem))
    strange = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(ValueError, match="elliptic"):
        pki.certificate_matches_key(KeyPair(one.ca.cert_pem, strange))
