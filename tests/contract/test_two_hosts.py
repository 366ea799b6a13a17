"""The two hosts of the failure domains' story: one layer 2, no DHCP between them, a host that goes and comes back."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.two_hosts import NETWORK, TwoHosts

pytestmark = [pytest.mark.libvirt, pytest.mark.timeout(180)]

_DHCP = 67


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[TwoHosts]:
    before = rules()
    found = TwoHosts(tmp_path)
    try:
        found.start()
        yield found
    finally:
        assert found.stop() == []
        assert [rule for rule in rules() if rule not in before] == []


def rules() -> list[str]:
    """The host's packet filter, without counters and chains that libvirt keeps."""
    text = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    return [line for line in text.splitlines() if line.startswith("-A")]


def call_from_b(hosts: TwoHosts, code: str) -> int:
    """Run Python in the network of host `b`; its exit code."""
    argv = ["ip", "netns", "exec", hosts.namespace, sys.executable, "-c", f"import socket; {code}"]
    return subprocess.run(argv, timeout=30, check=False, capture_output=True).returncode


def reaches(hosts: TwoHosts) -> bool:
    """Whether a connection from `b` to the address of `a` in the shared network is made."""
    with socket.create_server((str(hosts.subnet[1]), 0)) as server:
        address = server.getsockname()
        return call_from_b(hosts, f"socket.create_connection({address!r}, timeout=5)") == 0


def test_they_share_a_layer_2_and_one_comes_back_after_it_lost_its_power(hosts: TwoHosts) -> None:
    assert reaches(hosts)
    assert [hosts.virsh(name, "net-list", "--name").split() for name in "ab"] == [[NETWORK], [NETWORK]]
    hosts.cut_power()
    assert not Path("/run/netns", hosts.namespace).exists()
    assert hosts.virsh("a", "net-list", "--name").split() == [NETWORK]
    hosts.restore_power()
    assert hosts.virsh("b", "net-list", "--name").split() == [NETWORK]
    assert reaches(hosts)


def test_no_dhcp_passes_between_them(hosts: TwoHosts) -> None:
    """A host's own packets are let through or dropped by the same rules as its machines'."""
    send = f"socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('{hosts.subnet[1]}', {{port}}))"
    for port, arrives in ((_DHCP + 2, True), (_DHCP, False)):
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as tap:
            tap.bind((hosts.bridge("a"), 0x0800))
            tap.settimeout(3)
            call_from_b(hosts, send.format(port=port))
            assert _hears(tap, port) is arrives, port


def _hears(tap: socket.socket, port: int) -> bool:
    while True:
        try:
            packet = tap.recv(2048)
        except TimeoutError:
            return False
        header = (packet[0] & 15) * 4
        if packet[9] == socket.IPPROTO_UDP and int.from_bytes(packet[header + 2 : header + 4], "big") == port:
            return True
