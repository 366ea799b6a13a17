from __future__ import annotations

import dataclasses
from ipaddress import IPv4Network
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capn.build.libvirt_xml import build_domain_xml, endpoint_address, machine_addresses
from capn.errors import InvalidSpecError
from capn.providers.libvirt.views import parse_domain
from tests.unit.build.libvirt_samples import DOMAIN, KVM, OWNER


@given(st.text(alphabet=st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc", "Cn", "Co"]), max_size=60))
def test_hostile_names_stay_text(name: str) -> None:
    owner = dataclasses.replace(OWNER, name=name, namespace=name)
    text = build_domain_xml(dataclasses.replace(DOMAIN, owner=owner, name=f"x{name}", cmdline=name))
    root = ET.fromstring(text)  # noqa: S314 - our own
    assert root.findtext("name") == f"x{name}"
    assert (root.findtext("os/cmdline") or "") == name
    assert len(root) == len(ET.fromstring(build_domain_xml(DOMAIN)))  # noqa: S314
    assert parse_domain(text).owner == owner


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x08"])
def test_control_characters_are_refused(character: str) -> None:
    with pytest.raises(InvalidSpecError, match="control characters"):
        build_domain_xml(dataclasses.replace(DOMAIN, cmdline=f"a{character}b"))


def test_a_domain_reads_back() -> None:
    with_seed, without = parse_domain(build_domain_xml(DOMAIN)), parse_domain(build_domain_xml(KVM))
    assert with_seed.owner == without.owner == OWNER
    assert with_seed.seed_attached
    assert not without.seed_attached


def test_a_domain_has_no_command_line_passthrough_or_host_paths_of_ours() -> None:
    text = build_domain_xml(DOMAIN)
    assert "qemu:commandline" not in text
    root = ET.fromstring(text)  # noqa: S314
    assert [disk.find("source").attrib.keys() - {"pool", "volume"} for disk in root.iterfind("devices/disk")] == [  # type: ignore[union-attr]
        set(),
        set(),
    ]


def test_emulation_and_kvm_differ_where_they_must() -> None:
    emulated, kvm = (ET.fromstring(build_domain_xml(domain)) for domain in (DOMAIN, KVM))  # noqa: S314
    assert (emulated.get("type"), kvm.get("type")) == ("qemu", "kvm")
    assert [root.find("cpu").get("mode") for root in (emulated, kvm)] == ["maximum", "host-passthrough"]  # type: ignore[union-attr]
    caches = [root.find("devices/disk/driver").get("cache") for root in (emulated, kvm)]  # type: ignore[union-attr]
    assert caches == ["unsafe", "none"]


def test_addresses_leave_room_for_gateway_and_endpoint() -> None:
    subnet = IPv4Network("10.89.4.0/24")
    addresses = machine_addresses(subnet)
    assert str(endpoint_address(subnet)) == "10.89.4.10"
    assert (str(addresses[0]), str(addresses[-1]), len(addresses)) == ("10.89.4.11", "10.89.4.254", 244)
