"""What goes wrong: lost keys, failed guests, strangers' objects, unreadable objects, crashes at each write."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from capn import names
from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE, NODE, SECRET
from capn.controllers import console_watch
from capn.controllers.console_watch import MAX_RETRIES
from capn.settings import MemoryEndpoint
from tests.harness.scenario import NAMESPACE_NAME, Scenario, running_scenario

ONE_WORKER = [{"name": "md", "replicas": 1}]


async def test_failed_bootstrap_is_explained_with_stage_line_and_fix(scenario: Scenario) -> None:
    scenario.provider.fail_bootstrap("c1-cp-0", "error: unknown flag: --no-such-flag\n", stage="kubeadm/preflight")
    await scenario.create()

    async def is_explained() -> bool:
        return (await scenario.condition("c1", "Stalled")).get("status") == "True"

    await scenario.until(is_explained)
    machine = await scenario.machine("c1-cp-0")
    assert machine is not None
    condition = await scenario.condition("c1-cp-0", "BootstrapSucceeded", of="machine")
    assert condition["status"] == "False"
    assert condition["reason"] == "InvalidArgument"
    assert "kubeadm/preflight" in condition["message"]
    assert "--no-such-flag" in condition["message"]
    assert "extraArgs" in condition["message"]
    assert machine["status"]["bootstrap"]["failed"] is True
    assert "no-such-flag" in machine["status"]["bootstrap"]["logTail"]
    assert (await scenario.condition("c1", "Ready"))["reason"] == "InvalidArgument"
    assert "InvalidArgument" in scenario.events.reasons("c1-cp-0")


async def test_failure_is_still_shown_after_a_restart_without_new_writes(scenario: Scenario) -> None:
    scenario.provider.fail_bootstrap("c1-cp-0", "error: unknown flag: --no-such-flag\n")
    await scenario.create()

    async def is_explained() -> bool:
        return (await scenario.condition("c1", "Stalled")).get("status") == "True"

    await scenario.until(is_explained)
    await scenario.settle()
    before = scenario.api.writes
    await scenario.restart()
    await scenario.settle()
    assert scenario.api.writes == before


async def test_lost_ca_is_refused_and_never_made_again(scenario: Scenario) -> None:
    await scenario.create()
    await scenario.ready()
    await scenario.user.delete(SECRET, "c1-ca", NAMESPACE_NAME)
    await scenario.restart()

    async def is_refused() -> bool:
        return (await scenario.condition("c1", "CertificatesAvailable")).get("reason") == "CertificatesLost"

    await scenario.until(is_refused)
    await scenario.patch("c1", {"deletionPolicy": "Delete", "workers": ONE_WORKER})
    await scenario.settle()
    assert await scenario.secret("c1-ca") is None


async def test_cluster_of_the_same_name_waits_for_its_namesakes_secrets(scenario: Scenario) -> None:
    """Garbage collection lags behind in a real cluster; here the dead owner's Secret is put there by hand."""
    first = await scenario.create()
    await scenario.ready()
    old = await scenario.secret("c1-ca")
    assert old is not None
    await scenario.delete()
    await scenario.gone()
    left = {key: old[key] for key in ("apiVersion", "kind", "type", "data")}
    meta = {"name": "c1-ca", "namespace": NAMESPACE_NAME, "ownerReferences": old["metadata"]["ownerReferences"]}
    assert meta["ownerReferences"][0]["uid"] == first["metadata"]["uid"]
    await scenario.user.create(SECRET, left | {"metadata": meta})
    await scenario.create()

    async def waits() -> bool:
        return (await scenario.condition("c1", "CertificatesAvailable")).get("reason") == "WaitingForSecrets"

    await scenario.until(waits)
    await scenario.user.delete(SECRET, "c1-ca", NAMESPACE_NAME)
    await scenario.ready()
    fresh = await scenario.secret("c1-ca")
    assert fresh is not None
    assert fresh["data"] != old["data"]


async def test_users_own_ca_is_honoured(scenario: Scenario) -> None:
    await scenario.create("donor")
    await scenario.ready("donor")
    donor = await scenario.secret("donor-ca")
    assert donor is not None
    mine = {"apiVersion": "v1", "kind": "Secret", "type": donor["type"], "data": donor["data"]}
    await scenario.user.create(SECRET, mine | {"metadata": {"name": "c1-ca", "namespace": NAMESPACE_NAME}})
    await scenario.create()
    await scenario.ready()
    kept = await scenario.secret("c1-ca")
    assert kept is not None
    assert kept["data"] == donor["data"]


async def test_unreadable_cluster_stops_nobody_and_can_be_deleted(scenario: Scenario) -> None:
    await scenario.create("bad", version="nonsense")
    await scenario.create("good")
    await scenario.ready("good")
    assert ("bad", "Warning", "InvalidSpec") in {line[:3] for line in scenario.events.lines}
    await scenario.user.merge_patch(
        NESTED_CLUSTER, "bad", NAMESPACE_NAME, {"metadata": {"finalizers": [names.FINALIZER]}}
    )
    await scenario.delete("bad")
    await scenario.gone("bad")


async def test_machine_of_another_is_neither_taken_nor_deleted(scenario: Scenario) -> None:
    stranger: dict[str, Any] = {
        "apiVersion": names.API_VERSION,
        "kind": "NestedMachine",
        "metadata": {
            "name": "c1-md-0",
            "namespace": NAMESPACE_NAME,
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Namespace", "name": "x", "uid": "another", "controller": True}
            ],
        },
        "spec": {"clusterName": "c1", "role": "worker", "pool": "md", "version": "v1.37.2"},
    }
    await scenario.create("other")
    await scenario.user.create(NESTED_MACHINE, stranger)
    await scenario.create(workers=ONE_WORKER)

    async def is_refused() -> bool:
        return (await scenario.condition("c1", "Ready")).get("reason") == "OwnedByAnother"

    await scenario.until(is_refused)
    await scenario.delete()
    await scenario.gone_but("c1-md-0")
    assert await scenario.machine("c1-md-0") is not None
    await scenario.user.delete(NESTED_MACHINE, "c1-md-0", NAMESPACE_NAME)


async def test_stripped_labels_and_owners_are_put_back(scenario: Scenario) -> None:
    await scenario.create(workers=ONE_WORKER)
    await scenario.ready()
    patch = {"metadata": {"labels": None, "ownerReferences": None}}
    await scenario.user.merge_patch(NESTED_MACHINE, "c1-md-0", NAMESPACE_NAME, patch)

    async def is_restored() -> bool:
        machine = await scenario.machine("c1-md-0")
        assert machine is not None
        meta = machine["metadata"]
        return bool(meta.get("ownerReferences")) and meta.get("labels", {}).get(names.LABEL_CLUSTER) == "c1"

    await scenario.until(is_restored)


async def test_deleting_the_only_control_plane_machine_does_not_begin_a_second_cluster(scenario: Scenario) -> None:
    await scenario.create()
    await scenario.ready()
    await scenario.user.delete(NESTED_MACHINE, "c1-cp-0", NAMESPACE_NAME)

    async def is_lost() -> bool:
        found = await scenario.condition("c1-cp-0", "InfrastructureReady", of="machine")
        return found.get("reason") == "ControlPlaneLost"

    await scenario.until(is_lost)
    assert scenario.world.machines == {}


async def test_deleted_worker_is_replaced_with_a_new_node(scenario: Scenario) -> None:
    await scenario.create(workers=ONE_WORKER)
    await scenario.ready()
    before = await scenario.machine("c1-md-0")
    assert before is not None
    await scenario.user.delete(NESTED_MACHINE, "c1-md-0", NAMESPACE_NAME)

    async def is_replaced() -> bool:
        machine = await scenario.machine("c1-md-0")
        if machine is None or machine["metadata"]["uid"] == before["metadata"]["uid"]:
            return False
        return (await scenario.condition("c1-md-0", "Ready", of="machine")).get("status") == "True"

    await scenario.until(is_replaced)
    cluster = await scenario.cluster()
    assert cluster is not None
    nodes = await scenario.world.clusters[cluster["metadata"]["uid"]].api.list(NODE)
    assert len(nodes.items) == 2


async def test_unknown_endpoint_is_named_with_the_known_ones(scenario: Scenario) -> None:
    await scenario.create(infrastructure={"kind": "memory", "endpoint": "nowhere"})

    async def is_stalled() -> bool:
        return (await scenario.condition("c1", "Stalled")).get("reason") == "EndpointNotFound"

    await scenario.until(is_stalled)
    assert "default" in (await scenario.condition("c1", "Stalled"))["message"]
    await scenario.delete()
    await scenario.gone()


async def test_an_attempt_that_the_guest_makes_again_is_told_once_and_of_the_first_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console_watch, "STAGE_DELAY_S", 0.01)
    async with running_scenario(MemoryEndpoint(boot_s=3600)) as scenario:
        await scenario.create()
        await scenario.until(lambda: scenario.world.machines)
        [machine] = scenario.world.machines.values()

        async def reach(stage: str, tail: str = "") -> None:
            async def is_there() -> bool:
                found = await scenario.machine("c1-cp-0")
                return bool(found and found["status"].get("bootstrap", {}).get("stage") == stage)

            machine.say(stage, tail=tail)
            await scenario.until(is_there)

        def told() -> list[str]:
            return [message for name, _, reason, message in scenario.events.lines if reason == "BootstrapRetried"]

        for number in range(MAX_RETRIES + 2):
            await reach(f"kubeadm/etcd-{number}", tail=f"error: silence {number}")
            await reach(f"kubeadm/preflight-{number}")
        assert told() == [
            f"Bootstrap failed in stage kubeadm/etcd-{number}: error: silence {number}. The guest tries again."
            for number in range(MAX_RETRIES)
        ]


async def test_bootstrap_that_never_speaks_times_out_with_what_to_do() -> None:
    async with running_scenario(MemoryEndpoint(boot_s=3600), bootstrap_timeout_s=0.2) as scenario:
        await scenario.create()
        await scenario.until(lambda: scenario.world.machines)

        async def is_timed_out() -> bool:
            parts = scenario.controllers
            assert parts is not None
            ref = await scenario.machine_ref("c1-cp-0")
            parts.consoles._consoles[ref.uid].since = -1000.0  # it has been listened to for long
            parts._wake_ref(ref)
            found = await scenario.condition("c1-cp-0", "BootstrapSucceeded", of="machine")
            return found.get("reason") == "BootstrapTimedOut"

        await scenario.until(is_timed_out)


async def test_no_secret_is_told_in_status_or_events(scenario: Scenario) -> None:
    await scenario.create(workers=ONE_WORKER)
    await scenario.ready()
    told = repr([await scenario.cluster(), await scenario.machine("c1-cp-0"), await scenario.machine("c1-md-0")])
    told += repr(scenario.events.lines)
    for secret in (await scenario.api.list(SECRET)).items:
        for value in secret["data"].values():
            assert value[:64] not in told
    assert "PRIVATE KEY" not in told


@pytest.mark.parametrize("orphan", [True, False])
async def test_deletion_policy(scenario: Scenario, *, orphan: bool) -> None:
    await scenario.create(deletionPolicy="Orphan" if orphan else "Delete")
    await scenario.ready()
    await scenario.delete()
    await scenario.gone()
    assert len(scenario.world.machines) == (1 if orphan else 0)
    secrets = {secret["metadata"]["name"] for secret in (await scenario.api.list(SECRET)).items}
    assert ("c1-kubeconfig" in secrets) is orphan
    # The test's own oracle for leaks is right to count what was orphaned on purpose.
    scenario.world.machines.clear()
    scenario.world.clusters.clear()


async def test_a_stop_ends_everything_wherever_it_falls() -> None:
    """A cancellation that one await swallows would leave a worker behind, and a controller that never ends."""
    for turns in range(1, 121):
        async with running_scenario() as scenario:
            await scenario.create(workers=ONE_WORKER)
            for _ in range(turns):
                await asyncio.sleep(0)
            try:
                async with asyncio.timeout(20):
                    await scenario.kill()
            except TimeoutError:
                pytest.fail(f"after {turns} turns of the loop the controllers do not end")


async def test_killed_at_any_moment_it_ends_in_the_same_state() -> None:
    """Kill the controllers after every few scheduler turns of one cluster's making, then let it finish."""
    for turns in (1, 3, 8, 20, 45, 80, 120, 200):
        async with running_scenario() as scenario:
            await scenario.create(workers=ONE_WORKER)
            for _ in range(turns):
                await asyncio.sleep(0)
            await scenario.restart()
            await scenario.ready()
            assert sorted(vm.ref.name for vm in scenario.world.machines.values()) == ["c1-cp-0", "c1-md-0"]
