"""What the stories share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def in_order(request: pytest.FixtureRequest) -> Iterator[None]:
    """A story has no second half without its first: what follows a failed test is not told."""
    module = request.node.parent
    earlier = getattr(module, "story_broken", None)
    if earlier:
        pytest.fail(f"not told: {earlier} failed before")
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        module.story_broken = request.node.name
