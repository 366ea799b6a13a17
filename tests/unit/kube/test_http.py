"""The HTTP client against servers that misbehave: every failure is an error of the tree, in bounded time and memory."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import aclosing
from typing import Any

import pytest
from aiohttp import web

from capn.api.resources import CONFIG_MAP, NODE
from capn.errors import ApiStatusError, ConflictError, NotFoundError, UnreachableError
from capn.kube.errors import DisruptionBudgetError, OverloadedError, WatchExpiredError
from capn.kube.http import HttpKubeClient
from capn.kube.transport import Limits
from tests.unit.kube.api_server import Scripted, answers, drops, streams

MAP: dict[str, Any] = {"metadata": {"name": "a", "namespace": "ns"}}


def ok(**fields: Any) -> web.Response:
    return web.json_response({"kind": "ConfigMap", "metadata": {"name": "a"}, **fields})


def status(code: int, message: str = "no", reason: str = "Why", **headers: str) -> web.Response:
    return web.json_response({"kind": "Status", "message": message, "reason": reason}, status=code, headers=headers)


async def test_what_is_sent() -> None:
    server = Scripted(answers(ok))
    async with server.client() as client:
        await client.apply(CONFIG_MAP, MAP, subresource="status", force=False)
        await client.create(CONFIG_MAP, MAP)
        await client.delete(NODE, "n/1", uid="u1")
    apply, create, delete = server.requests
    assert apply.method == "PATCH"
    assert apply.path == "/api/v1/namespaces/ns/configmaps/a/status"
    assert dict(apply.query) == {"fieldManager": "capn", "fieldValidation": "Strict", "force": "false"}
    assert apply.headers["Content-Type"] == "application/apply-patch+yaml"
    assert apply.headers["Accept-Encoding"] == "identity"
    assert json.loads(server.bodies[0]) == {**MAP, "apiVersion": "v1", "kind": "ConfigMap"}
    assert (create.method, create.path) == ("POST", "/api/v1/namespaces/ns/configmaps")
    assert delete.rel_url.raw_path == "/api/v1/nodes/n%2F1"
    assert json.loads(server.bodies[2])["preconditions"] == {"uid": "u1"}
    assert server.codes == [("PATCH", "200"), ("POST", "200"), ("DELETE", "200")]


@pytest.mark.parametrize(
    ("code", "expected"),
    [(404, NotFoundError), (409, ConflictError), (500, ApiStatusError), (403, ApiStatusError), (302, ApiStatusError)],
)
async def test_refusals(code: int, expected: type[Exception]) -> None:
    server = Scripted(answers(lambda: status(code, "since \x1b[31mwe\nsay so")))
    async with server.client() as client:
        with pytest.raises(expected) as caught:
            await client.apply(CONFIG_MAP, MAP)
    assert str(caught.value) == "apply configmaps a: since  [31mwe say so"
    assert len(server.requests) == 1


async def test_a_redirect_is_not_followed() -> None:
    server = Scripted(answers(lambda: web.Response(status=307, headers={"Location": "/elsewhere"})))
    async with server.client() as client:
        with pytest.raises(ApiStatusError, match="HTTP 307"):
            await client.get(CONFIG_MAP, "a", "ns")
        assert (await client.get_raw("/readyz"))[0] == 307
    assert {request.path for request in server.requests} == {"/api/v1/namespaces/ns/configmaps/a", "/readyz"}


async def test_a_namespace_on_its_way_out_is_told_from_missing_rights() -> None:
    body = {"message": "x", "reason": "Forbidden", "details": {"causes": [{"reason": "NamespaceTerminating"}]}}
    server = Scripted(answers(lambda: web.json_response(body, status=403)))
    async with server.client() as client:
        with pytest.raises(ApiStatusError) as caught:
            await client.create(CONFIG_MAP, MAP)
    assert caught.value.reason == "NamespaceTerminating"


@pytest.mark.parametrize("code", [429, 503])
async def test_overload_is_waited_out(code: int) -> None:
    server = Scripted(answers(lambda: status(code, **{"Retry-After": "0"}), lambda: status(code), ok))
    async with server.client() as client:
        await client.apply(CONFIG_MAP, MAP)
    assert len(server.requests) == 3


async def test_overload_that_lasts_is_told_with_the_servers_wish() -> None:
    server = Scripted(answers(lambda: status(429, **{"Retry-After": "0"})))
    async with server.client() as client:
        with pytest.raises(OverloadedError) as caught:
            await client.get(CONFIG_MAP, "a", "ns")
    assert caught.value.retry_after_s == 0
    assert len(server.requests) == 3


async def test_the_wish_cannot_exceed_the_calls_time() -> None:
    server = Scripted(answers(lambda: status(429, **{"Retry-After": "9999"}), ok))
    async with server.client(timeout_s=0.3) as client:
        with pytest.raises(UnreachableError, match=r"no answer within 0\.3 s"):
            await client.get(CONFIG_MAP, "a", "ns")


async def test_a_create_is_not_sent_twice_unless_refused_for_load() -> None:
    server = Scripted(drops())
    async with server.client() as client:
        with pytest.raises(UnreachableError):
            await client.create(CONFIG_MAP, MAP)
        assert len(server.requests) == 1
        server.handler = answers(lambda: status(503))
        with pytest.raises(OverloadedError):
            await client.create(CONFIG_MAP, MAP)
        assert len(server.requests) == 2
        server.handler = answers(lambda: status(429, **{"Retry-After": "0"}), ok)
        await client.create(CONFIG_MAP, MAP)
        assert len(server.requests) == 4


async def test_a_reset_is_tried_again_when_that_is_harmless() -> None:
    server = Scripted(drops())
    async with server.client() as client:
        with pytest.raises(UnreachableError):
            await client.apply(CONFIG_MAP, MAP)
    assert len(server.requests) == 3
    assert server.codes == [("PATCH", "<error>")] * 3


async def test_a_black_hole_ends_in_time() -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(5)
        return ok()

    server = Scripted(hang)
    async with server.client(timeout_s=0.2) as client:
        began = time.monotonic()
        for call in (client.get(CONFIG_MAP, "a", "ns"), client.list(CONFIG_MAP), client.get_raw("/readyz")):
            with pytest.raises(UnreachableError):
                await call
        assert time.monotonic() - began < 3


async def test_nobody_listens_or_the_client_is_closed() -> None:
    server = Scripted(answers(ok))
    async with server.client() as client:
        closed: HttpKubeClient = client
    with pytest.raises(UnreachableError, match="the client is closed"):
        await closed.get(CONFIG_MAP, "a", "ns")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"7", b'{"metadata":', b"[" * 100_000, b'{"items":[1]}'])
async def test_nonsense_is_an_error_of_the_tree(body: bytes) -> None:
    server = Scripted(answers(lambda: web.Response(body=body)))
    async with server.client() as client:
        with pytest.raises(ApiStatusError, match="not what an API server sends"):
            await client.list(CONFIG_MAP)
        with pytest.raises(ApiStatusError):
            await client.list_compact(CONFIG_MAP)
        if not body.startswith(b'{"items'):
            with pytest.raises(ApiStatusError):
                await client.get(CONFIG_MAP, "a", "ns")


async def test_answers_are_capped() -> None:
    server = Scripted(answers(lambda: web.Response(body=b'{"x":"' + b"y" * 5000 + b'"}')))
    async with server.client(limits=Limits(object_bytes=1000, list_bytes=2000, raw_bytes=1000)) as client:
        for call in (client.get(CONFIG_MAP, "a", "ns"), client.list(CONFIG_MAP), client.get_raw("/version")):
            with pytest.raises(UnreachableError, match="longer than"):
                await call


def page(*names: str, cursor: str = "", revision: str = "7") -> web.Response:
    meta = {"resourceVersion": revision, **({"continue": cursor} if cursor else {})}
    return web.json_response({"metadata": meta, "items": [{"metadata": {"name": name}} for name in names]})


async def test_a_list_comes_in_chunks() -> None:
    server = Scripted(answers(lambda: page("a", "b", cursor="next"), lambda: page("c")))
    async with server.client() as client:
        listed = await client.list(CONFIG_MAP, label_selector="x=y")
    assert [item["metadata"]["name"] for item in listed.items] == ["a", "b", "c"]
    assert listed.items[0]["kind"] == "ConfigMap"
    assert listed.resource_version == "7"
    first, second = server.requests
    assert dict(first.query) == {"labelSelector": "x=y", "limit": "500"}
    assert second.query["continue"] == "next"


async def test_chunks_are_capped_together() -> None:
    server = Scripted(answers(lambda: page(*("x" * 50 for _ in range(20)), cursor="next")))
    async with server.client(limits=Limits(list_bytes=5000)) as client:
        with pytest.raises(UnreachableError, match="longer than"):
            await client.list(CONFIG_MAP)
    assert len(server.requests) < 20


async def test_an_expired_cursor_lists_all_at_once() -> None:
    server = Scripted(answers(lambda: page("a", cursor="next"), lambda: status(410), lambda: page("a", "b")))
    async with server.client() as client:
        listed = await client.list(CONFIG_MAP)
    assert [item["metadata"]["name"] for item in listed.items] == ["a", "b"]
    assert dict(server.requests[2].query) == {}


def event(kind: str, name: str = "a", revision: int = 1, **fields: Any) -> bytes:
    obj = {"metadata": {"name": name, "resourceVersion": str(revision)}, **fields}
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


async def follow(client: HttpKubeClient, timeout_s: float = 5.0) -> list[tuple[str, str]]:
    stream = client.watch_compact(CONFIG_MAP, resource_version="1", timeout_s=timeout_s)
    async with aclosing(stream):
        return [(event.type, event.object.metadata.resource_version) async for event in stream]


async def test_watch_lines_may_come_in_any_pieces() -> None:
    whole = b"".join(
        [event("ADDED"), event("MODIFIED", revision=2, data={"x": "y" * 200_000}), event("BOOKMARK", revision=3)]
    )
    for size in (1 << 20, 65_536, 7_001):
        pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
        server = Scripted(streams(*pieces))
        async with server.client() as client:
            assert await follow(client) == [("ADDED", "1"), ("MODIFIED", "2"), ("BOOKMARK", "3")]
        query = server.requests[0].query
        assert query["allowWatchBookmarks"] == "true"
        assert query["timeoutSeconds"] == "5"
        assert query["resourceVersion"] == "1"


@pytest.mark.parametrize("in_stream", [True, False])
async def test_watch_of_an_expired_revision(in_stream: bool) -> None:  # noqa: FBT001 - a parameter
    gone = {"kind": "Status", "code": 410, "message": "too old", "reason": "Expired"}
    line = json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"
    server = Scripted(streams(event("ADDED"), line) if in_stream else answers(lambda: status(410)))
    async with server.client() as client:
        with pytest.raises(WatchExpiredError):
            await follow(client)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"type":"ERROR","object":{"code":500,"message":"etcd"}}\n', ApiStatusError),
        (b'{"type":"STRANGE","object":{}}\n', ApiStatusError),
        (b"nonsense\n", ApiStatusError),
        (b'{"type":"ADDED","object":{"metadata":7}}\n', ApiStatusError),
        (b"x" * 5000, UnreachableError),
    ],
)
async def test_watch_of_nonsense(line: bytes, expected: type[Exception]) -> None:
    server = Scripted(streams(event("ADDED"), line))
    async with server.client(limits=Limits(object_bytes=2000)) as client:
        with pytest.raises(expected):
            await follow(client)


async def test_a_silent_watch_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capn.kube.http.WATCH_SILENCE_S", 0.2)
    server = Scripted(streams(event("ADDED"), hang_s=3))
    async with server.client() as client:
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=r"(?i)time"):
            await follow(client)
        assert time.monotonic() - began < 2


async def test_leaving_a_watch_frees_its_connection() -> None:
    server = Scripted(streams(event("ADDED"), hang_s=3))
    async with server.client() as client:
        stream = client.watch(CONFIG_MAP, resource_version="1", timeout_s=5)
        assert (await anext(stream)).type == "ADDED"
        connector = client._transport.session.connector
        assert connector is not None
        assert len(connector._acquired) == 1
        await stream.aclose()
        assert len(connector._acquired) == 0


async def test_an_eviction_and_its_refusals() -> None:
    blocked = {
        "kind": "Status",
        "reason": "TooManyRequests",
        "message": "Cannot evict pod as it would violate the pod's disruption budget.",
        "details": {"causes": [{"reason": "DisruptionBudget", "message": "The budget\nweb says no"}]},
    }
    server = Scripted(
        answers(
            ok,
            lambda: status(404),
            lambda: web.json_response(blocked, status=429, headers={"Retry-After": "10"}),
            lambda: status(429, "busy", **{"Retry-After": "0"}),
            ok,
        )
    )
    async with server.client() as client:
        assert await client.evict("a", "ns", uid="u1") is True
        assert await client.evict("a", "ns") is False
        with pytest.raises(DisruptionBudgetError) as caught:
            await client.evict("a", "ns")
        assert len(server.requests) == 3, "to ask a budget again at once would not help"
        assert await client.evict("a", "ns") is True
    assert caught.value.budget == "The budget web says no"
    assert [(request.method, request.path) for request in server.requests[:1]] == [
        ("POST", "/api/v1/namespaces/ns/pods/a/eviction")
    ]
    assert json.loads(server.bodies[0]) == {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "a", "namespace": "ns"},
        "deleteOptions": {"preconditions": {"uid": "u1"}},
    }
    assert "deleteOptions" not in json.loads(server.bodies[1])
