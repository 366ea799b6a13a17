"""`HttpKubeClient`: the verbs of `KubeClient` over a real API server.

Role: builds paths and bodies, maps answers to objects and errors, bounds every call by `timeout_s`. JSON by msgspec;
list and watch decode straight into `Object` for informers. Made by `capn.kube.connect` and `capn.kube.child`.
Must not: know capn's kinds, or load credentials.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from capn import names
from capn.api.resources import POD, SERVICE_ACCOUNT, Resource
from capn.errors import ApiStatusError, ConflictError, NotFoundError, UnreachableError
from capn.kube.client import EXEC_BYTES, ExecResult, ObjectList, WatchEvent
from capn.kube.decode import (
    CompactList,
    ListMeta,
    Object,
    ObjectEvent,
    RawEvent,
    RawList,
    decode_dict,
    decode_object,
    encode,
)
from capn.kube.errors import Status, WatchExpiredError, build_error, decode_status
from capn.kube.exec import ExecCall, collect_exec, open_exec, stream_exec
from capn.kube.paths import build_path, build_query, object_key
from capn.kube.retry import retry_blips
from capn.kube.transport import Answer, Transport, read_capped, read_lines

T = TypeVar("T")
RawItems = list[msgspec.Raw]
Observer = Callable[[str, str], None]
"""Told (method, code) after each request; code is `<error>` when there was no answer."""

JSON = "application/json"
APPLY = "application/apply-patch+yaml"  # every JSON document is YAML
MERGE = "application/merge-patch+json"
CHUNK = "500"
# The API server sends a bookmark about every minute; after two of them missing, the stream is dead.
WATCH_SILENCE_S = 130.0
WATCH_SLACK_S = 15.0

_RAW_LIST = msgspec.json.Decoder(RawList)
_RAW_EVENT = msgspec.json.Decoder(RawEvent)
_EVENT_TYPES = frozenset({"ADDED", "MODIFIED", "DELETED", "BOOKMARK"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """One call. `what` names it in errors; not `idempotent`: it is not sent again when it may have happened."""

    method: str
    path: str
    what: str
    limit: int
    body: bytes | None = None
    content_type: str | None = None
    idempotent: bool = True


class HttpKubeClient:
    """`KubeClient` and `CompactReader` over HTTP. `timeout_s` bounds a call with all its retries."""

    def __init__(
        self,
        transport: Transport,
        *,
        timeout_s: float = 30.0,
        on_request: Observer | None = None,
        field_manager: str = names.FIELD_MANAGER,
    ) -> None:
        self._transport = transport
        self._limits = transport.limits
        self._timeout_s = timeout_s
        self.on_request = on_request
        self._write = {"fieldManager": field_manager, "fieldValidation": "Strict"}

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """The object, or None when there is none."""
        path = build_path(resource, namespace=namespace, name=name)
        try:
            return await self._object(self._request("GET", path, what=f"get {resource.plural} {name}"))
        except NotFoundError:
            return None

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> ObjectList:
        """All objects, fetched in chunks that show one revision."""
        raw, revision = await self._list(
            resource, namespace, labelSelector=label_selector, fieldSelector=field_selector
        )
        items = [_dict(item, f"list {resource.plural}") for item in raw]
        for item in items:  # items of built-in kinds lack both
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        return ObjectList(items, revision)

    async def list_compact(
        self, resource: Resource, *, namespace: str | None = None, label_selector: str | None = None
    ) -> CompactList:
        """As `list`, decoded straight into compact objects."""
        raw, revision = await self._list(resource, namespace, labelSelector=label_selector)
        return CompactList([_compact(item, resource) for item in raw], revision)

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str | None = None,
        timeout_s: float = 300.0,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Changes after `resource_version`. WatchExpiredError when that revision is gone."""
        path = _watch_path(resource, namespace, label_selector, resource_version, timeout_s)
        async with aclosing(self._events(path, f"watch {resource.plural}", timeout_s)) as events:
            async for event in events:
                yield WatchEvent(event.type, _dict(event.object, f"watch {resource.plural}"))  # type: ignore[arg-type]  # checked in _events

    async def watch_compact(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str | None = None,
        timeout_s: float = 300.0,
    ) -> AsyncGenerator[ObjectEvent, None]:
        """As `watch`, decoded straight into compact objects."""
        path = _watch_path(resource, namespace, label_selector, resource_version, timeout_s)
        async with aclosing(self._events(path, f"watch {resource.plural}", timeout_s)) as events:
            async for event in events:
                yield ObjectEvent(event.type, _compact(event.object, resource))  # type: ignore[arg-type]  # as above

    async def create(self, resource: Resource, obj: Mapping[str, Any]) -> dict[str, Any]:
        """POST; never sent twice unless the server said that it did nothing."""
        namespace, name = object_key(resource, obj)
        path = build_path(resource, namespace=namespace) + build_query(self._write)
        what = f"create {resource.plural} {name}"
        return await self._object(
            self._request("POST", path, what=what, body=_typed(resource, obj), content_type=JSON, idempotent=False)
        )

    async def apply(
        self,
        resource: Resource,
        obj: Mapping[str, Any],
        *,
        subresource: str | None = None,
        force: bool = True,
        manager: str | None = None,
    ) -> dict[str, Any]:
        """Server-side apply as field manager `capn`, or as `manager`."""
        namespace, name = object_key(resource, obj)
        path = build_path(resource, namespace=namespace, name=name, subresource=subresource)
        path += build_query(
            {**self._write, "fieldManager": manager or self._write["fieldManager"], "force": str(force).lower()}
        )
        what = f"apply {resource.plural} {name}"
        uid = (obj.get("metadata") or {}).get("uid")
        request = self._request("PATCH", path, what=what, body=_typed(resource, obj), content_type=APPLY)
        try:
            answer = await self._object(request)
        except ApiStatusError as error:
            if uid and error.code == HTTPStatus.UNPROCESSABLE_ENTITY and "metadata.uid" in str(error):
                raise _other_uid(what) from error  # what the server says of another live object
            raise
        if uid and answer["metadata"].get("uid") != uid:
            # The status of a custom resource is written whatever uid the body has: too late to prevent, told at least.
            raise _other_uid(what)
        return answer

    async def dry_run(self, resource: Resource, obj: Mapping[str, Any], *, manager: str) -> dict[str, Any]:
        """Server-side apply with dryRun=All."""
        namespace, name = object_key(resource, obj)
        path = build_path(resource, namespace=namespace, name=name)
        path += build_query({**self._write, "fieldManager": manager, "force": "true", "dryRun": "All"})
        what = f"dry run of {resource.plural} {name}"
        return await self._object(
            self._request("PATCH", path, what=what, body=_typed(resource, obj), content_type=APPLY)
        )

    async def merge_patch(
        self, resource: Resource, name: str, namespace: str | None, patch: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """JSON merge patch; None when the object is gone."""
        path = build_path(resource, namespace=namespace, name=name) + build_query(self._write)
        what = f"patch {resource.plural} {name}"
        try:
            return await self._object(self._request("PATCH", path, what=what, body=encode(patch), content_type=MERGE))
        except NotFoundError:
            return None

    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, *, uid: str | None = None
    ) -> bool:
        """DELETE in the background; False when there was nothing."""
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        path = build_path(resource, namespace=namespace, name=name)
        what = f"delete {resource.plural} {name}"
        try:
            await self._call(self._request("DELETE", path, what=what, body=encode(options), content_type=JSON))
        except NotFoundError:
            return False
        return True

    async def evict(self, pod: str, namespace: str, *, uid: str | None = None) -> bool:
        """POST of an Eviction. Sent again after a lost answer: a pod that is on its way is evicted at no cost."""
        eviction: dict[str, Any] = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
        }
        if uid is not None:
            eviction["deleteOptions"] = {"preconditions": {"uid": uid}}
        path = build_path(POD, namespace=namespace, name=pod, subresource="eviction")
        what = f"evict pod {namespace}/{pod}"
        try:
            await self._call(self._request("POST", path, what=what, body=encode(eviction), content_type=JSON))
        except NotFoundError:
            return False
        return True

    async def request_token(self, account: str, namespace: str, *, lifetime_s: int) -> str:
        """A token of a ServiceAccount, by the TokenRequest API."""
        path = build_path(SERVICE_ACCOUNT, namespace=namespace, name=account, subresource="token")
        wanted = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": lifetime_s},
        }
        what = f"a token of serviceaccount {account}"
        request = self._request("POST", path, what=what, body=encode(wanted), content_type=JSON, idempotent=False)
        return str((await self._object(request))["status"]["token"])

    async def get_raw(self, path: str) -> tuple[int, str]:
        """GET of a path of your own, such as `/readyz`: (status, body)."""
        request = _Request(method="GET", path=path, what=f"GET {path}", limit=self._limits.raw_bytes)
        answer = await self._timed(request, lambda: self._send(request))
        return answer.status, answer.body.decode("utf-8", "replace")

    async def upload(self, path: str, source: Path, *, sha256: str, timeout_s: float) -> tuple[int, str]:
        """PUT of a file, streamed from the disk."""
        what = f"PUT {path}"
        try:
            async with asyncio.timeout(timeout_s):
                with await asyncio.to_thread(source.open, "rb") as file:
                    answer = await self._transport.send(
                        "PUT",
                        path,
                        limit=self._limits.raw_bytes,
                        body=file,
                        content_type="application/octet-stream",
                        headers={"X-Capn-SHA256": sha256},
                    )
        except TimeoutError as error:
            raise UnreachableError(f"{what}: no answer within {timeout_s:g} s") from error
        self._observe("PUT", str(answer.status))
        return answer.status, answer.body.decode("utf-8", "replace")

    async def follow_log(
        self, pod: str, namespace: str, *, container: str, tail_lines: int, silence_s: float = 600.0
    ) -> AsyncGenerator[bytes, None]:
        """The last lines of a container's log and then what is added, in chunks, until the container ends."""
        path = build_path(POD, namespace=namespace, name=pod, subresource="log")
        path += build_query({"container": container, "follow": "true", "tailLines": str(tail_lines)})
        what = f"log of pod {pod}"
        async with self._transport.stream(path, silence_s=silence_s) as response:
            self._observe("WATCH", str(response.status))
            if response.status != HTTPStatus.OK:
                body = await read_capped(response, self._limits.raw_bytes)
                raise build_error(response.status, decode_status(body), what=what)
            async for chunk in response.content.iter_any():
                yield chunk

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
        """Run a command in a container to its end; never sent twice."""
        call = ExecCall(pod, namespace, container, tuple(command), stdin)
        try:
            async with asyncio.timeout(timeout_s):
                return await collect_exec(self._exec(call, timeout_s), call, limit=limit_bytes)
        except TimeoutError as error:
            raise UnreachableError(f"{call.what}: the command did not end within {timeout_s:g} s") from error

    def exec_stream(
        self, pod: str, namespace: str, *, container: str, command: Sequence[str], silence_s: float = 60.0
    ) -> AsyncGenerator[bytes, None]:
        """What a command writes, as it comes; CommandFailedError at its end when it failed."""
        call = ExecCall(pod, namespace, container, tuple(command))
        return stream_exec(self._exec(call, silence_s), call)

    async def close(self) -> None:
        """End all connections."""
        await self._transport.close()

    def _exec(self, call: ExecCall, silence_s: float) -> AsyncGenerator[tuple[int, bytes], None]:
        self._observe("EXEC", "101")
        return open_exec(self._transport, call, open_s=self._timeout_s, silence_s=silence_s)

    async def _list(self, resource: Resource, namespace: str | None, **selectors: str | None) -> tuple[RawItems, str]:
        items: RawItems = []
        budget = self._limits.list_bytes
        params: dict[str, str | None] = {**selectors, "limit": CHUNK}
        what = f"list {resource.plural}"
        while True:
            path = build_path(resource, namespace=namespace) + build_query(params)
            try:
                answer = await self._call(_Request(method="GET", path=path, what=what, limit=budget))
            except WatchExpiredError:
                if "continue" not in params:
                    raise
                # The chunks' revision was compacted under us: all at once needs no cursor.
                items, budget, params = [], self._limits.list_bytes, dict(selectors)
                continue
            chunk = _decode(_RAW_LIST, answer.body, what)
            items += chunk.items or []
            budget -= len(answer.body)
            meta: ListMeta = chunk.metadata
            if not meta.cursor:
                return items, meta.resource_version
            params["continue"] = meta.cursor

    async def _events(self, path: str, what: str, timeout_s: float) -> AsyncGenerator[RawEvent, None]:
        silence_s = min(timeout_s + WATCH_SLACK_S, WATCH_SILENCE_S)
        async with self._transport.stream(path, silence_s=silence_s) as response:
            self._observe("WATCH", str(response.status))
            if response.status != HTTPStatus.OK:
                body = await read_capped(response, self._limits.raw_bytes)
                raise build_error(response.status, decode_status(body), what=what)
            async with aclosing(read_lines(response, self._limits.object_bytes)) as lines:
                async for line in lines:
                    yield _checked(_decode(_RAW_EVENT, line, what), what)

    def _request(self, method: str, path: str, **rest: Any) -> _Request:  # noqa: ANN401 - the dataclass types them
        return _Request(method=method, path=path, limit=self._limits.object_bytes, **rest)

    async def _object(self, request: _Request) -> dict[str, Any]:
        answer = await self._call(request)
        return _dict(answer.body, request.what)

    async def _call(self, request: _Request) -> Answer:
        async def once() -> Answer:
            answer = await self._send(request)
            if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
                status = decode_status(answer.body)
                raise build_error(answer.status, status, what=request.what, retry_after_s=answer.retry_after_s)
            return answer

        return await self._timed(request, lambda: retry_blips(once, idempotent=request.idempotent))

    async def _timed(self, request: _Request, call: Callable[[], Awaitable[Answer]]) -> Answer:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call()
        except TimeoutError as error:
            raise UnreachableError(f"{request.what}: no answer within {self._timeout_s:g} s") from error

    async def _send(self, request: _Request) -> Answer:
        try:
            answer = await self._transport.send(
                request.method, request.path, limit=request.limit, body=request.body, content_type=request.content_type
            )
        except UnreachableError:
            self._observe(request.method, "<error>")
            raise
        self._observe(request.method, str(answer.status))
        return answer

    def _observe(self, method: str, code: str) -> None:
        if self.on_request is not None:
            self.on_request(method, code)


def _watch_path(
    resource: Resource, namespace: str | None, label_selector: str | None, revision: str, timeout_s: float
) -> str:
    query = {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": revision,
        "labelSelector": label_selector,
        "timeoutSeconds": str(max(1, int(timeout_s))),
    }
    return build_path(resource, namespace=namespace) + build_query(query)


def _typed(resource: Resource, obj: Mapping[str, Any]) -> bytes:
    """The body of a write: what the caller gave, with the kind that the path says."""
    return encode({**obj, "apiVersion": resource.api_version, "kind": resource.kind})


def _checked(event: RawEvent, what: str) -> RawEvent:
    if event.type in _EVENT_TYPES:
        return event
    status = decode_status(bytes(event.object)) if event.type == "ERROR" else Status(message=event.type)
    raise build_error(status.code or HTTPStatus.INTERNAL_SERVER_ERROR, status, what=what)


def _compact(data: msgspec.Raw, resource: Resource) -> Object:
    try:
        return decode_object(data, resource)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _bad_answer(resource.plural, error) from error


def _dict(data: bytes | msgspec.Raw, what: str) -> dict[str, Any]:
    try:
        return decode_dict(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _bad_answer(what, error) from error


def _decode(decoder: msgspec.json.Decoder[T], data: bytes, what: str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _bad_answer(what, error) from error


def _other_uid(what: str) -> ConflictError:
    return ConflictError(f"{what}: the object of that name is another one now")


def _bad_answer(what: str, error: Exception) -> ApiStatusError:
    message = f"{what}: the answer is not what an API server sends: {error}"
    return ApiStatusError(HTTPStatus.BAD_GATEWAY, message, reason="BadAnswer")
