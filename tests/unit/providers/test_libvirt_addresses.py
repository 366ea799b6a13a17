"""Which addresses a hypervisor gives in a network that it shares with others."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree as ET

import libvirt
import pytest
import yaml

from capn.build.libvirt_xml import endpoint_address, machine_addresses
from capn.errors import InvalidSpecError, TerminalError
from capn.providers.libvirt import addresses, networks
from capn.providers.libvirt.connection import Session
from capn.settings import LibvirtEndpoint, load_settings
from tests.contract.provider_rigs import cluster_ref, cluster_request, worker

WHOLE = LibvirtEndpoint(network="capn-shared")
PART = LibvirtEndpoint(network="capn-shared", addresses=IPv4Network("10.0.0.64/26"))


@pytest.mark.parametrize("prefix", [8, 16, 24, 28])
def test_a_pool_that_is_accepted_has_room_for_a_cluster(prefix: int) -> None:
    pool = LibvirtEndpoint(network_pool=IPv4Network(f"10.0.0.0/{prefix}")).network_pool
    subnet = next(iter(pool.subnets(new_prefix=max(24, pool.prefixlen))))
    assert endpoint_address(subnet) in subnet
    assert len(machine_addresses(subnet)) >= 4


@pytest.mark.parametrize("prefix", [29, 30, 32])
def test_a_pool_without_room_for_a_cluster_is_refused_with_field_and_fix(tmp_path: Path, prefix: int) -> None:
    file = tmp_path / "settings.yaml"
    endpoint = {"kind": "libvirt", "network_pool": f"10.0.0.0/{prefix}"}
    file.write_text(yaml.safe_dump({"endpoints": {"libvirt": {"default": endpoint}}}))
    with pytest.raises(
        InvalidSpecError, match=rf"network_pool: .*10\.0\.0\.0/{prefix} has no room .*a /24 for each"
    ) as caught:
        load_settings(file)
    assert caught.value.field.endswith("network_pool")


def build_missing() -> libvirt.libvirtError:
    """libvirt's answer to one who looks for what is not there."""
    error = libvirt.libvirtError("Network not found")
    error.err = (libvirt.VIR_ERR_NO_NETWORK, libvirt.VIR_FROM_NETWORK, str(error))
    return error


class SharedNetwork:
    """libvirt's handle of a network with DHCP for the hosts that it is told of; both handle and connection."""

    def __init__(self) -> None:
        self.hosts: list[str] = []

    def networkLookupByName(self, _name: str) -> SharedNetwork:  # noqa: N802 - libvirt's name
        return self

    def networkLookupByUUIDString(self, _uuid: str) -> SharedNetwork:  # noqa: N802 - libvirt's name
        raise build_missing()

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        return "5f6e1a30-0000-0000-0000-000000000000"

    def isActive(self) -> bool:  # noqa: N802 - libvirt's name
        return True

    def DHCPLeases(self) -> list[dict[str, Any]]:  # noqa: N802 - libvirt's name
        return []

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802 - libvirt's name
        hosts = "".join(self.hosts)
        ip = f"<ip address='10.0.0.1' netmask='255.255.255.0'><dhcp>{hosts}</dhcp></ip>"
        return f"<network><name>capn-shared</name>{ip}</network>"

    def update(self, _command: int, _section: int, _index: int, xml: str, _flags: int) -> None:
        self.hosts.append(xml)

    @property
    def given(self) -> list[str]:
        return [str(ET.fromstring(host).get("ip")) for host in self.hosts]  # noqa: S314 - our own


def open_session(network: SharedNetwork) -> Session:
    class Opened:
        conn = network

        def checkpoint(self) -> None:
            """Nothing has been cancelled."""

    return cast("Session", Opened())


def give(network: SharedNetwork, endpoint: LibvirtEndpoint, ordinal: int) -> str:
    session, request = open_session(network), cluster_request(cluster_ref())
    found = networks.ensure_network(session, endpoint, request)
    ref = worker(cluster_ref(), ordinal).ref
    return addresses.ensure_address(session, endpoint, found, ref=ref, mac=f"52:54:00:00:00:{ordinal:02x}")


def test_without_a_part_all_of_the_network_is_given() -> None:
    network = SharedNetwork()
    assert [give(network, WHOLE, ordinal) for ordinal in range(2)] == ["10.0.0.11", "10.0.0.12"]
    assert network.given == ["10.0.0.10", "10.0.0.11", "10.0.0.12"]


def test_an_endpoint_that_is_not_in_the_network_is_not_moved_there() -> None:
    network, request = SharedNetwork(), replace(cluster_request(cluster_ref()), endpoint_host="10.89.3.10")
    with pytest.raises(TerminalError, match=r"10\.89\.3\.10 is not in the network capn-shared \(10\.0\.0\.0/24\)"):
        networks.ensure_network(open_session(network), WHOLE, request)
    assert network.given == []


def test_of_a_part_no_other_address_is_given() -> None:
    network = SharedNetwork()
    assert [give(network, PART, ordinal) for ordinal in range(2)] == ["10.0.0.65", "10.0.0.66"]
    assert network.given == ["10.0.0.64", "10.0.0.65", "10.0.0.66"]


def test_an_end_of_the_network_is_no_machines_address() -> None:
    network = SharedNetwork()
    last = LibvirtEndpoint(network="capn-shared", addresses=IPv4Network("10.0.0.252/30"))
    assert [give(network, last, ordinal) for ordinal in range(2)] == ["10.0.0.253", "10.0.0.254"]


def test_the_endpoint_is_where_another_hypervisor_has_put_it() -> None:
    network = SharedNetwork()
    request = replace(cluster_request(cluster_ref()), endpoint_host="10.0.0.200")
    found = networks.ensure_network(open_session(network), PART, request)
    assert found.endpoint == "10.0.0.200"
    assert network.given == ["10.0.0.200"]
    assert networks.ensure_network(open_session(network), PART, request).endpoint == "10.0.0.200"
    assert len(network.hosts) == 1
