"""What else changes or fails in the middle of an upgrade: it comes to an end, and nobody goes back or has no DNS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from capn import names
from capn.api.resources import NESTED_MACHINE
from tests.harness.kubeadm_addons import COREDNS, running_addons
from tests.harness.scenario import NAMESPACE_NAME, Scenario
from tests.harness.upgrades import (
    LIMIT_S,
    NEW,
    NEWER,
    OLD,
    create,
    has_failed,
    has_settled,
    hurry,
    machines,
    recorded,
    says,
)

BAD = {"apiServer": {"extraArgs": {"no-such-flag": "true"}}}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def have_images(scenario: Scenario, *versions: str) -> None:
    """From now on the provider has node images of these versions only."""
    scenario.provider._endpoint = scenario.provider._endpoint.model_copy(update={"versions": versions})


@asynccontextmanager
async def followed(scenario: Scenario) -> AsyncIterator[tuple[Sequence[str], Sequence[str]]]:
    """The versions of control planes that are made from now on, and of those that go, in turn."""
    made: list[str] = []
    gone: list[str] = []

    async def look(known: dict[str, str]) -> dict[str, str]:
        planes = await machines(scenario, names.ROLE_CONTROL_PLANE)
        found = {plane["metadata"]["uid"]: plane["spec"]["version"] for plane in planes}
        made.extend(version for uid, version in found.items() if uid not in known)
        gone.extend(version for uid, version in known.items() if uid not in found)
        return found

    async def follow(known: dict[str, str]) -> None:
        while True:
            known = await look(known)
            await asyncio.sleep(0.002)

    before = await look({})
    made.clear()
    task = asyncio.create_task(follow(before))
    try:
        yield made, gone
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def have_joined(scenario: Scenario, version: str, count: int) -> None:
    """Wait until so many control planes of the version have joined."""

    async def are_there() -> bool:
        planes = await machines(scenario, names.ROLE_CONTROL_PLANE)
        found = [plane["spec"]["version"] for plane in planes if plane.get("status", {}).get("nodeRef")]
        return found.count(version) == count

    await scenario.until(are_there, limit_s=LIMIT_S)


@pytest.mark.parametrize(
    ("asked", "mending"),
    [
        ({}, {"healthCheck": {"enabled": True}}),
        ({"controlPlane": BAD}, {"controlPlane": {"apiServer": None}}),
    ],
    ids=["healed", "corrected"],
)
async def test_a_first_new_control_plane_that_does_not_join_is_replaced_though_dns_waits_for_it(
    scenario: Scenario, asked: dict[str, Any], mending: dict[str, Any]
) -> None:
    child = await create(scenario, replicas=3)
    async with running_addons(child, OLD):
        scenario.provider.fail_bootstrap("c1-cp-3", "error: unknown flag")
        await scenario.patch("c1", {"version": NEW, **asked})
        await has_failed(scenario, "c1-cp-3")
        scenario.world.failures.clear()
        await scenario.patch("c1", mending)
        await has_settled(scenario, NEW)
        await says(scenario, "Upgraded")


async def test_control_planes_may_become_fewer_while_there_is_none_that_dns_waits_for(scenario: Scenario) -> None:
    child = await create(scenario, replicas=3)
    async with running_addons(child, OLD):
        scenario.provider.fail_bootstrap("c1-cp-3", "error: no such thing")
        await scenario.patch("c1", {"version": NEW})
        await has_failed(scenario, "c1-cp-3")
        scenario.world.failures.clear()
        await scenario.patch("c1", {"controlPlane": {"replicas": 1}})
        await scenario.user.delete(NESTED_MACHINE, "c1-cp-3", NAMESPACE_NAME)
        await has_settled(scenario, NEW)
    assert len(await machines(scenario, names.ROLE_CONTROL_PLANE)) == 1


async def test_a_newer_patch_without_an_image_leads_nobody_back(scenario: Scenario) -> None:
    have_images(scenario, OLD, NEW)
    child = await create(scenario, replicas=3, workers=1)
    async with running_addons(child, OLD):
        await scenario.patch("c1", {"version": NEW})
        await have_joined(scenario, NEW, 2)
        async with followed(scenario) as (made, gone):
            await scenario.patch("c1", {"version": NEWER})
            await have_joined(scenario, NEW, 3)
            await says(scenario, "ImageNotFound", NEWER)
            await scenario.until(lambda: gone.count(OLD) >= 1)
            assert set(made) <= {NEW}
            assert set(gone) == {OLD}
            have_images(scenario, OLD, NEW, NEWER)
            await has_settled(scenario, NEWER)
            await says(scenario, "Upgraded")
            assert OLD not in made


@pytest.mark.parametrize("replicas", [1, 3])
async def test_a_newer_patch_takes_neither_the_first_new_control_plane_nor_dns_away(
    scenario: Scenario, replicas: int
) -> None:
    child = await create(scenario, replicas=replicas)
    async with running_addons(child, OLD) as addons:
        addons.held = COREDNS[37]
        await scenario.patch("c1", {"version": NEW})
        await says(scenario, "WaitingForDNS", kind="ControlPlaneReady")
        async with followed(scenario) as (made, gone):
            await scenario.patch("c1", {"version": NEWER})
            await says(scenario, "UpgradeWaiting", f"{NEWER} waits until there are {replicas} control planes")
            await says(scenario, "WaitingForDNS", kind="ControlPlaneReady")
            assert (made, gone) == ([], [])
            addons.held = None
            await addons.step()
            await has_settled(scenario, NEWER)
            await says(scenario, "Upgraded")
            assert OLD not in made
            assert gone[0] == OLD


async def stop_half_way_and_lose_one(scenario: Scenario) -> None:
    """The record says the new version, whose first control plane does not join, and an old one has lost its VM."""
    scenario.provider.fail_bootstrap("c1-cp-3", "error: no such thing")
    await scenario.patch("c1", {"version": NEW})
    await has_failed(scenario, "c1-cp-3")
    scenario.provider.remove(await scenario.machine_ref("c1-cp-1"))
    await has_failed(scenario, "c1-cp-1")
    scenario.world.failures.clear()


async def test_an_upgrade_is_taken_back_while_a_control_plane_has_to_be_replaced(scenario: Scenario) -> None:
    child = await create(scenario, replicas=3)
    async with running_addons(child, OLD), followed(scenario) as (made, gone):
        await stop_half_way_and_lose_one(scenario)
        assert await recorded(child) == NEW
        await scenario.patch("c1", {"version": OLD})
        await has_settled(scenario, OLD)
        await says(scenario, "Upgraded")
        assert (made, gone) == ([NEW, OLD], [NEW, OLD])
    assert await recorded(child) == OLD
    assert "UpgradeTakenBack" in scenario.events.reasons("c1")


async def test_one_that_is_replaced_joins_though_the_record_says_a_version_that_nobody_has(scenario: Scenario) -> None:
    have_images(scenario, OLD, NEW)
    child = await create(scenario, replicas=3)
    async with running_addons(child, OLD), followed(scenario) as (made, gone):
        await stop_half_way_and_lose_one(scenario)
        await scenario.patch("c1", {"version": NEWER})
        await scenario.until(lambda: made == [NEW, OLD])
        await have_joined(scenario, OLD, 3)
        await says(scenario, "ImageNotFound", NEWER)
        assert gone == [NEW, OLD]
        assert await recorded(child) == OLD
        have_images(scenario, OLD, NEW, NEWER)
        await has_settled(scenario, NEWER)
