"""What else changes or fails in the middle of an upgrade: it comes to an end, and nobody goes back or has no DNS."""

from __future__ import annotations

from typing import Any

import pytest

from capn import names
from capn.api.resources import NESTED_MACHINE
from tests.harness.kubeadm_addons import running_addons
from tests.harness.scenario import NAMESPACE_NAME, Scenario
from tests.harness.upgrades import NEW, OLD, create, has_failed, has_settled, hurry, machines, says

BAD = {"apiServer": {"extraArgs": {"no-such-flag": "true"}}}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


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
