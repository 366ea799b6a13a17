"""The connection to another cluster that has an endpoint's machines.

Role: the controller's own client, or one by the kubeconfig in the Secret that the administrator named. Must not: take a
kubeconfig from a tenant's object.
"""

from __future__ import annotations

import base64
import binascii

from capn.api.resources import SECRET
from capn.errors import InvalidSpecError, TransientError
from capn.kube.client import KubeClient
from capn.kube.connect import connect_kubeconfig
from capn.kube.http import HttpKubeClient
from capn.settings import SecretKey


async def connect_by_secret(client: KubeClient, key: SecretKey) -> HttpKubeClient:
    """A client by the kubeconfig in the Secret. TransientError while it is missing, InvalidSpecError when damaged."""
    secret = await client.get(SECRET, key.name, key.namespace)
    encoded = ((secret or {}).get("data") or {}).get(key.key)
    where = f"Secret {key.namespace}/{key.name}"
    if not encoded:
        raise TransientError(
            f"{where} has no key {key.key}: put the kubeconfig of the cluster that has the machines there",
            reason="KubeconfigMissing",
        )
    try:
        kubeconfig = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise InvalidSpecError("endpoints.kubeconfig", f"{where} key {key.key} is not base64") from error
    return await connect_kubeconfig(kubeconfig)
