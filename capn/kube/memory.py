"""`MemoryKubeClient`: an API server's behaviour in this process, for scenario tests, scale and the memory provider.

Role: implements `KubeClient` and `CompactReader` with what capn relies on: revisions, uids, generations, server-side
apply with field ownership, the status subresource, finalizers, garbage collection, namespaces that end, watches with
bookmarks and 410. The contract suite holds it to a real API server. It has no schemas: nothing is defaulted, pruned or
refused. Must not: have fault hooks; a wrapper brings those.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from capn import names
from capn.api.resources import CRD, POD, SERVICE_ACCOUNT, Resource
from capn.errors import ApiStatusError, ConflictError, NotFoundError, UnreachableError
from capn.kube.client import EXEC_BYTES, ExecResult, ObjectList, WatchEvent
from capn.kube.decode import CompactList, Meta, Object, ObjectEvent, parse_revision
from capn.kube.exec import ExecCall, build_too_large, require_success
from capn.kube.fields import Fields, build_fields, changed_fields, merge, read_field, remove_fields
from capn.kube.memory_discovery import answer_discovery
from capn.kube.memory_eviction import spend_budget
from capn.kube.memory_store import Change, Manager, MemoryStore, Stored
from capn.kube.paths import object_key
from capn.kube.selectors import Matcher, build_field_matcher, build_matcher

BOOKMARK_S = 60.0
_Selected = list[Stored]
_WITH_STATUS = frozenset({
    "NestedCluster", "NestedMachine", "Node", "Namespace", "Pod", "Service", "Deployment", "DaemonSet",
    "CustomResourceDefinition", "PodDisruptionBudget",
})  # fmt: skip
# A kubelet registers its node with the status; for this kind the real server keeps that.
_STATUS_AT_CREATE = frozenset({"Node"})
# What a writer may send and the server decides itself.
_SERVER_META = ("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "managedFields")
_KEPT_META = ("uid", "generation", "creationTimestamp", "deletionTimestamp", "resourceVersion")


ExecHandler = Callable[[ExecCall], Awaitable[ExecResult]]
"""What happens when a command is run in a container of a pod that exists."""
_EXEC_PIECE = 32 * 1024


def _utc_now() -> datetime:
    return datetime.now(UTC)


class MemoryKubeClient:
    """One simulated API server. `requests` counts calls by (verb, plural), `plural/status` for the subresource."""

    def __init__(
        self,
        *,
        clock: Callable[[], datetime] = _utc_now,
        version: str = "v1.37.2",
        uid_seed: str = "memory",
        bookmark_s: float = BOOKMARK_S,
    ) -> None:
        self.store = MemoryStore(clock=clock, uid_seed=uid_seed)
        self.raw: dict[str, tuple[int, str]] = dict.fromkeys(("/readyz", "/healthz", "/livez"), (200, "ok"))
        self.raw["/version"] = (200, json.dumps({"gitVersion": version}))
        self._manager = names.FIELD_MANAGER
        self._bookmark_s = bookmark_s
        self.exec_handler: ExecHandler | None = None

    @property
    def requests(self) -> Counter[tuple[str, str]]:
        """Calls so far, by (verb, resource)."""
        return self.store.requests

    @property
    def writes(self) -> int:
        """Calls so far that were writes."""
        reads = {"get", "list", "watch"}
        return sum(count for (verb, _), count in self.requests.items() if verb not in reads)

    def as_manager(self, manager: str) -> MemoryKubeClient:
        """The same API server for another field manager, such as `kubectl`."""
        other = MemoryKubeClient(bookmark_s=self._bookmark_s)
        other.store, other.raw, other._manager = self.store, self.raw, manager
        other.exec_handler = self.exec_handler
        return other

    def compaction(self) -> None:
        """Make every watch from an earlier revision answer 410."""
        self.store.compact()

    def drop_watches(self) -> None:
        """Break every running watch, as a restart of the API server does."""
        self.store.drop_watches()

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """The object, or None."""
        await self._count("get", resource)
        stored = self.store.find(resource, _key(resource, namespace, name))
        return stored.to_dict() if stored else None

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> ObjectList:
        """All objects by namespace and name."""
        await self._count("list", resource)
        found = (stored.to_dict() for stored in self._select(resource, namespace, label_selector))
        matches = build_field_matcher(field_selector)
        return ObjectList([obj for obj in found if matches(obj)], str(self.store.revision))

    async def list_compact(
        self, resource: Resource, *, namespace: str | None = None, label_selector: str | None = None
    ) -> CompactList:
        """As `list`, compact."""
        await self._count("list", resource)
        found = self._select(resource, namespace, label_selector)
        return CompactList([stored.object for stored in found], str(self.store.revision))

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str | None = None,
        timeout_s: float = 300.0,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Changes after `resource_version`. WatchExpiredError when compacted."""
        changes = self._changes(resource, parse_revision(resource_version), timeout_s)
        scope = _Scope(namespace, build_matcher(label_selector))
        async with aclosing(changes):
            async for change in changes:
                if isinstance(change, int):
                    yield WatchEvent("BOOKMARK", _bookmark(resource, change))
                elif event := scope.event(change):
                    yield WatchEvent(event.type, change.stored.to_dict())

    async def watch_compact(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str | None = None,
        timeout_s: float = 300.0,
    ) -> AsyncGenerator[ObjectEvent, None]:
        """As `watch`, compact."""
        changes = self._changes(resource, parse_revision(resource_version), timeout_s)
        scope = _Scope(namespace, build_matcher(label_selector))
        async with aclosing(changes):
            async for change in changes:
                if isinstance(change, int):
                    yield ObjectEvent("BOOKMARK", Object(metadata=Meta(resource_version=str(change))))
                elif event := scope.event(change):
                    yield event

    async def create(self, resource: Resource, obj: Mapping[str, Any]) -> dict[str, Any]:
        """POST; ConflictError (AlreadyExists) when the name is taken."""
        await self._count("create", resource)
        namespace, name = object_key(resource, obj)
        if self.store.find(resource, _key(resource, namespace, name)):
            raise ConflictError(f'{resource.plural} "{name}" already exists', reason="AlreadyExists")
        new = _intent(resource, obj, None)
        if resource.kind in _STATUS_AT_CREATE and "status" in obj:
            new["status"] = obj["status"]
        return self.store.insert(resource, new, {self._update_manager(None): build_fields(new)}).to_dict()

    async def apply(
        self,
        resource: Resource,
        obj: Mapping[str, Any],
        *,
        subresource: str | None = None,
        force: bool = True,
        manager: str | None = None,
    ) -> dict[str, Any]:
        """Server-side apply: sets what `obj` has, removes what this manager applied before and no longer has."""
        await self._count("apply", resource, subresource)
        namespace, name = object_key(resource, obj)
        live = self.store.find(resource, _key(resource, namespace, name))
        _check_preconditions(resource, name, obj.get("metadata") or {}, live)
        intent = _intent(resource, obj, subresource)
        mine: Manager = (manager or self._manager, "Apply", subresource or "")
        if live is None:
            if subresource:
                raise NotFoundError(f'{resource.plural} "{name}" not found')
            return self.store.insert(resource, intent, {mine: build_fields(intent)}).to_dict()
        merged, managers = _apply(live, intent, mine, force=force)
        _check_finalizers(resource, name, live.object, merged)
        return self.store.update(resource, merged, managers, live).to_dict()

    async def dry_run(self, resource: Resource, obj: Mapping[str, Any], *, manager: str) -> dict[str, Any]:
        """As `apply` by that manager, on a copy."""
        await self._count("get", resource)
        namespace, name = object_key(resource, obj)
        live = self.store.find(resource, _key(resource, namespace, name))
        intent = _intent(resource, obj, None)
        if live is None:
            return intent
        return _apply(live, intent, (manager, "Apply", ""), force=True)[0]

    async def merge_patch(
        self, resource: Resource, name: str, namespace: str | None, patch: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """JSON merge patch (RFC 7386); None when the object is gone."""
        await self._count("patch", resource)
        live = self.store.find(resource, _key(resource, namespace, name))
        if live is None:
            return None
        _check_preconditions(resource, name, patch.get("metadata") or {}, live)
        before = live.to_dict()
        after = _patch(before, patch)
        after["metadata"] |= {key: before["metadata"][key] for key in _KEPT_META if key in before["metadata"]}
        if resource.kind in _WITH_STATUS:
            after.pop("status", None)
            after |= {"status": before["status"]} if "status" in before else {}
        _check_finalizers(resource, name, live.object, after)
        managers = _updated_managers(live, before, after, self._update_manager(None))
        return self.store.update(resource, after, managers, live).to_dict()

    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, *, uid: str | None = None
    ) -> bool:
        """Delete, or wait for finalizers; False when there is nothing."""
        await self._count("delete", resource)
        live = self.store.find(resource, _key(resource, namespace, name))
        if live is None:
            return False
        if uid is not None:
            _check_preconditions(resource, name, {"uid": uid}, live)
        self.store.mark_deleted(resource, live)
        return True

    async def evict(self, pod: str, namespace: str, *, uid: str | None = None) -> bool:
        """Delete the pod if its PodDisruptionBudget allows it, and spend the budget; False when there is nothing."""
        await self._count("create", POD, "eviction")
        live = self.store.find(POD, (namespace, pod))
        if live is None:
            return False
        if uid is not None:
            _check_preconditions(POD, pod, {"uid": uid}, live)
        spend_budget(self.store, live)
        self.store.mark_deleted(POD, live)
        return True

    async def request_token(self, account: str, namespace: str, *, lifetime_s: int) -> str:
        """A token that says whose it is; nothing here checks one."""
        await self._count("CREATE", SERVICE_ACCOUNT, "token")
        if await self.get(SERVICE_ACCOUNT, account, namespace) is None:
            raise NotFoundError(f'serviceaccounts "{account}" not found')
        return f"token-of-{namespace}-{account}-for-{lifetime_s}-s"

    async def get_raw(self, path: str) -> tuple[int, str]:
        """The answer that `raw` holds for the path; 404 for others."""
        self.requests["get", path] += 1
        await asyncio.sleep(0)
        plain = path.partition("?")[0]
        if plain in self.raw or not plain.startswith(("/api/", "/apis/")):
            return self.raw.get(plain, (404, "not found"))
        return answer_discovery(plain, [stored.to_dict() for stored in self.store.scan(CRD)])

    async def upload(self, path: str, source: Path, *, sha256: str, timeout_s: float) -> tuple[int, str]:  # noqa: ARG002
        """An API server takes no files: 404."""
        self.requests["put", path] += 1
        await asyncio.sleep(0)
        return 404, "not found"

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
        """What `exec_handler` answers; refused without one, as for a pod that no kubelet runs."""
        call = ExecCall(pod, namespace, container, tuple(command), stdin)
        try:
            async with asyncio.timeout(timeout_s):
                result = await self._exec(call)
        except TimeoutError as error:
            raise UnreachableError(f"{call.what}: the command did not end within {timeout_s:g} s") from error
        if len(result.stdout) + len(result.stderr) > limit_bytes:
            raise build_too_large(call.what, limit_bytes)
        return result

    async def exec_stream(
        self,
        pod: str,
        namespace: str,
        *,
        container: str,
        command: Sequence[str],
        silence_s: float = 60.0,  # noqa: ARG002 - the Protocol's
    ) -> AsyncGenerator[bytes, None]:
        """As `exec`, in pieces."""
        call = ExecCall(pod, namespace, container, tuple(command))
        result = await self._exec(call)
        for start in range(0, len(result.stdout), _EXEC_PIECE):
            await asyncio.sleep(0)
            yield result.stdout[start : start + _EXEC_PIECE]
        require_success(result, call.what)

    async def close(self) -> None:
        """Nothing to free; other clients of the same store go on."""

    async def _exec(self, call: ExecCall) -> ExecResult:
        await self._count("exec", POD, "exec")
        stored = self.store.find(POD, _key(POD, call.namespace, call.pod))
        if stored is None:
            raise NotFoundError(f'{call.what}: pods "{call.pod}" not found')
        containers = stored.to_dict()["spec"]["containers"]
        if call.container not in [container["name"] for container in containers]:
            message = f"{call.what}: container {call.container} is not valid for pod {call.pod}"
            raise ApiStatusError(400, message, reason="BadRequest")
        if self.exec_handler is None:
            raise ApiStatusError(400, f"{call.what}: pod {call.pod} does not have a host assigned", reason="BadRequest")
        return await self.exec_handler(call)

    async def _count(self, verb: str, resource: Resource, subresource: str | None = None) -> None:
        self.requests[verb, f"{resource.plural}/{subresource}" if subresource else resource.plural] += 1
        await asyncio.sleep(0)  # a real call lets others run, and so find races

    def _update_manager(self, subresource: str | None) -> Manager:
        return self._manager, "Update", subresource or ""

    def _select(self, resource: Resource, namespace: str | None, selector: str | None) -> _Selected:
        scope = _Scope(namespace, build_matcher(selector))
        return [stored for stored in self.store.scan(resource) if scope.holds(stored.object)]

    async def _changes(self, resource: Resource, revision: int, timeout_s: float) -> AsyncGenerator[Change | int, None]:
        """Changes, and a revision (int) where an API server would send a bookmark."""
        await self._count("watch", resource)
        queue = self.store.subscribe(resource, revision)
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        try:
            while (left := end - loop.time()) > 0:
                try:
                    async with asyncio.timeout(min(left, self._bookmark_s)):
                        change = await queue.get()
                except TimeoutError:
                    yield self.store.revision
                    continue
                if change is None:
                    raise UnreachableError(f"watch {resource.plural}: the connection was reset")
                yield change
        finally:
            self.store.unsubscribe(resource, queue)


class _Scope:
    """What a list or watch covers. A change of labels that leaves the scope is a deletion for the watcher."""

    def __init__(self, namespace: str | None, matches: Matcher) -> None:
        self._namespace = namespace
        self._matches = matches

    def holds(self, obj: Object) -> bool:
        inside = self._namespace is None or obj.metadata.namespace == self._namespace
        return inside and self._matches(obj.metadata.labels or {})

    def event(self, change: Change) -> ObjectEvent | None:
        now = change.stored.object
        was_in = change.before is not None and self.holds(change.before)
        if change.type == "DELETED":
            return ObjectEvent("DELETED", now) if was_in else None
        if not self.holds(now):
            return ObjectEvent("DELETED", now) if was_in else None
        return ObjectEvent("MODIFIED" if was_in else "ADDED", now)


def _key(resource: Resource, namespace: str | None, name: str) -> tuple[str, str]:
    return (namespace or "") if resource.namespaced else "", name


def _bookmark(resource: Resource, revision: int) -> dict[str, Any]:
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"resourceVersion": str(revision)},
    }


def _check_preconditions(resource: Resource, name: str, meta: Mapping[str, Any], live: Stored | None) -> None:
    """ConflictError when `meta` names a uid or revision that the live object does not have."""
    for field in ("uid", "resourceVersion"):
        wanted = meta.get(field)
        found = read_field(live.to_dict(), ("metadata", field)) if live else None
        if wanted and wanted != found:
            raise ConflictError(f'{resource.plural} "{name}": precondition failed: {field} is {found}, not {wanted}')


def _check_finalizers(resource: Resource, name: str, live: Object, after: Mapping[str, Any]) -> None:
    added = set(after["metadata"].get("finalizers") or ()) - set(live.metadata.finalizers)
    if live.metadata.deletion_timestamp and added:
        message = f'{resource.plural} "{name}": metadata.finalizers: no new finalizers can be added while it is deleted'
        raise ApiStatusError(422, message, reason="Invalid")


def _intent(resource: Resource, obj: Mapping[str, Any], subresource: str | None) -> dict[str, Any]:
    """What of `obj` a write to the object (or its status) may set."""
    meta = {key: value for key, value in (obj.get("metadata") or {}).items() if key not in _SERVER_META}
    identity = {"apiVersion": resource.api_version, "kind": resource.kind}
    if subresource:
        meta = {key: meta[key] for key in ("name", "namespace") if key in meta}
        return {**identity, "metadata": meta, **({"status": obj["status"]} if "status" in obj else {})}
    body = {key: value for key, value in obj.items() if key not in {"metadata", "stringData"}}
    if resource.kind in _WITH_STATUS:
        body.pop("status", None)
    if text := obj.get("stringData"):
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in text.items()}
        body["data"] = {**(obj.get("data") or {}), **encoded}
    return {**body, **identity, "metadata": meta}


def _apply(
    live: Stored, intent: dict[str, Any], mine: Manager, *, force: bool
) -> tuple[dict[str, Any], dict[Manager, Fields]]:
    before = live.to_dict()
    wanted = build_fields(intent)
    others = {manager: fields for manager, fields in live.managers.items() if manager != mine}
    conflicts = frozenset(
        path
        for fields in others.values()
        for path in fields & wanted
        if read_field(before, path) != read_field(intent, path)
    )
    if conflicts and not force:
        raise ConflictError(f"Apply failed with {len(conflicts)} conflict(s) with other field managers")
    kept = {manager: left for manager, fields in others.items() if (left := fields - conflicts)}
    owned = wanted.union(*kept.values())
    gone = [path for path in live.managers.get(mine, frozenset()) if not _covered(path, owned)]
    # Once more, for containers that the intent has empty and the removal dropped.
    merged = merge(remove_fields(merge(before, intent), gone), intent)
    return merged, {**kept, mine: wanted}


def _covered(path: tuple[Any, ...], owned: Fields) -> bool:
    """True when somebody owns the path or something below it (an empty map that has been filled since)."""
    return path in owned or any(other[: len(path)] == path for other in owned)


def _updated_managers(
    live: Stored, before: Mapping[str, Any], after: Mapping[str, Any], mine: Manager
) -> dict[Manager, Fields]:
    """Who owns what after a plain update: the writer what it changed, nobody what is gone."""
    existing = build_fields(after)
    changed = changed_fields(before, after)
    managers = {manager: fields & existing - changed for manager, fields in live.managers.items()}
    managers[mine] = managers.get(mine, frozenset()) | changed
    return {manager: fields for manager, fields in managers.items() if fields}


def _patch(target: Any, patch: Any) -> Any:  # noqa: ANN401 - any JSON value
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _patch(result.get(key), value)
    return result
