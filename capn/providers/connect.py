"""The connection to another cluster that has an endpoint's machines.

Role: made at the first use, by whatever way the provider was given; `connect_by_secret` is one by the kubeconfig in the
Secret that the administrator named. Must not: take a kubeconfig from a tenant's object.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from capn.api.resources import SECRET
from capn.errors import InvalidSpecError, TransientError
from capn.kube.client import KubeClient
from capn.kube.connect import connect_kubeconfig
from capn.kube.http import HttpKubeClient
from capn.settings import SecretKey


class _Closable(Protocol):
    async def close(self) -> None: ...


ClientT = TypeVar("ClientT", bound=_Closable)


class Connection(Generic[ClientT]):
    """A client, made once however many ask at the same time. `owned`: it is closed with the connection."""

    def __init__(self, connect: Callable[[], Awaitable[ClientT]], *, owned: bool = True) -> None:
        self._connect = connect
        self._owned = owned
        self._lock = asyncio.Lock()
        self._client: ClientT | None = None

    async def get(self) -> ClientT:
        """The client; what `connect` raises if there is none yet, and the next call tries again."""
        async with self._lock:
            if self._client is None:
                self._client = await self._connect()
            return self._client

    async def close(self) -> None:
        """End the connection; the next `get` makes another."""
        client, self._client = self._client, None
        if client is not None and self._owned:
            await client.close()


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
