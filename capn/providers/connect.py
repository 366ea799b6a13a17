"""The connection to another cluster that has an endpoint's machines.

Role: made at the first use, by whatever way the provider was given; `connect_by_secret` is one by the kubeconfig in the
Secret that the administrator named. Must not: take a kubeconfig from a tenant's object.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from capn.kube.client import KubeClient
from capn.kube.connect import connect_kubeconfig
from capn.kube.http import HttpKubeClient
from capn.kube.secret_keys import read_secret_key
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
    kubeconfig = await read_secret_key(
        client,
        key,
        what="the kubeconfig of the cluster that has the machines",
        setting="endpoints.kubeconfig",
        reason="KubeconfigMissing",
    )
    return await connect_kubeconfig(kubeconfig)
