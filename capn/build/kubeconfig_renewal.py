"""The client certificate in a child's kubeconfig: whether it is capn's own, when it is due, and its successor.

Role: pure. Inputs: the kubeconfig as it is, the cluster's CA and the time; outputs: a time, or the same kubeconfig with
a new certificate. Must not: change anything else of a file that people may have edited, or touch a certificate that
is not capn's own.
"""

from __future__ import annotations

import base64
from datetime import datetime, timedelta

import yaml
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from capn.build.kubeconfig import parse_kubeconfig
from capn.build.pki import KeyPair, issue_client
from capn.build.yaml_text import build_yaml
from capn.errors import TerminalError

CLIENT_VALID = timedelta(days=365)
# Kubelets renew theirs at 70 to 90 % of their life; a third of a year is time to notice that it does not work.
RENEWED_AT = 2 / 3
_USER = "kubernetes-admin"
_GROUP = "system:masters"


def issue_admin(ca: KeyPair, *, now: datetime) -> KeyPair:
    """The administrator's client certificate, for a year, back-dated by 5 minutes."""
    return issue_client(ca, common_name=_USER, organizations=(_GROUP,), now=now, valid=CLIENT_VALID)


def compute_renewal(kubeconfig: bytes, ca: KeyPair) -> datetime | None:
    """When the client certificate is to be renewed; None when it is not one that capn made with this CA."""
    try:
        certificate = x509.load_pem_x509_certificate(parse_kubeconfig(kubeconfig).cert_pem)
    except TerminalError:
        return None
    if not _is_own(certificate, x509.load_pem_x509_certificate(ca.cert_pem)):
        return None
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin + (end - begin) * RENEWED_AT


def renew_kubeconfig(kubeconfig: bytes, client: KeyPair) -> bytes:
    """The kubeconfig with another client certificate for its current context; everything else stays as it is.

    TerminalError when it is no kubeconfig that capn would use.
    """
    parse_kubeconfig(kubeconfig)
    document = yaml.load(kubeconfig, Loader=yaml.CSafeLoader)
    current = next(entry for entry in document["contexts"] if entry["name"] == document["current-context"])
    user = next(entry for entry in document["users"] if entry["name"] == current["context"]["user"])
    user["user"] |= {
        "client-certificate-data": base64.b64encode(client.cert_pem).decode(),
        "client-key-data": base64.b64encode(client.key_pem).decode(),
    }
    return build_yaml(document).encode()


def _is_own(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError, TypeError):
        return False
    subject = certificate.subject
    users = [name.value for name in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = [name.value for name in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    return users == [_USER] and groups == [_GROUP]
