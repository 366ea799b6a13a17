"""Reads a cluster's Secrets and keeps them in memory for a while.

Role: the one place where PKI and kubeconfig are read from the parent, so that a steady state needs no GET. Inputs: the
client; output: `Credentials`. Must not: write, log contents, or list Secrets (RBAC grants only reads by name).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from capn import names
from capn.api.resources import SECRET
from capn.build.kubeconfig_renewal import compute_renewal
from capn.build.pki import ClusterPki
from capn.build.secrets import pki_from_secrets, read_secret_value
from capn.errors import TransientError
from capn.kube.client import KubeClient

# Long enough that 1,000 clusters at rest read nothing for minutes, short enough that a deleted Secret is noticed.
KEEP = timedelta(minutes=30)


@dataclass(frozen=True)
class Credentials:
    """A cluster's PKI and kubeconfig; a part that does not exist (yet) is None. `found`: the PKI Secrets that do.

    `renew_at`: when the kubeconfig's client certificate is due; None when the Secret or the certificate is not capn's.
    """

    pki: ClusterPki | None = field(repr=False)
    kubeconfig: bytes | None = field(repr=False)
    found: Mapping[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    renew_at: datetime | None = None


class CredentialStore:
    """Credentials by the cluster's UID."""

    def __init__(self, client: KubeClient, now: Callable[[], datetime]) -> None:
        self._client = client
        self._now = now
        self._kept: dict[str, tuple[datetime, Credentials]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def load(self, namespace: str, name: str, uid: str) -> Credentials:
        """From memory if it is whole and fresh, else from the API. TerminalError when a Secret is damaged."""
        # After a restart the cluster's and its machines' reconcilers all ask; one of them reads.
        async with self._locks.setdefault(uid, asyncio.Lock()):
            kept = self._kept.get(uid)
            if kept is not None and self._now() - kept[0] < KEEP:
                return kept[1]
            return await self._read(namespace, name, uid)

    async def _read(self, namespace: str, name: str, uid: str) -> Credentials:
        found = await self._read_pki_secrets(namespace, name, uid)
        whole = len(found) == len(pki_secret_names(name))
        pki = pki_from_secrets(name, found) if whole else None
        kubeconfig, is_own = await self._load_kubeconfig(namespace, name, uid)
        credentials = Credentials(
            pki=pki,
            kubeconfig=kubeconfig,
            found=found,
            renew_at=compute_renewal(kubeconfig, pki.ca) if kubeconfig and pki and is_own else None,
        )
        if credentials.pki is not None and credentials.kubeconfig is not None:
            self.keep(uid, credentials)
        return credentials

    def keep(self, uid: str, credentials: Credentials) -> None:
        """Remember what was just read or written."""
        self._kept[uid] = (self._now(), credentials)

    def forget(self, uid: str) -> None:
        """Read again next time."""
        self._kept.pop(uid, None)
        self._locks.pop(uid, None)

    async def _read_pki_secrets(self, namespace: str, name: str, uid: str) -> dict[str, dict[str, Any]]:
        """Those of the four PKI Secrets that exist, by name."""
        found = {}
        for secret in pki_secret_names(name):
            if (obj := await self._client.get(SECRET, secret, namespace)) is not None:
                refuse_former_owner(obj, uid)
                found[secret] = obj
        return found

    async def _load_kubeconfig(self, namespace: str, name: str, uid: str) -> tuple[bytes | None, bool]:
        """The kubeconfig, and whether its Secret is the cluster's own."""
        secret = await self._client.get(SECRET, names.secret_kubeconfig(name), namespace)
        if secret is None:
            return None, False
        refuse_former_owner(secret, uid)
        return read_secret_value(secret, "value", remakeable=True), find_controller(secret) == uid


def refuse_former_owner(secret: dict[str, Any], uid: str) -> None:
    """Wait (TransientError) for the Secret of a deleted object of the same name to be garbage-collected.

    A Secret without an owner was put there by a person (a CA of their own, a restored backup) and is taken as it is.
    """
    owner = find_controller(secret)
    if owner is not None and owner != uid:
        raise TransientError(
            f"Secret {secret['metadata']['name']} is that of a deleted object of the same name; waiting for it to go",
            reason="WaitingForSecrets",
        )


def find_controller(obj: dict[str, Any]) -> str | None:
    """The UID of the object's controlling owner, or None."""
    owners = obj["metadata"].get("ownerReferences") or ()
    return next((str(owner.get("uid")) for owner in owners if owner.get("controller")), None)


def pki_secret_names(cluster: str) -> tuple[str, str, str, str]:
    """The four Secrets of a cluster's PKI."""
    return (
        names.secret_ca(cluster),
        names.secret_etcd(cluster),
        names.secret_proxy(cluster),
        names.secret_sa(cluster),
    )
