from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.harness.scenario import Scenario, running_scenario


@pytest.fixture
async def scenario() -> AsyncIterator[Scenario]:
    async with running_scenario() as running:
        yield running
