"""One value of a Secret that the administrator named in the settings.

Role: settings name Secrets, they never hold what is in them. Must not: read Secrets that a tenant names.
"""

from __future__ import annotations

import base64
import binascii

from capn.api.resources import SECRET
from capn.errors import InvalidSpecError, TransientError
from capn.kube.client import KubeClient
from capn.settings import SecretKey


async def read_secret_key(
    client: KubeClient, key: SecretKey, *, what: str, setting: str, reason: str = "SecretMissing"
) -> bytes:
    """The value. TransientError (`reason`) while it is missing, InvalidSpecError for `setting` when damaged."""
    secret = await client.get(SECRET, key.name, key.namespace)
    encoded = ((secret or {}).get("data") or {}).get(key.key)
    where = f"Secret {key.namespace}/{key.name}"
    if not encoded:
        raise TransientError(f"{where} has no key {key.key}: put {what} there", reason=reason)
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise InvalidSpecError(setting, f"{where} key {key.key} is not base64") from error
