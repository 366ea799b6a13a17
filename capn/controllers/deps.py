"""What reconcilers are given: one frozen `Deps`, built once by `capn.controllers.setup`.

Role: the seams for clocks, caches, providers and children, as narrow Protocols, so that scenario tests hand in doubles.
Must not: hold state of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from capn.api.machine_template import Infrastructure
from capn.controllers.addon_content import AddonContents
from capn.controllers.backups import Backups
from capn.controllers.child_pool import ChildPool
from capn.controllers.chores import Chores
from capn.controllers.console_watch import ConsoleWatch
from capn.controllers.credentials import CredentialStore
from capn.controllers.patience import Patience
from capn.kube.client import KubeClient
from capn.providers.base import Provider
from capn.settings import GateSettings, NestingSettings


class Cache(Protocol):
    """The read side of an informer."""

    def get(self, namespace: str, name: str) -> dict[str, Any] | None:
        """The object as last seen (or last written by us), or None. Not to be mutated."""
        ...

    def by_index(self, index: str, value: str) -> Sequence[dict[str, Any]]:
        """All objects whose index function gave `value`."""
        ...

    def note_write(self, obj: dict[str, Any]) -> None:
        """Remember our own write, so that a cache that is behind is not believed."""
        ...


class Providers(Protocol):
    """Finds the provider of an infrastructure reference."""

    def get(self, infrastructure: Infrastructure) -> Provider:
        """InvalidSpecError (spec.infrastructure.endpoint, reason EndpointNotFound) when there is none."""
        ...


class Recorder(Protocol):
    """Records events; never blocks and never fails a reconcile."""

    def event(
        self, obj: Mapping[str, Any], event_type: Literal["Normal", "Warning"], reason: str, message: str
    ) -> None:
        """`obj` gives apiVersion, kind and metadata."""
        ...


# Index of machines by "<namespace>/<cluster name>".
INDEX_CLUSTER = "cluster"
# Index of clusters by the namespace that the claims of their children are in, if they have any.
INDEX_CLAIMS = "claims"
# Index of clusters by the name under which the gate knows them.
INDEX_GATE = "gate"
# Index of clusters and machines by their own namespace.
INDEX_NAMESPACE = "namespace"


@dataclass(frozen=True)
class Deps:
    """Everything that a reconcile may use."""

    client: KubeClient
    clusters: Cache
    machines: Cache
    providers: Providers
    children: ChildPool
    consoles: ConsoleWatch
    credentials: CredentialStore
    addons: AddonContents
    recorder: Recorder
    now: Callable[[], datetime]
    bootstrap_timeout_s: float
    backups: Backups
    chores: Chores
    shutdown_timeout_s: float
    nesting: NestingSettings | None = None
    gate: GateSettings | None = None
    patience: Patience = field(default_factory=Patience)
