"""Certificates and keys of a cluster (ECDSA P-256): three CAs, service-account keys, client and server certificates.

Role: makes and checks key material, and turns it into PEM. Inputs: names and the time (passed in); outputs: frozen
pairs whose repr hides the key. A CA or key pair that a user provides may be RSA. Must not: do I/O or read the clock.
Keys and serial numbers are random, which no builder can take from outside without weakening them: they are the one
exception to the purity of this package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_VALID = timedelta(days=3650)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
# A machine whose clock is a little behind must not find the certificate 'not valid yet' (CABPK 158).
BACKDATE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate (for service accounts: the public key) and its private key, both PEM."""

    cert_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClusterPki:
    """What kubeadm expects to find below /etc/kubernetes/pki. `sa.cert_pem` is the public key."""

    ca: KeyPair
    etcd_ca: KeyPair
    proxy_ca: KeyPair
    sa: KeyPair


def generate_pki(*, now: datetime, cluster: str) -> ClusterPki:
    """New CAs (10 years, back-dated 5 min) and service-account keys; `cluster` becomes the CAs' organization."""
    return ClusterPki(
        ca=generate_ca(common_name="kubernetes", organization=cluster, now=now),
        etcd_ca=generate_ca(common_name="etcd-ca", organization=cluster, now=now),
        proxy_ca=generate_ca(common_name="front-proxy-ca", organization=cluster, now=now),
        sa=generate_service_account_keys(),
    )


def generate_ca(*, common_name: str, organization: str, now: datetime) -> KeyPair:
    """A self-signed CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
    builder = (
        _start(name, name, key.public_key(), now, CA_VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(common_name)]), critical=False)
    )
    return KeyPair(_cert_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def generate_service_account_keys() -> KeyPair:
    """Keys that sign and check service-account tokens (ES256)."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return KeyPair(public, _key_pem(key))


def issue_client(
    ca: KeyPair, *, common_name: str, organizations: Sequence[str], now: datetime, valid: timedelta
) -> KeyPair:
    """A client certificate: `common_name` is the Kubernetes user, `organizations` its groups."""
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(ca, _subject(common_name, organizations), usages=usages, sans=(), now=now, valid=valid)


def issue_server(  # noqa: PLR0913 - the parts of a certificate request
    ca: KeyPair,
    *,
    common_name: str,
    sans: Sequence[str],
    now: datetime,
    valid: timedelta,
    organizations: Sequence[str] = (),
) -> KeyPair:
    """A certificate for a server, good as its client certificate too (etcd peers); `sans` are names or addresses."""
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(ca, _subject(common_name, organizations), usages=usages, sans=sans, now=now, valid=valid)


def ca_cert_hash(ca_cert_pem: bytes) -> str:
    """The discovery pin of kubeadm: `sha256:` and the hex digest of the CA's SubjectPublicKeyInfo (DER)."""
    public = x509.load_pem_x509_certificate(ca_cert_pem).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def certificate_matches_key(pair: KeyPair) -> bool:
    """True if the certificate is of that private key. ValueError if either cannot be read."""
    public = x509.load_pem_x509_certificate(pair.cert_pem).public_key()
    return _spki(public) == _spki(_load_key(pair.key_pem).public_key())


def public_key_matches_key(pair: KeyPair) -> bool:
    """True if `cert_pem`, here a bare public key, belongs to that private key. ValueError if either cannot be read."""
    public = serialization.load_pem_public_key(pair.cert_pem)
    return _spki(public) == _spki(_load_key(pair.key_pem).public_key())


def expires_at(cert_pem: bytes) -> datetime:
    """When the certificate ends (UTC). ValueError if it cannot be read."""
    return x509.load_pem_x509_certificate(cert_pem).not_valid_after_utc


def _issue(  # noqa: PLR0913 - the parts of a certificate
    ca: KeyPair,
    subject: x509.Name,
    *,
    usages: Sequence[x509.ObjectIdentifier],
    sans: Sequence[str],
    now: datetime,
    valid: timedelta,
) -> KeyPair:
    ca_cert = x509.load_pem_x509_certificate(ca.cert_pem)
    ca_key = _load_key(ca.key_pem)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _start(ca_cert.subject, subject, key.public_key(), now, valid)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if sans:
        names = x509.SubjectAlternativeName([_general_name(name) for name in sans])
        builder = builder.add_extension(names, critical=False)
    return KeyPair(_cert_pem(builder.sign(ca_key, hashes.SHA256())), _key_pem(key))


def _start(
    issuer: x509.Name, subject: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, valid: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + valid)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _subject(common_name: str, organizations: Sequence[str]) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _load_key(pem: bytes) -> PrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, PrivateKey):
        raise ValueError("neither an elliptic-curve nor an RSA key")  # noqa: TRY004 - any unreadable key is alike
    return key


def _spki(public: object) -> bytes:
    if not isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise ValueError("neither an elliptic-curve nor an RSA key")  # noqa: TRY004 - any unreadable key is alike
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _cert_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
