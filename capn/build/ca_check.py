"""Whether a cluster can be built on these CAs: looked at once, before the first machine is made.

Role: pure. Inputs: the PKI, generated or provided by a user, and the time; output: nothing, or a TerminalError that
names Secret, key and fix. Later nothing can be changed about it, so later only the end of a CA is told of. Must not:
put key material into a message.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from cryptography import x509

from capn import names
from capn.build.pki import BACKDATE, ClusterPki, expires_at
from capn.errors import TerminalError

REASON_UNUSABLE = "CAUnusable"
# kubeadm's certificates live for a year; a CA that ends sooner would end them, and cannot be replaced.
LEAST_LIFE = timedelta(days=400)
# When to begin to tell that a CA ends: long enough to make another cluster and move.
NOTICE = timedelta(days=365)


def check_new_pki(cluster: str, pki: ClusterPki, *, now: datetime) -> None:
    """TerminalError (reason CAUnusable) when one of the three CAs is none, or is not valid for long enough."""
    for secret, cert_pem in _list_cas(cluster, pki):
        problem = _find_problem(x509.load_pem_x509_certificate(cert_pem), now)
        if problem is not None:
            raise TerminalError(
                f"Secret {secret}, key tls.crt: {problem}; put a CA there that is valid for at least"
                f" {LEAST_LIFE.days} days, or delete the Secret to have one made",
                reason=REASON_UNUSABLE,
            )


def find_ending_ca(cluster: str, pki: ClusterPki, *, now: datetime) -> str | None:
    """What to say of the CA that ends first when that is within a year; None otherwise."""
    end, secret = min((expires_at(cert_pem), secret) for secret, cert_pem in _list_cas(cluster, pki))
    if end - now > NOTICE:
        return None
    return (
        f"the CA in Secret {secret} ends on {end:%Y-%m-%d} and with it the cluster: capn never replaces a CA, so make a"
        " new cluster and move to it before"
    )


def _list_cas(cluster: str, pki: ClusterPki) -> Iterator[tuple[str, bytes]]:
    yield names.secret_ca(cluster), pki.ca.cert_pem
    yield names.secret_etcd(cluster), pki.etcd_ca.cert_pem
    yield names.secret_proxy(cluster), pki.proxy_ca.cert_pem


def _find_problem(certificate: x509.Certificate, now: datetime) -> str | None:
    if not _may_sign(certificate):
        return "is not the certificate of a CA (basic constraints CA:TRUE, key usage keyCertSign)"
    if certificate.not_valid_before_utc - BACKDATE > now:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
    end = certificate.not_valid_after_utc
    if end <= now:
        return f"has expired on {end:%Y-%m-%d}"
    if end - now < LEAST_LIFE:
        return f"ends on {end:%Y-%m-%d}, before the certificates that kubeadm makes"
    return None


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return is_ca
    return is_ca and usage.key_cert_sign
