"""The connection to another cluster that has an endpoint's machines.

Role: made at the first use, by whatever way the provider was given; `connect_by_secret` is one by the kubeconfig in the
Secret that the administrator named. One whose credentials the server no longer accepts is made anew, by what the Secret
holds then. Must not: take a kubeconfig from a tenant's object.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Generic, Protocol, TypeVar

from capn.kube.client import KubeClient
from capn.kube.connect import connect_kubeconfig
from capn.kube.http import HttpKubeClient, Observer
from capn.kube.secret_keys import read_secret_key
from capn.settings import SecretKey

# A Secret with credentials that have ended is not read again by each call: whoever renews them takes longer.
_AGAIN_S = 10.0


class _Closable(Protocol):
    async def close(self) -> None: ...


ClientT = TypeVar("ClientT", bound=_Closable)


class Connection(Generic[ClientT]):
    """A client, made once however many ask at the same time. `owned`: it is closed with the connection.

    `connect` is given what the client shall tell of each answer; an owned one that was answered 401 is replaced.
    """

    def __init__(
        self,
        connect: Callable[[Observer], Awaitable[ClientT]],
        *,
        owned: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._owned = owned
        self._clock = clock
        self._lock = asyncio.Lock()
        self._client: ClientT | None = None
        self._answers = _Answers()
        self._made_at = 0.0

    async def get(self) -> ClientT:
        """The client; what `connect` raises if there is none yet, and the next call tries again."""
        async with self._lock:
            if self._owned and self._answers.refused and self._clock() >= self._made_at + _AGAIN_S:
                await self.close()
            if self._client is None:
                self._answers, self._made_at = _Answers(), self._clock()
                self._client = await self._connect(self._answers.note)
            return self._client

    async def close(self) -> None:
        """End the connection; the next `get` makes another."""
        client, self._client = self._client, None
        if client is not None and self._owned:
            await client.close()


class _Answers:
    """Whether a client's credentials were refused. Each has its own: one that is dropped may still be answered."""

    def __init__(self) -> None:
        self.refused = False

    def note(self, _method: str, code: str) -> None:
        self.refused = self.refused or code == str(HTTPStatus.UNAUTHORIZED.value)


async def connect_by_secret(
    client: KubeClient, key: SecretKey, *, on_request: Observer | None = None
) -> HttpKubeClient:
    """A client by the kubeconfig in the Secret. TransientError while it is missing, InvalidSpecError when damaged."""
    kubeconfig = await read_secret_key(
        client,
        key,
        what="the kubeconfig of the cluster that has the machines",
        setting="endpoints.kubeconfig",
        reason="KubeconfigMissing",
    )
    return await connect_kubeconfig(kubeconfig, on_request=on_request)
