"""What the contract tests of real hypervisors share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.contract.provider_guest import build_image
from tests.harness.kubevirt_ground import Ground, kubevirt_ground


@pytest.fixture(scope="package")
def ground(binaries: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Real KubeVirt with the tiny guest's image."""
    with kubevirt_ground(binaries, tmp_path_factory.mktemp("kubevirt")) as ground:
        ground.load(build_image(ground.directory / "image"))
        ground.kubectl("create", "namespace", "tenant")
        yield ground
