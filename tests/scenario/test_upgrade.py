"""A running cluster goes from one minor to the next: the order, what serves meanwhile, and every way it can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from capn import names
from capn.api.resources import CONFIG_MAP, DAEMON_SET, DEPLOYMENT, NESTED_CLUSTER, NESTED_MACHINE, NODE, POD
from capn.build.kube_proxy import build_extra
from capn.kube.memory import MemoryKubeClient
from capn.providers.memory import MemoryProvider
from capn.providers.memory_static_pods import tell_readiness
from tests.harness.faults import Call, Fault, FaultyKubeClient
from tests.harness.kubeadm_addons import COREDNS, Workloads, build_dns, build_proxy, image_of, running_addons
from tests.harness.scenario import NAMESPACE_NAME, Scenario, running_scenario
from tests.harness.upgrades import (
    LIMIT_S,
    NEW,
    OLD,
    PATCH,
    SYSTEM,
    create,
    etcd_of,
    has_failed,
    has_settled,
    hurry,
    machines,
    recorded,
    says,
    versions,
)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


class Seen:
    """What the machines and the child said in turn, since the upgrade began."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.most_planes = 0

    def note(self, step: str) -> None:
        if step not in self.steps:
            self.steps.append(step)

    def are_in_order(self, *steps: str) -> None:
        found = [self.steps.index(step) for step in steps]
        assert found == sorted(found), self.steps


@asynccontextmanager
async def watched(scenario: Scenario, child: MemoryKubeClient, version: str) -> AsyncIterator[Seen]:
    """Look at each change; fail when etcd's voters that live were ever too few."""
    seen, etcd = Seen(), await etcd_of(scenario)
    planes_before = {machine["metadata"]["uid"] for machine in await machines(scenario, names.ROLE_CONTROL_PLANE)}

    async def look() -> None:
        voting = [member for member in etcd.members if not member.is_learner]
        assert 2 * sum(etcd.runs(member.machine) for member in voting) > len(voting)
        # What comes last is read first: so a step is never seen without those before it.
        main = await child.get(DAEMON_SET, "kube-proxy", SYSTEM)
        workers = [machine["spec"]["version"] for machine in await machines(scenario, names.ROLE_WORKER)]
        planes = await machines(scenario, names.ROLE_CONTROL_PLANE)
        seen.most_planes = max(seen.most_planes, len(planes))
        new = [machine for machine in planes if machine["spec"]["version"] == version]
        all_new = bool(new) and not planes_before & {machine["metadata"]["uid"] for machine in planes}
        says_new = await recorded(child) == version
        extra = await child.get(DAEMON_SET, f"kube-proxy-{version}", SYSTEM)
        facts = {
            "kube-proxy for new nodes": extra is not None,
            "kubeadm-config": says_new,
            "first new control plane": bool(new),
            "last old control plane left": all_new,
            "first new worker": version in workers,
            "last old worker left": bool(workers) and set(workers) == {version},
            "kube-proxy": main is not None and image_of(main).endswith(f":{version}"),
        }
        for step, holds in facts.items():
            if holds:
                seen.note(step)

    async def follow() -> None:
        while True:
            await look()
            await asyncio.sleep(0.002)

    task = asyncio.create_task(follow())
    try:
        yield seen
        assert not task.done() or task.exception() is None, task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def is_plain(child: MemoryKubeClient, version: str) -> None:
    """The add-ons are kubeadm's of that version, with nothing of ours on them."""
    found = (await child.list(DAEMON_SET, namespace=SYSTEM)).items
    [main] = [item for item in found if item["metadata"]["name"].startswith("kube-proxy")]
    assert image_of(main) == f"registry.test/kube-proxy:{version}"
    assert main["spec"]["updateStrategy"]["type"] == "RollingUpdate"
    assert not main["spec"]["template"]["spec"].get("affinity")
    dns = await child.get(DEPLOYMENT, "coredns", SYSTEM)
    assert dns is not None
    assert image_of(dns).endswith(COREDNS[int(version.split(".")[1])])
    assert dns["spec"]["template"]["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert dns["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 1


async def is_at_rest(scenario: Scenario, child: MemoryKubeClient) -> None:
    """A new controller finds nothing to do, here and in the child."""
    await scenario.settle()
    writes = (scenario.api.writes, child.writes)
    await scenario.restart()
    await scenario.settle()
    assert (scenario.api.writes, child.writes) == writes


@pytest.mark.parametrize(("replicas", "workers"), [(1, 0), (1, 2), (3, 2)])
async def test_the_order_and_that_everything_serves_meanwhile(scenario: Scenario, replicas: int, workers: int) -> None:
    child = await create(scenario, replicas=replicas, workers=workers)
    old_nodes = {node["metadata"]["name"] for node in (await child.list(NODE)).items}
    async with running_addons(child, OLD) as addons, watched(scenario, child, NEW) as seen:
        await scenario.patch("c1", {"version": NEW})
        await has_settled(scenario, NEW)
        await says(scenario, "Upgraded")
    seen.are_in_order(
        "kube-proxy for new nodes",
        "kubeadm-config",
        "first new control plane",
        "last old control plane left",
        *(["first new worker", "last old worker left"] if workers else []),
        "kube-proxy",
    )
    assert seen.most_planes == replicas + 1
    assert not addons.restarted & {name for name in old_nodes if await child.get(NODE, name) is None}
    await is_plain(child, NEW)
    etcd = await etcd_of(scenario)
    assert sorted(member.name for member in etcd.members) == sorted(
        machine["metadata"]["name"] for machine in await machines(scenario, names.ROLE_CONTROL_PLANE)
    )
    events = scenario.events.reasons("c1")
    assert events.count("UpgradeStarted") == events.count("Upgraded") == 1
    await is_at_rest(scenario, child)


async def test_arguments_that_change_with_the_version_go_with_the_same_machines(scenario: Scenario) -> None:
    child = await create(scenario, replicas=3)
    made: set[str] = set()
    async with running_addons(child, OLD), watched(scenario, child, NEW):
        await scenario.patch("c1", {"version": NEW, "controlPlane": {"scheduler": {"extraArgs": {"v": "4"}}}})

        async def is_done() -> bool:
            made.update(machine["metadata"]["uid"] for machine in await machines(scenario, names.ROLE_CONTROL_PLANE))
            return (await scenario.condition("c1", "Upgraded")).get("reason") == "Upgraded"

        await scenario.until(is_done, limit_s=LIMIT_S)
        await has_settled(scenario, NEW)
    assert len(made) == 6  # each was replaced once
    pods = (await child.list(POD, namespace=SYSTEM, label_selector="component=kube-scheduler")).items
    assert [pod["spec"]["containers"][0]["command"][-1] for pod in pods] == ["--v=4"] * 3


async def test_a_patch_of_the_same_minor_is_an_upgrade_too(scenario: Scenario) -> None:
    child = await create(scenario, workers=1)
    async with running_addons(child, OLD), watched(scenario, child, PATCH) as seen:
        before = await child.get(DEPLOYMENT, "coredns", SYSTEM)
        await scenario.patch("c1", {"version": PATCH})
        await has_settled(scenario, PATCH)
        await says(scenario, "Upgraded")
        after = await child.get(DEPLOYMENT, "coredns", SYSTEM)
        assert before is not None
        assert after is not None
        assert after["spec"] == before["spec"]  # the same CoreDNS on all nodes: nothing to move
    seen.are_in_order("kubeadm-config", "first new control plane", "first new worker", "kube-proxy")
    await is_plain(child, PATCH)


@pytest.mark.parametrize("replicas", [1, 3])
async def test_a_controller_that_dies_again_and_again_goes_on(replicas: int) -> None:
    async with running_scenario() as scenario:
        child = await create(scenario, replicas=replicas, workers=1)
        async with running_addons(child, OLD), watched(scenario, child, NEW) as seen:
            await scenario.patch("c1", {"version": NEW})
            for _again in range(25):
                await asyncio.sleep(0.03)
                await scenario.restart()
            await has_settled(scenario, NEW)
            await says(scenario, "Upgraded")
        seen.are_in_order(
            "kubeadm-config", "first new control plane", "last old control plane left", "first new worker"
        )
        assert seen.most_planes == replicas + 1
        await is_plain(child, NEW)
        await is_at_rest(scenario, child)


class Deaths:
    """Each life of the controller ends at a write of a step, here or in the child: after one, or before the second."""

    def __init__(self, when: Any) -> None:
        self._when = when
        self._clients: list[FaultyKubeClient] = []
        self.count = 0
        self.begin()

    def begin(self) -> None:
        self._left = 1 if self._when == "crash_before" else 0
        self._clients.clear()

    def wrap(self, client: Any) -> FaultyKubeClient:
        faulty = FaultyKubeClient(client, [Fault(self._when, self._hits)])
        self._clients.append(faulty)
        return faulty

    @property
    def came(self) -> bool:
        return any(client.crashed for client in self._clients)

    def _hits(self, call: Call) -> bool:
        here = call.resource == NESTED_MACHINE and call.verb in {"create", "delete"}
        if not here and call.resource not in {DAEMON_SET, DEPLOYMENT, CONFIG_MAP}:
            return False
        self._left -= 1
        self.count += self._left == -1
        return self._left == -1


@pytest.mark.parametrize("when", ["crash_before", "crash_after"])
async def test_it_goes_on_from_each_write(when: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_scenario() as scenario:
        child = await create(scenario, workers=1)
        deaths, inner = Deaths(when), MemoryProvider.open_child

        async def open_child(self: MemoryProvider, *arguments: Any) -> Any:
            return deaths.wrap(await inner(self, *arguments))

        async def is_done() -> bool:
            return (await scenario.condition("c1", "Upgraded")).get("status") == "True"

        async def has_died_or_is_done() -> bool:
            return deaths.came or await is_done()

        async with running_addons(child, OLD), watched(scenario, child, NEW) as seen:
            await scenario.kill()
            monkeypatch.setattr(MemoryProvider, "open_child", open_child)
            await scenario.patch("c1", {"version": NEW})
            while not await is_done():
                deaths.begin()
                await scenario.start(deaths.wrap(scenario.api))
                await scenario.until(has_died_or_is_done, limit_s=LIMIT_S)
                await scenario.kill()
                assert deaths.count < 40
            monkeypatch.setattr(MemoryProvider, "open_child", inner)
            await scenario.start()
            await has_settled(scenario, NEW)
        assert deaths.count >= 5
        seen.are_in_order(
            "kubeadm-config", "first new control plane", "last old control plane left", "first new worker"
        )
        assert seen.most_planes == 2
        await is_plain(child, NEW)
        await is_at_rest(scenario, child)


async def test_a_new_control_plane_that_dies_in_the_middle_is_replaced_by_a_new_one(scenario: Scenario) -> None:
    child = await create(scenario, replicas=3)
    async with watched(scenario, child, NEW):
        await scenario.patch("c1", {"version": NEW})

        async def has_new() -> bool:
            found = await scenario.condition("c1-cp-3", "Ready", of="machine")
            return found.get("status") == "True"

        await scenario.until(has_new, limit_s=LIMIT_S)
        ref = await scenario.machine_ref("c1-cp-3")
        scenario.provider.remove(ref)
        await has_settled(scenario, NEW)
    assert ref.uid not in scenario.world.machines
    assert len(await machines(scenario, names.ROLE_CONTROL_PLANE)) == 3


async def test_the_numbers_are_said_and_the_version_is_that_of_all(scenario: Scenario) -> None:
    child = await create(scenario, replicas=3)
    scenario.provider.withhold_node("c1-cp-3")
    await scenario.patch("c1", {"version": NEW})
    await says(scenario, "UpgradingControlPlane", f"1 of 4 control planes are of {NEW}")
    await says(scenario, "WaitingForMachines", kind="ControlPlaneReady")
    cluster = await scenario.cluster()
    assert cluster is not None
    assert cluster["status"]["version"] == OLD
    assert (await scenario.condition("c1", "Ready"))["status"] == "False"
    assert await recorded(child) == NEW


async def test_nothing_is_begun_while_a_control_plane_is_not_ready(scenario: Scenario) -> None:
    child = await create(scenario, replicas=3)
    await scenario.kill()
    kubelet = child.as_manager("kubelet")
    told = {"type": "Ready", "status": "False", "reason": "Told", "message": "by the test"}
    network = {"type": "NetworkUnavailable", "status": "False", "reason": "FlannelIsUp"}

    async def tell(status: str) -> None:
        node = {"metadata": {"name": "c1-cp-1"}, "status": {"conditions": [network, told | {"status": status}]}}
        await kubelet.apply(NODE, node, subresource="status")

    await tell("False")
    await scenario.start()

    async def is_seen() -> bool:
        return (await scenario.condition("c1-cp-1", "Ready", of="machine")).get("status") == "False"

    await scenario.until(is_seen)
    await scenario.patch("c1", {"version": NEW})
    await says(scenario, "UpgradeWaiting", "c1-cp-1")
    await scenario.settle()
    assert (await versions(scenario), await recorded(child)) == ({OLD}, OLD)
    await tell("True")
    await has_settled(scenario, NEW)


async def test_nothing_is_begun_while_a_member_of_etcd_is_ill(scenario: Scenario) -> None:
    child = await create(scenario, replicas=3)
    etcd = await etcd_of(scenario)
    etcd.raise_alarm("c1-cp-2")
    await scenario.patch("c1", {"version": NEW})
    await says(scenario, "EtcdUnhealthy", "not all members of etcd are healthy voters: c1-cp-2")
    assert (await versions(scenario), await recorded(child)) == ({OLD}, OLD)
    etcd.alarms.clear()
    await has_settled(scenario, NEW)


async def test_nothing_is_begun_while_there_is_an_alarm_of_a_member_that_is_gone(scenario: Scenario) -> None:
    child = await create(scenario, replicas=3)
    etcd = await etcd_of(scenario)
    etcd.alarms.append("memberID:1 alarm:CORRUPT ")
    await scenario.patch("c1", {"version": NEW})
    await says(scenario, "EtcdUnhealthy", "etcd has an alarm of a member that is gone")
    assert (await versions(scenario), await recorded(child)) == ({OLD}, OLD)
    etcd.alarms.clear()
    await has_settled(scenario, NEW)


async def test_nothing_is_begun_while_a_program_of_a_control_plane_is_not_ready(scenario: Scenario) -> None:
    child = await create(scenario, replicas=3)
    kubelet = child.as_manager("kubelet")
    await tell_readiness(kubelet, "kube-scheduler-c1-cp-1", ready=False)
    await scenario.patch("c1", {"version": NEW})
    await says(scenario, "ComponentsNotReady", f"{NEW} waits: not ready yet: kube-scheduler of c1-cp-1")
    await scenario.settle()
    assert (await versions(scenario), await recorded(child)) == ({OLD}, OLD)
    await tell_readiness(kubelet, "kube-scheduler-c1-cp-1", ready=True)
    await has_settled(scenario, NEW)


async def test_nothing_is_begun_without_a_node_image(scenario: Scenario) -> None:
    child = await create(scenario)
    scenario.provider._endpoint = scenario.provider._endpoint.model_copy(update={"versions": [OLD]})
    await scenario.patch("c1", {"version": NEW})
    await says(scenario, "ImageNotFound", NEW)
    assert (await versions(scenario), await recorded(child)) == ({OLD}, OLD)
    scenario.provider._endpoint = scenario.provider._endpoint.model_copy(update={"versions": [OLD, NEW]})
    await has_settled(scenario, NEW)


async def test_taken_back_before_a_control_plane_has_joined(scenario: Scenario) -> None:
    child = await create(scenario, workers=1)
    before = await versions(scenario)
    async with running_addons(child, OLD) as addons:
        scenario.provider.fail_bootstrap("c1-cp-1", "error: no such thing")
        await scenario.patch("c1", {"version": NEW})
        await has_failed(scenario, "c1-cp-1")
        assert await recorded(child) == NEW
        await scenario.patch("c1", {"version": OLD})
        await has_settled(scenario, OLD)
        await says(scenario, "Upgraded")
        assert addons.restarted == set()
    assert await versions(scenario) == before
    assert await recorded(child) == OLD
    assert "UpgradeTakenBack" in scenario.events.reasons("c1")
    await is_plain(child, OLD)
    await is_at_rest(scenario, child)


async def test_not_taken_back_once_a_control_plane_has_joined(scenario: Scenario) -> None:
    await create(scenario, replicas=3)
    await scenario.patch("c1", {"version": NEW})

    async def has_joined() -> bool:
        return any(
            machine["spec"]["version"] == NEW and machine.get("status", {}).get("nodeRef")
            for machine in await machines(scenario, names.ROLE_CONTROL_PLANE)
        )

    await scenario.until(has_joined, limit_s=LIMIT_S)
    await scenario.patch("c1", {"version": OLD})
    await says(scenario, "VersionDowngrade", "never go back", kind="Stalled")
    await scenario.patch("c1", {"version": NEW})
    await has_settled(scenario, NEW)


async def test_two_minors_at_once_are_refused_by_name(scenario: Scenario) -> None:
    await create(scenario)
    await scenario.patch("c1", {"version": "v1.38.0"})
    await says(scenario, "VersionJump", "one minor version at a time", kind="Stalled")
    assert await versions(scenario) == {OLD}


async def test_no_old_control_plane_leaves_before_dns_serves_on_new_nodes(scenario: Scenario) -> None:
    child = await create(scenario, workers=1)
    async with running_addons(child, OLD) as addons:
        addons.held = COREDNS[37]
        await scenario.patch("c1", {"version": NEW})
        await says(scenario, "WaitingForDNS", "0 of 2 pods", kind="ControlPlaneReady")
        assert [machine["metadata"]["name"] for machine in await machines(scenario, names.ROLE_CONTROL_PLANE)] == [
            "c1-cp-0",
            "c1-cp-1",
        ]
        addons.held = None
        await addons.step()
        await has_settled(scenario, NEW)
        await says(scenario, "Upgraded")


async def test_a_kube_proxy_that_is_deleted_on_an_old_node_comes_back_there(scenario: Scenario) -> None:
    child = await create(scenario, workers=1)
    async with running_addons(child, OLD) as addons:
        scenario.provider.withhold_node("c1-cp-1")  # the upgrade stands still in its middle
        await scenario.patch("c1", {"version": NEW})
        await says(scenario, "UpgradingControlPlane")
        await scenario.settle()
        await _delete_proxies(child)
        await scenario.until(lambda: len(addons.restarted) == 2)
        addons.faults.clear()  # between its deletion and the next pod there was none


async def _delete_proxies(child: MemoryKubeClient) -> None:
    for pod in (await child.list(POD, namespace=SYSTEM, label_selector="k8s-app=kube-proxy")).items:
        await child.delete(POD, pod["metadata"]["name"], SYSTEM)


@pytest.mark.parametrize("image", ["registry.test/my/proxy:1", None])
async def test_what_the_user_has_in_their_place_is_left_alone(scenario: Scenario, image: str | None) -> None:
    child = await create(scenario)
    user = child.as_manager("admin")
    if image is not None:
        workload = {"metadata": {"name": "kube-proxy", "namespace": SYSTEM}}
        container = {"name": "kube-proxy", "image": image}
        await user.create(DAEMON_SET, workload | {"spec": {"template": {"spec": {"containers": [container]}}}})
        dns = {"metadata": {"name": "coredns", "namespace": SYSTEM}}
        theirs = {"name": "coredns", "image": "registry.test/coredns:v1.15.0"}
        await user.create(DEPLOYMENT, dns | {"spec": {"template": {"spec": {"containers": [theirs]}}}})
    await scenario.patch("c1", {"version": NEW})
    await has_settled(scenario, NEW)
    found = [*(await child.list(DAEMON_SET, namespace=SYSTEM)).items, *(await child.list(DEPLOYMENT)).items]
    assert {item["metadata"].get("generation") for item in found} <= {1}
    assert [item["metadata"]["name"] for item in found] == (["kube-proxy", "coredns"] if image else [])


async def test_a_new_cluster_knows_of_no_upgrade_while_its_dns_starts(scenario: Scenario) -> None:
    uid = (await scenario.create(version=NEW))["metadata"]["uid"]
    await scenario.until(lambda: scenario.find_api(uid) is not None)
    await scenario.api_of(uid).as_manager("kubeadm").create(DEPLOYMENT, build_dns(NEW))
    await scenario.ready()
    assert await scenario.condition("c1", "Upgraded") == {}


async def test_what_an_upgrade_left_is_put_right_though_the_status_was_lost(scenario: Scenario) -> None:
    child = await create(scenario)
    await scenario.kill()
    async with running_addons(child, OLD):
        left = build_extra(build_proxy(OLD), NEW, local=False)
        await child.as_manager("capn").create(DAEMON_SET, left)
        await scenario.api.as_manager("kubectl").merge_patch(
            NESTED_CLUSTER, "c1", NAMESPACE_NAME, {"metadata": {"annotations": {"test/woken": "1"}}}
        )
        cluster = await scenario.cluster()
        assert cluster is not None
        lost = {"apiVersion": names.API_VERSION, "kind": "NestedCluster", "metadata": cluster["metadata"]}
        await scenario.api.apply(NESTED_CLUSTER, lost | {"status": {}}, subresource="status")
        await scenario.start()

        async def is_gone() -> bool:
            return await child.get(DAEMON_SET, left["metadata"]["name"], SYSTEM) is None

        await scenario.until(is_gone)
    await is_plain(child, OLD)


def test_the_double_can_fail() -> None:
    """Of what the simulated kubelets know: a pod does not run where its image is not."""
    node = {"metadata": {"labels": {}}, "status": {"nodeInfo": {"kubeletVersion": NEW}}}
    pod = {"metadata": {}, "spec": {"nodeName": "n", "containers": [{"image": f"registry.test/kube-proxy:{OLD}"}]}}
    assert not Workloads.runs(pod, {"n": node})
