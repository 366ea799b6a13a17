from __future__ import annotations

import base64
import re
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capn.build.tokens import build_token_secret, generate_token, token_secret_name
from capn.errors import TerminalError
from tests.unit.build.samples import TOKEN


@given(st.binary(min_size=24, max_size=64))
def test_every_token_has_kubeadms_form(random_bytes: bytes) -> None:
    assert re.fullmatch(r"[a-z0-9]{6}\.[a-z0-9]{16}", generate_token(random_bytes))


def test_tokens_differ_with_their_randomness() -> None:
    assert len({generate_token(bytes([number] * 32)) for number in range(256)}) == 256


def test_too_little_randomness_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 24"):
        generate_token(bytes(23))


def test_token_secret_is_as_kubeadm_wants_it() -> None:
    expires = datetime(2026, 11, 23, 14, 15, tzinfo=timezone(timedelta(hours=2)))
    secret = build_token_secret(TOKEN, expires=expires, description="demo-pool-0", machine_uid="uid-1")
    data = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    assert data == {
        "token-id": "abcdef",
        "token-secret": "0123456789abcdef",
        "expiration": "2026-11-23T12:15:00Z",
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
        "description": "demo-pool-0",
    }
    assert secret["metadata"]["name"] == token_secret_name(TOKEN) == "bootstrap-token-abcdef"
    assert secret["metadata"]["namespace"] == "kube-system"
    assert secret["metadata"]["annotations"] == {"capn.dev/owner-uid": "uid-1"}
    assert secret["type"] == "bootstrap.kubernetes.io/token"


@pytest.mark.parametrize("token", ["", "abc", "ABCDEF.0123456789abcdef", TOKEN + "\n", "../../../x.0123456789abcdef"])
def test_a_malformed_token_is_refused_without_repeating_it(token: str) -> None:
    with pytest.raises(TerminalError) as caught:
        token_secret_name(token)
    assert not token or token not in str(caught.value)
