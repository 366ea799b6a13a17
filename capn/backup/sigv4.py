"""AWS Signature Version 4, as S3-compatible stores check it.

Role: pure; the headers that sign one request. Inputs: keys, time, the request. Must not: do I/O, or read the clock.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote

_ALGORITHM = "AWS4-HMAC-SHA256"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Keys:
    """Access key, its secret, and the region that they are used in."""

    access_key: str
    secret_key: str = field(repr=False)
    region: str


def sign(  # noqa: PLR0913 - the parts of a request
    keys: Keys, moment: datetime, *, method: str, host: str, path: str, query: Mapping[str, str], payload_sha256: str
) -> dict[str, str]:
    """Headers for the request; `path` is not encoded yet, `payload_sha256` is of the body."""
    stamp = moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": host, "x-amz-content-sha256": payload_sha256, "x-amz-date": stamp}
    signed = ";".join(sorted(headers))
    canonical = "\n".join(
        [
            method,
            encode_path(path),
            encode_query(query),
            *(f"{name}:{headers[name]}" for name in sorted(headers)),
            "",
            signed,
            payload_sha256,
        ]
    )
    scope = f"{stamp[:8]}/{keys.region}/s3/aws4_request"
    to_sign = "\n".join([_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    signature = hmac.new(_derive(keys, stamp[:8]), to_sign.encode(), hashlib.sha256).hexdigest()
    credential = f"Credential={keys.access_key}/{scope}"
    del headers["host"]  # the HTTP client sends it itself
    return headers | {"Authorization": f"{_ALGORITHM} {credential}, SignedHeaders={signed}, Signature={signature}"}


def encode_path(path: str) -> str:
    """The path as it is sent and signed."""
    return quote(path, safe="/-_.~")


def encode_query(query: Mapping[str, str]) -> str:
    """The query as it is sent and signed: sorted, everything encoded."""
    return "&".join(f"{quote(key, safe='-_.~')}={quote(value, safe='-_.~')}" for key, value in sorted(query.items()))


def _derive(keys: Keys, day: str) -> bytes:
    key = f"AWS4{keys.secret_key}".encode()
    for part in (day, keys.region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
