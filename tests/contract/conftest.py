"""What the contract tests of real hypervisors share, and the clients of `KubeClient`'s suite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from capn.kube.http import HttpKubeClient
from capn.kube.memory import MemoryKubeClient
from tests.contract.kube_cases import Case
from tests.contract.provider_guest import build_image
from tests.harness.kubevirt_ground import Ground, kubevirt_ground


@pytest.fixture(scope="package")
def ground(binaries: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Real KubeVirt with the tiny guest's image."""
    with kubevirt_ground(binaries, tmp_path_factory.mktemp("kubevirt")) as ground:
        ground.load(build_image(ground.directory / "image"))
        ground.kubectl("create", "namespace", "tenant")
        yield ground


@pytest.fixture(params=["memory", pytest.param("http", marks=pytest.mark.integration)])
def case(request: pytest.FixtureRequest) -> Case:
    # Not async: the parent's own fixtures run a loop, which they cannot inside another.
    if request.param == "memory":
        memory = MemoryKubeClient(bookmark_s=0.05)
        return Case(memory, "default", memory.as_manager("kubectl"), is_real=False)
    request.getfixturevalue("crds")
    client = request.getfixturevalue("client")
    assert isinstance(client, HttpKubeClient)
    other = HttpKubeClient(client._transport, field_manager="kubectl")
    return Case(client, request.getfixturevalue("namespace"), other, is_real=True)
