from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from capn.api.resources import NESTED_CLUSTER
from capn.build.kubeconfig import ChildCredentials
from capn.errors import InvalidSpecError, NotFoundError, UnreachableError
from capn.kube.memory import MemoryKubeClient
from capn.tree.hops import Step, choose_way, look, parse_path, reach


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("a", [Step("default", "a")]),
        ("a/b/c", [Step("default", "a"), Step("default", "b"), Step("default", "c")]),
        ("team:a/b", [Step("team", "a"), Step("default", "b")]),
    ],
)
def test_paths(text: str, steps: list[Step]) -> None:
    assert parse_path(text) == steps


@pytest.mark.parametrize("text", ["", "/", "a//b", "a/", ":a", "team:", "a:b:c"])
def test_what_is_no_path_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(InvalidSpecError, match="NAMESPACE:NAME"):
        parse_path(text)


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


async def test_the_endpoint_is_taken_where_it_answers_else_the_gate_else_both_are_named() -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    open_port, shut = server.sockets[0].getsockname()[1], closed_port()

    def credentials(port: int) -> ChildCredentials:
        return ChildCredentials(f"https://127.0.0.1:{port}", b"ca", b"cert", b"key")

    def cluster(port: int) -> dict[str, Any]:
        return {"status": {"access": {"host": "127.0.0.1", "port": port, "serverName": "u.gate.capn.dev"}}}

    assert await choose_way(credentials(open_port), cluster(shut), where="n/a") == credentials(open_port)
    by_gate = await choose_way(credentials(shut), cluster(open_port), where="n/a")
    assert (by_gate.server, by_gate.server_name) == (f"https://127.0.0.1:{open_port}", "u.gate.capn.dev")
    with pytest.raises(UnreachableError, match=rf"n/a cannot be reached.*127\.0\.0\.1:{shut} .*127\.0\.0\.1:{shut}"):
        await choose_way(credentials(shut), cluster(shut), where="n/a")
    with pytest.raises(UnreachableError, match="n/a cannot be reached"):
        await choose_way(credentials(shut), {}, where="n/a")
    server.close()


async def test_the_level_that_lacks_it_is_named() -> None:
    client = MemoryKubeClient()
    for walk in (reach, look):
        with pytest.raises(NotFoundError, match="this cluster has no NestedCluster default/a"):
            await walk(client, parse_path("a/b"))
    made = {"metadata": {"name": "a", "namespace": "default"}, "spec": {"version": "v1.37.2"}}
    await client.create(NESTED_CLUSTER, made)
    with pytest.raises(NotFoundError, match="no kubeconfig for default/a in this cluster"):
        await reach(client, parse_path("a/b"))
    # Where the path breaks is what there is to explain.
    seen = await look(client, parse_path("a/b"))
    assert seen.cluster["metadata"]["name"] == "a"
