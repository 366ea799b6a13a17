"""The narrow client Protocol through which everything in capn talks to a Kubernetes API, parent or child.

Role: the seam between reconcilers and I/O. Implemented by `capn.kube.http.HttpKubeClient` (a real API server) and by
`capn.kube.memory.MemoryKubeClient` (a double for scenario tests, scale and the memory provider); both pass one contract
suite. Objects are plain JSON-shaped dicts here; the informer's hot path has its own decoder (`capn.kube.decode`).
Must not: retry a reconcile (the queue does) or know capn's kinds.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from capn.api.resources import Resource

EXEC_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ObjectList:
    """One consistent list: its items and the revision to watch from."""

    items: list[dict[str, Any]]
    resource_version: str


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change. A BOOKMARK carries only a resourceVersion.

    An expired revision (410) ends the iterator with `WatchExpiredError` instead of an event.
    """

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command in a container said, and its exit code."""

    stdout: bytes
    stderr: bytes
    exit_code: int


class KubeClient(Protocol):
    """Typed verbs over one API server.

    Every call raises `UnreachableError` when there is no answer, `ConflictError` on 409, `NotFoundError` on 404 (a
    write into a namespace or to a status that does not exist), `ApiStatusError` (with code) on other refusals; all
    within `timeout_s` of the client.
    """

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """The object, or None when there is none (404)."""
        ...

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> ObjectList:
        """All objects of the kind, in one namespace or (None) in all; a field selector such as `spec.nodeName=a`."""
        ...

    def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str | None = None,
        timeout_s: float = 300.0,
    ) -> AsyncIterator[WatchEvent]:
        """Changes after `resource_version`, bookmarks included; ends by itself after about `timeout_s`."""
        ...

    async def create(self, resource: Resource, obj: Mapping[str, Any]) -> dict[str, Any]:
        """POST; ConflictError (reason AlreadyExists) when the name is taken."""
        ...

    async def apply(
        self,
        resource: Resource,
        obj: Mapping[str, Any],
        *,
        subresource: str | None = None,
        force: bool = True,
        manager: str | None = None,
    ) -> dict[str, Any]:
        """Server-side apply as field manager `capn`, or as `manager`.

        `obj` holds ALL the fields that we own, and its name and namespace: a field of an earlier apply that is missing
        now is removed. A `metadata.uid` in it makes the write fail with ConflictError when the live object is another
        one (or none); an API server checks that for the status of a custom resource only after the write.
        """
        ...

    async def merge_patch(
        self, resource: Resource, name: str, namespace: str | None, patch: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """JSON merge patch, for what apply cannot say (removing a finalizer); None when the object is gone."""
        ...

    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, *, uid: str | None = None
    ) -> bool:
        """Delete (background propagation), with a UID precondition when given; False when there was nothing."""
        ...

    async def evict(self, pod: str, namespace: str, *, uid: str | None = None) -> bool:
        """Ask that a pod go, with its own grace, by the Eviction API; False when there was nothing.

        DisruptionBudgetError when a PodDisruptionBudget does not let it go now; ConflictError when it has another UID.
        """
        ...

    async def dry_run(self, resource: Resource, obj: Mapping[str, Any], *, manager: str) -> dict[str, Any]:
        """What a forced server-side apply by that field manager would make of the object; nothing is written."""
        ...

    async def request_token(self, account: str, namespace: str, *, lifetime_s: int) -> str:
        """A token of a ServiceAccount that lives about `lifetime_s` (the server may shorten it; at least 10 min)."""
        ...

    async def get_raw(self, path: str) -> tuple[int, str]:
        """GET of a non-resource path such as `/readyz` or `/version`: (HTTP status, body of at most 1 MiB)."""
        ...

    async def upload(self, path: str, source: Path, *, sha256: str, timeout_s: float) -> tuple[int, str]:
        """PUT of a file to a non-resource path, never sent twice: (HTTP status, body of at most 1 MiB).

        The header X-Capn-SHA256 says what it is. UnreachableError when the answer has not come in `timeout_s`.
        """
        ...

    async def exec(  # noqa: PLR0913 - a call's parts, as of kubectl exec
        self,
        pod: str,
        namespace: str,
        *,
        container: str,
        command: Sequence[str],
        stdin: bytes | None = None,
        limit_bytes: int = EXEC_BYTES,
        timeout_s: float = 30.0,
    ) -> ExecResult:
        """Run a command in a container to its end, whatever its exit code; never sent twice.

        NotFoundError when there is no such pod; ApiStatusError when the command cannot be started or says more than
        `limit_bytes`; UnreachableError when the connection ends first or after `timeout_s` (it may go on running).
        """
        ...

    def exec_stream(
        self, pod: str, namespace: str, *, container: str, command: Sequence[str], silence_s: float = 60.0
    ) -> AsyncGenerator[bytes, None]:
        """What a command writes, as it comes; it ends by itself only after exit code 0, else CommandFailedError.

        Other errors as of `exec`; UnreachableError when nothing comes for `silence_s`. To be closed by the caller.
        """
        ...

    async def close(self) -> None:
        """Free the connections."""
        ...
