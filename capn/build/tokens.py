"""Bootstrap tokens: one a machine, short-lived, written to the child's kube-system.

Role: pure; randomness and time come from outside. Must not: log or return a token in an error.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from capn import names
from capn.errors import TerminalError

NAMESPACE = "kube-system"  # where an API server looks for them
TOKEN_VALID = timedelta(minutes=15)
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 6
_SECRET_LENGTH = 16
_MIN_RANDOM = 24  # 192 bits: 22 digits of base 36 need 114, the rest makes the modulo's bias negligible
_TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")


def generate_token(random_bytes: bytes) -> str:
    """A token such as `abcdef.0123456789abcdef` from at least 24 random bytes (ValueError if fewer)."""
    if len(random_bytes) < _MIN_RANDOM:
        raise ValueError(f"needs at least {_MIN_RANDOM} random bytes")
    number = int.from_bytes(random_bytes, "big")
    digits = []
    for _ in range(_ID_LENGTH + _SECRET_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits[:_ID_LENGTH]) + "." + "".join(digits[_ID_LENGTH:])


def token_secret_name(token: str) -> str:
    """Name of the token's Secret in kube-system."""
    return f"bootstrap-token-{_split(token)[0]}"


def build_token_secret(token: str, *, expires: datetime, description: str, machine_uid: str) -> dict[str, Any]:
    """The Secret that lets a machine join until `expires` (an aware time), stamped with the machine's UID."""
    token_id, token_secret = _split(token)
    data = {
        "token-id": token_id,
        "token-secret": token_secret,
        "expiration": expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
        "description": description,
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": f"bootstrap-token-{token_id}",
            "namespace": NAMESPACE,
            "annotations": {names.ANNOTATION_OWNER_UID: machine_uid},
        },
        "type": "bootstrap.kubernetes.io/token",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }


def _split(token: str) -> tuple[str, str]:
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise TerminalError("a bootstrap token has six and sixteen characters of a-z and 0-9 around a dot")
    return match[1], match[2]
