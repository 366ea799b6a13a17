from __future__ import annotations

import subprocess
import sys

import pytest

from capn.api.machine_template import Infrastructure, InfrastructureKind
from capn.errors import InvalidSpecError
from capn.providers.failure_domains import DomainProvider
from capn.providers.memory import MemoryProvider
from capn.providers.registry import ProviderRegistry
from capn.settings import LibvirtEndpoint, MemoryEndpoint, Settings


def make(kind: InfrastructureKind, endpoint: str) -> Infrastructure:
    return Infrastructure(kind=kind, endpoint=endpoint)


async def test_one_provider_an_endpoint() -> None:
    settings = Settings(
        endpoints={"memory": {"a": MemoryEndpoint(), "b": MemoryEndpoint()}, "libvirt": {"a": LibvirtEndpoint()}}
    )
    registry = ProviderRegistry(settings)
    first = registry.get(make(InfrastructureKind.MEMORY, "a"))
    assert isinstance(first, DomainProvider)
    assert isinstance(first.domains[""], MemoryProvider)
    assert registry.get(make(InfrastructureKind.MEMORY, "a")) is first
    assert registry.get(make(InfrastructureKind.MEMORY, "b")) is not first
    assert registry.get(make(InfrastructureKind.LIBVIRT, "a")).kind == "libvirt"
    await registry.close()


@pytest.mark.parametrize(
    ("kind", "known"), [(InfrastructureKind.MEMORY, "big, small"), (InfrastructureKind.LIBVIRT, "none")]
)
def test_an_unknown_endpoint_is_refused_with_those_that_exist(kind: InfrastructureKind, known: str) -> None:
    registry = ProviderRegistry(Settings(endpoints={"memory": {"small": MemoryEndpoint(), "big": MemoryEndpoint()}}))
    with pytest.raises(InvalidSpecError, match=f"administrator defined: {known}") as caught:
        registry.get(make(kind, "other"))
    assert caught.value.reason == "EndpointNotFound"
    assert caught.value.field == "spec.infrastructure.endpoint"


def test_an_endpoint_filed_under_the_wrong_kind_is_refused() -> None:
    registry = ProviderRegistry(Settings(endpoints={"libvirt": {"default": MemoryEndpoint()}}))
    with pytest.raises(InvalidSpecError):
        registry.get(make(InfrastructureKind.LIBVIRT, "default"))


def test_libvirt_is_not_imported_before_it_is_used() -> None:
    code = "import sys, capn.providers.registry; sys.exit('libvirt' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
