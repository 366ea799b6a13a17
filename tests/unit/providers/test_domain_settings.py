"""What an administrator may write about failure domains, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from capn.api.machine_template import Infrastructure, InfrastructureKind
from capn.errors import InvalidSpecError
from capn.providers.failure_domains import DomainProvider
from capn.providers.kubevirt.provider import KubeVirtProvider
from capn.providers.libvirt.provider import LibvirtProvider
from capn.providers.memory import MemoryProvider
from capn.providers.registry import ProviderRegistry
from capn.settings import KubeVirtEndpoint, LibvirtEndpoint, Settings, load_settings

ONE: dict[str, Any] = {"uri": "qemu+tls://a.example/system", "addresses": "10.0.0.64/26"}
TWO: dict[str, Any] = {"uri": "qemu+tls://b.example/system", "addresses": "10.0.0.128/26"}


def load(path: Path, endpoint: dict[str, Any], kind: str = "libvirt") -> Settings:
    file = path / "settings.yaml"
    file.write_text(yaml.safe_dump({"endpoints": {kind: {"default": {"kind": kind} | endpoint}}}, sort_keys=False))
    return load_settings(file)


def divided(**domains: dict[str, Any]) -> dict[str, Any]:
    return {"network": "capn-shared", "domains": domains}


def test_a_domain_is_as_the_endpoint_where_it_does_not_say_otherwise(tmp_path: Path) -> None:
    wanted = divided(a=ONE, b=TWO | {"accel": "kvm"}) | {"accel": "emulate", "pool": "vms"}
    endpoint = load(tmp_path, wanted).endpoints["libvirt"]["default"]
    assert isinstance(endpoint, LibvirtEndpoint)
    assert list(endpoint.domains) == ["a", "b"]
    one, two = endpoint.domains.values()
    assert (one.uri, one.accel, one.pool, one.network) == (ONE["uri"], "emulate", "vms", "capn-shared")
    assert (two.uri, two.accel, two.pool, two.network) == (TWO["uri"], "kvm", "vms", "capn-shared")
    assert not one.domains


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        (divided(a=ONE, b=TWO) | {"uri": "qemu:///system"}, "uri and domains exclude each other"),
        (divided(a=ONE, b={"addresses": "10.0.0.0/26"}), r"domains\.b\.uri is missing"),
        (divided(a=ONE, b=None), r"domains\.b\.uri is missing"),  # type: ignore[arg-type]
        ({"domains": {"a": ONE | {"network": "n"}, "b": {"uri": "x:///"}}}, r"domains\.b\.network is missing.*own"),
        ({"domains": {"a": ONE}}, "name that as network"),
        (divided(a=ONE, b={"uri": "test:///b"}), r"domains\.b\.addresses is missing.*such as"),
        (divided(a=ONE, b=TWO | {"uri": ONE["uri"]}), r"domains\.b\.uri is that of a"),
        (divided(a=ONE, b=TWO | {"addresses": "10.0.0.0/24"}), r"domains\.b\.addresses overlap those of a"),
        (divided(a=ONE | {"domains": {"x": TWO}}), r"domains\.a\.domains: .*take it away"),
        (divided(Rack_A=ONE), r"domains\.Rack_A: name it with .*label"),
        (divided(**{f"d{number}": ONE for number in range(33)}), "at most 32"),
        (divided(a=ONE | {"accel": "magic"}), r"domains\.a\.accel"),
        ({"addresses": "10.0.0.0/24"}, "name that as network"),
    ],
)
def test_what_cannot_be_is_refused_by_field_with_the_fix(tmp_path: Path, endpoint: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSpecError, match=said) as caught:
        load(tmp_path, endpoint)
    assert caught.value.field.startswith("endpoints.libvirt.default")


def test_a_memory_endpoint_has_hosts_that_share_a_world(tmp_path: Path) -> None:
    settings = load(tmp_path, {"boot_s": 3, "domains": {"a": None, "b": {"memory_mib": 64}}}, "memory")
    provider = ProviderRegistry(settings).get(Infrastructure(kind=InfrastructureKind.MEMORY))
    assert isinstance(provider, DomainProvider)
    one, two = provider.domains.values()
    assert isinstance(one, MemoryProvider)
    assert isinstance(two, MemoryProvider)
    assert one.world is two.world
    assert (one._host, two._host) == ("a", "b")
    assert (one._endpoint.boot_s, two._endpoint.boot_s, two._endpoint.memory_mib) == (3, 3, 64)
    with pytest.raises(InvalidSpecError, match=r"domains\.a\.domains"):
        load(tmp_path, {"domains": {"a": {"domains": {"b": {}}}}}, "memory")


async def test_a_libvirt_endpoint_has_a_connection_a_domain(tmp_path: Path) -> None:
    registry = ProviderRegistry(load(tmp_path, divided(b=TWO, a=ONE)))
    provider = registry.get(Infrastructure(kind=InfrastructureKind.LIBVIRT))
    assert isinstance(provider, DomainProvider)
    assert list(provider.domains) == ["b", "a"]
    for name, uri in (("a", ONE["uri"]), ("b", TWO["uri"])):
        host = provider.domains[name]
        assert isinstance(host, LibvirtProvider)
        assert host._endpoint.uri == uri
    await registry.close()


async def test_a_kubevirt_endpoint_has_a_selector_a_domain(tmp_path: Path) -> None:
    zones = {"a": {"node_selector": {"zone": "1"}}, "b": {"node_selector": {"zone": "2"}}}
    settings = load(tmp_path, {"node_selector": {"disk": "ssd"}, "domains": zones}, "kubevirt")
    endpoint = settings.endpoints["kubevirt"]["default"]
    assert isinstance(endpoint, KubeVirtEndpoint)
    client: Any = object()  # never connected to
    provider = ProviderRegistry(settings, client=client).get(Infrastructure(kind=InfrastructureKind.KUBEVIRT))
    assert isinstance(provider, DomainProvider)
    selectors = {}
    for name, host in provider.domains.items():
        assert isinstance(host, KubeVirtProvider)
        selectors[name] = host._endpoint.node_selector
    assert selectors == {"a": {"disk": "ssd", "zone": "1"}, "b": {"disk": "ssd", "zone": "2"}}
    for wrong, said in (
        ({"a": zones["a"], "b": zones["a"]}, r"domains\.b\.node_selector is that of a"),
        ({"a": {"node_selector": {}}}, r"domains\.a\.node_selector"),
        ({"A": zones["a"]}, r"domains\.A: name it"),
    ):
        with pytest.raises(InvalidSpecError, match=said):
            load(tmp_path, {"domains": wrong}, "kubevirt")
