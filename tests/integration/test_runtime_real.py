"""The runtime against a real kube-apiserver that dies and comes back: nothing is missed, doubled or written twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from capn.api.resources import CONFIG_MAP, LEASE, NESTED_CLUSTER
from capn.dev import processes
from capn.dev.parent import Parent
from capn.dev.parent_flags import API_SERVER, build_api_server
from capn.kube.client import KubeClient
from capn.kube.connect import connect_kubeconfig
from capn.kube.decode import Object
from capn.kube.http import HttpKubeClient
from capn.runtime.controller import Controller, Key
from capn.runtime.events import EventRecorder
from capn.runtime.guard import LeaseLostError
from capn.runtime.handlers import enqueue_self
from capn.runtime.informer import Informer
from capn.runtime.lease import LeaderElector, LeaseTimes
from capn.runtime.manager import Manager
from capn.runtime.result import Result
from tests.conftest import Kubectl

pytestmark = pytest.mark.timeout(300)


async def until(check: Callable[[], Awaitable[Any] | Any], limit_s: float = 60.0) -> Any:
    async with asyncio.timeout(limit_s):
        while True:
            found = check()
            if found := await found if isinstance(found, Awaitable) else found:
                return found
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running(informer: Informer) -> AsyncIterator[None]:
    task = asyncio.create_task(informer.run())
    try:
        await asyncio.wait_for(informer.wait_synced(), 30)
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def config_map(namespace: str, name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "data": data}


async def kill_api_server(parent: Parent) -> None:
    record = processes.find(parent.layout.run, API_SERVER)
    assert record
    os.kill(record.pid, signal.SIGKILL)
    await until(lambda: API_SERVER not in parent.running())


async def start_api_server(parent: Parent) -> None:
    """On the ports that it had, as a supervisor does."""
    parent._spawn(API_SERVER, build_api_server(parent.binaries, parent.layout, parent._read_ports(), audit=False))
    await parent._wait_ready(API_SERVER)


async def test_an_informer_outlives_its_api_server(binaries: Mapping[str, Path], tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []

    def tell(old: Object | None, new: Object | None) -> None:
        obj = new or old
        assert obj is not None
        if obj.metadata.namespace == "default" and obj.metadata.name != "kube-root-ca.crt":
            told.append(("gone" if new is None else "new" if old is None else "changed", obj.metadata.name))

    async with Parent.start(tmp_path / "parent", binaries, lambda _: None) as parent:
        client = await connect_kubeconfig(parent.kubeconfig)
        informer = Informer(client, CONFIG_MAP)
        informer.add_handler(tell)
        async with running(informer):
            await client.apply(CONFIG_MAP, config_map("default", "stays", k="1"))
            await client.apply(CONFIG_MAP, config_map("default", "goes"))
            await until(lambda: informer.get_object("default", "goes"))
            await kill_api_server(parent)
            await asyncio.sleep(1)
            await start_api_server(parent)
            await client.delete(CONFIG_MAP, "goes", "default")
            await client.apply(CONFIG_MAP, config_map("default", "stays", k="2"))
            await client.apply(CONFIG_MAP, config_map("default", "comes"))
            await until(lambda: informer.get_object("default", "comes") and not informer.get_object("default", "goes"))
            found = informer.get("default", "stays")
            assert found is not None
            assert found["data"] == {"k": "2"}
        await client.close()
    assert sorted(told) == sorted([
        ("new", "stays"), ("new", "goes"), ("gone", "goes"), ("changed", "stays"), ("new", "comes"),
    ])  # fmt: skip


async def test_own_writes_are_in_the_cache_at_once(client: KubeClient, namespace: str) -> None:
    informer = Informer(client, CONFIG_MAP, namespace=namespace)
    async with running(informer):
        for number in range(50):
            answer = await client.apply(CONFIG_MAP, config_map(namespace, "a", k=str(number)))
            informer.note_write(answer)
            found = informer.get(namespace, "a")
            assert found is not None
            assert int(found["metadata"]["resourceVersion"]) >= int(answer["metadata"]["resourceVersion"])
            assert found["data"] == {"k": str(number)}


class PhaseWriter:
    """A reconciler that writes a status and remembers what it wrote."""

    def __init__(self, client: KubeClient, informer: Informer) -> None:
        self.client, self.informer = client, informer
        self.seen = 0

    async def reconcile(self, key: Key) -> Result:
        self.seen += 1
        obj = self.informer.get(*key)
        if obj is None or obj.get("status", {}).get("phase") == "Ready":
            return Result.done()
        meta = {name: obj["metadata"][name] for name in ("name", "namespace", "uid")}
        answer = await self.client.apply(
            NESTED_CLUSTER, {"metadata": meta, "status": {"phase": "Ready"}}, subresource="status"
        )
        self.informer.note_write(answer)
        return Result.done()


async def test_a_manager_converges_and_then_writes_nothing(
    client: HttpKubeClient, namespace: str, crds: list[str]
) -> None:
    assert crds
    requests: list[str] = []
    client.on_request = lambda method, _: requests.append(method)
    informer = Informer(client, NESTED_CLUSTER, namespace=namespace)
    reconciler = PhaseWriter(client, informer)
    controller = Controller("c", reconciler)
    informer.add_handler(enqueue_self(controller.queue))
    elector = LeaderElector(client, namespace=namespace)
    manager = Manager(informers=[informer], controllers=[controller], elector=elector)
    stop = asyncio.Event()
    task = asyncio.create_task(manager.run(stop))
    names = [f"c{number}" for number in range(20)]
    for name in names:
        meta = {"name": name, "namespace": namespace}
        await client.create(NESTED_CLUSTER, {"metadata": meta, "spec": {"version": "v1.37.2"}})
    await until(lambda: all((informer.get(namespace, name) or {}).get("status") for name in names))
    assert reconciler.seen == 20, "our own status writes wake nobody"
    assert elector.valid()
    requests.clear()
    await asyncio.sleep(5)
    assert len(requests) <= 4, f"only the lease is renewed: {requests}"
    stop.set()
    await asyncio.wait_for(task, 30)
    lease = await client.get(LEASE, "capn", namespace)
    assert lease is not None
    assert not lease["spec"].get("holderIdentity")


async def test_a_second_controller_takes_over(client: KubeClient, namespace: str) -> None:
    times = LeaseTimes(duration_s=3.0, renew_s=2.0, retry_s=0.3, stop_s=2.0)
    one, two = (LeaderElector(client, namespace=namespace, times=times) for _ in range(2))

    async def body() -> None:
        await asyncio.Event().wait()

    first, second = asyncio.create_task(one.run(body)), asyncio.create_task(two.run(body))
    leader, follower = (one, two) if await until(lambda: one.valid() or two.valid()) and one.valid() else (two, one)
    leading, following = (first, second) if leader is one else (second, first)
    await asyncio.sleep(4)
    assert leader.valid()
    assert not follower.valid()
    await client.merge_patch(LEASE, "capn", namespace, {"spec": {"holderIdentity": "somebody-else"}})
    with pytest.raises(LeaseLostError):
        await asyncio.wait_for(leading, 30)
    await until(follower.valid)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    lease = await client.get(LEASE, "capn", namespace)
    assert lease is not None
    assert not lease["spec"].get("holderIdentity")


async def test_users_see_events(client: KubeClient, kubectl: Kubectl, namespace: str) -> None:
    owner = await client.create(CONFIG_MAP, config_map(namespace, "a"))
    for _ in range(2):  # the second stands for a restarted controller
        recorder = EventRecorder(client, instance="me")
        task = asyncio.create_task(recorder.run())
        recorder.event(owner, "Warning", "ImageNotFound", "no image for v1.37.2; build one")
        await asyncio.sleep(0)  # it has begun; what waits is written when it ends
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    events = json.loads(
        kubectl("get", "events.events.k8s.io", "-n", namespace, "-o", "json", "--field-selector=regarding.name=a")
    )["items"]
    (event,) = events
    assert event["note"] == "no image for v1.37.2; build one"
    assert event["series"]["count"] == 2
    shown = kubectl("events", "-n", namespace, "--for=configmap/a")
    assert "ImageNotFound" in shown
    assert "no image for v1.37.2; build one" in shown
