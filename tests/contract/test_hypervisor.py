"""The private hypervisor: two at once, nothing of the host touched, nothing left, however it ended."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from capn.dev.hypervisor import Hypervisor
from capn.dev.hypervisor_net import Footprint, find_footprint, list_leftovers
from capn.errors import InvalidSpecError, TerminalError
from tests.conftest import REPO

pytestmark = [pytest.mark.libvirt, pytest.mark.timeout(180)]

_NETWORK = """
<network><name>{name}</name><forward mode="nat"/><bridge name="{name}"/>
<ip address="{address}" netmask="255.255.255.0"><dhcp><host mac="52:54:00:00:00:01" ip="{host}"/></dhcp></ip></network>
"""
_DOMAIN = """
<domain type="qemu"><name>idle</name><memory unit="MiB">32</memory><os><type>hvm</type></os>
<devices><interface type="network"><source network="{name}"/></interface></devices></domain>
"""


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Hypervisor, Hypervisor]]:
    pair = (Hypervisor(tmp_path / "a"), Hypervisor(tmp_path / "b"))
    try:
        for hypervisor in pair:
            hypervisor.start(timeout_s=90)
        yield pair
    finally:
        for hypervisor in pair:
            hypervisor.purge()
            assert hypervisor.leaks() == []
            assert not hypervisor.state.exists()


def populate(hypervisor: Hypervisor, number: int) -> None:
    """A NAT network with DHCP, and a machine in it."""
    name = f"capntest{number}"
    conn = libvirt.open(hypervisor.uri)
    conn.networkDefineXML(_NETWORK.format(name=name, address=f"10.75.{number}.1", host=f"10.75.{number}.9")).create()
    conn.createXML(_DOMAIN.format(name=name))
    conn.close()


def bridges() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith("capntest")}


def rules() -> str:
    return subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout


def add_foreign_rule(bridge: str, subnet: str) -> list[str]:
    """A rule of libvirt's kind in its chain; the words that remove it."""
    rule = ["LIBVIRT_FWI", "-d", subnet, "-o", bridge, "-j", "ACCEPT"]
    subprocess.run(["iptables", "--wait", "-A", *rule], check=True)
    return ["iptables", "--wait", "-D", *rule]


def test_two_run_side_by_side_and_each_takes_away_only_its_own(two: tuple[Hypervisor, Hypervisor]) -> None:
    one, other = two
    populate(one, 1)
    populate(other, 2)
    assert bridges() == {"capntest1", "capntest2"}
    assert "10.75.1.0/24" in rules()
    assert any("bridge capntest1" in leak for leak in one.leaks())
    one.stop()
    assert one.leaks() == []
    assert bridges() == {"capntest2"}
    assert "10.75.1.0/24" not in rules()
    assert "10.75.2.0/24" in rules()
    conn = libvirt.open(other.uri)
    assert [domain.name() for domain in conn.listAllDomains()] == ["idle"]
    conn.close()


def test_the_last_one_takes_libvirts_chains_away(two: tuple[Hypervisor, Hypervisor]) -> None:
    one, other = two
    populate(one, 1)
    others_libvirtd = _foreign_libvirtd(two)
    for hypervisor in (other, one):
        hypervisor.stop()
    if not others_libvirtd and not _foreign_libvirtd(two) and not _foreign_bridges():
        assert "LIBVIRT_" not in rules()
    assert "capntest" not in rules()


def test_what_another_copy_of_capn_started_is_stopped(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(REPO / "capn", copy / "capn")
    state = tmp_path / "c"
    code = f"from pathlib import Path; from capn.dev.hypervisor import Hypervisor as H; H(Path({str(state)!r})).start()"
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, timeout=90)
    ours = Hypervisor(state)
    assert ours.running()
    ours.purge()
    assert ours.leaks() == []
    argv = f"{copy}/capn/dev/hypervisor_init.py"
    assert not subprocess.run(["pgrep", "-f", argv], capture_output=True, text=True, check=False).stdout


def test_rules_of_one_whose_files_were_deleted_go_with_the_next(two: tuple[Hypervisor, Hypervisor]) -> None:
    one, other = two
    populate(one, 6)
    os.kill(int((one.state / "init.pid").read_text()), signal.SIGKILL)
    _wait_for_end(one)
    subprocess.run(["ip", "link", "delete", "capntest6"], check=True)
    shutil.rmtree(one.state)
    foreign = add_foreign_rule("virbr-none", "10.75.66.0/24")
    try:
        populate(other, 7)
        assert "10.75.6.0/24" in rules()
        other.stop()
        assert "capntest6" not in rules()
        assert "10.75.6.0/24" not in rules()
        assert "10.75.66.0/24" in rules()  # its bridge is gone as well, but it is none of capn's
    finally:
        subprocess.run(foreign, check=True)


def _foreign_libvirtd(ours: tuple[Hypervisor, ...]) -> bool:
    """Whether another libvirtd runs here (other tests at the same time); it needs the chains."""
    found = subprocess.run(["pgrep", "-x", "libvirtd"], capture_output=True, text=True, check=False).stdout.split()
    return len(found) > sum(hypervisor.running() for hypervisor in ours)


def _foreign_bridges() -> set[str]:
    """Bridges that rules in libvirt's chains name and that are none of capn's: another's rules keep the chains."""
    named = re.findall(r"^-A LIBVIRT_\S+ .*?-[io] (\S+)", rules(), re.MULTILINE)
    return {name for name in named if not name.startswith("capn")}


def _wait_for_end(hypervisor: Hypervisor) -> None:
    deadline = time.monotonic() + 20
    while hypervisor.running() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not hypervisor.running()


def test_killed_with_sigkill_it_leaves_nothing_once_stopped(two: tuple[Hypervisor, Hypervisor]) -> None:
    one, _ = two
    populate(one, 3)
    init = int((one.state / "init.pid").read_text())
    os.kill(init, signal.SIGKILL)
    _wait_for_end(one)
    assert bridges() == {"capntest3"}  # the kernel ends processes, not bridges
    one.stop()
    assert bridges() == set()
    assert one.leaks() == []
    one.stop()


def test_a_restart_keeps_definitions_and_volumes(two: tuple[Hypervisor, Hypervisor]) -> None:
    one, _ = two
    conn = libvirt.open(one.uri)
    conn.networkDefineXML(_NETWORK.format(name="capntest4", address="10.75.4.1", host="10.75.4.9"))
    conn.close()
    one.stop()
    assert not one.running()
    one.start(timeout_s=90)
    one.start(timeout_s=90)
    conn = libvirt.open(one.uri)
    assert [network.name() for network in conn.listAllNetworks()] == ["capntest4"]
    conn.close()


def test_a_daemon_restart_keeps_machines(two: tuple[Hypervisor, Hypervisor]) -> None:
    one, _ = two
    populate(one, 5)
    one.restart_daemon(timeout_s=90)
    conn = libvirt.open(one.uri)
    assert [domain.isActive() for domain in conn.listAllDomains()] == [1]
    conn.close()


def test_its_tree_is_not_the_hosts(two: tuple[Hypervisor, Hypervisor]) -> None:
    one, _ = two
    assert (one.state / "var/lib/libvirt/qemu").is_dir()
    assert not Path("/run/libvirt/libvirt-sock").exists()
    assert not Path(one.pool_path).exists()
    assert str(one.state) not in Path("/proc/self/mountinfo").read_text()
    assert one.state.stat().st_mode & 0o077 == 0


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecError, match="shorter path"):
        Hypervisor(tmp_path / ("x" * 100)).start()


def test_restarting_what_does_not_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TerminalError, match="does not run"):
        Hypervisor(tmp_path / "none").restart_daemon()


def test_the_footprint_is_what_definitions_name(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(_NETWORK.format(name="capntest6", address="10.75.6.1", host="10.75.6.9"))
    (tmp_path / "broken.xml").write_text("<network>")
    found = find_footprint([tmp_path, tmp_path / "none"])
    assert found == Footprint(frozenset({"capntest6"}), frozenset({"10.75.6.0/24"}))
    assert Footprint.from_json(found.to_json()) == found
    assert list_leftovers(found) == []
