"""What a libvirtd leaves on the host's network when it is killed: bridges and packet-filter rules.

Role: finds them from libvirt's own network definitions and removes exactly them; and the rules of bridges of capn's
that are gone, whose definitions were deleted before anybody stopped their hypervisor. Inputs: directories with network
XML. Must not: touch a bridge, subnet or rule of anybody else.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from xml.etree import ElementTree as ET

_TABLES = ("filter", "nat", "mangle")
_CHAIN_PREFIX = "LIBVIRT_"
_BRIDGE_PREFIX = "capn"  # of every bridge that the libvirt provider names, and of the tests'


@dataclass(frozen=True, slots=True)
class Footprint:
    """Names of bridges, and subnets in CIDR form, of one hypervisor."""

    bridges: frozenset[str] = frozenset()
    subnets: frozenset[str] = frozenset()

    def __or__(self, other: Footprint) -> Footprint:
        return Footprint(self.bridges | other.bridges, self.subnets | other.subnets)

    def to_json(self) -> dict[str, list[str]]:
        """JSON-shaped, sorted."""
        return {"bridges": sorted(self.bridges), "subnets": sorted(self.subnets)}

    @classmethod
    def from_json(cls, data: Mapping[str, Iterable[str]]) -> Footprint:
        """What `to_json` gave."""
        return cls(frozenset(data.get("bridges", ())), frozenset(data.get("subnets", ())))


def find_footprint(directories: Iterable[Path]) -> Footprint:
    """Bridges and subnets of the network definitions in these directories; unreadable files are passed over."""
    footprint = Footprint()
    for directory in directories:
        for path in sorted(directory.glob("*.xml")):
            with contextlib.suppress(OSError, ET.ParseError, ValueError):
                footprint |= _read_definition(path)
    return footprint


def _read_definition(path: Path) -> Footprint:
    root = ET.parse(path).getroot()  # noqa: S314 - libvirtd's own file in a directory only root can write
    bridges = {name for bridge in root.iter("bridge") if (name := bridge.get("name"))}
    subnets = {
        str(IPv4Network((address, ip.get("netmask") or int(ip.get("prefix") or 32)), strict=False))
        for ip in root.iter("ip")
        if (address := ip.get("address")) and (ip.get("netmask") or ip.get("prefix"))
    }
    return Footprint(frozenset(bridges), frozenset(subnets))


def remove_footprint(footprint: Footprint) -> None:
    """Delete the bridges and the rules that name them or their subnets, and the rules of capn's that have no bridge.

    libvirt's chains go too if they are empty and no other libvirtd runs: one that runs makes its chains only once.
    """
    for bridge in sorted(footprint.bridges):
        if (Path("/sys/class/net") / bridge / "bridge").exists():
            _run(["ip", "link", "delete", bridge])
    for tool in ("iptables", "ip6tables"):
        for table, rule in _rules(tool, footprint | _orphans(tool)):
            _run([tool, "--wait", "-t", table, "-D", *rule])
        if not _other_libvirtd():
            _remove_empty_chains(tool)


def list_leftovers(footprint: Footprint) -> list[str]:
    """Bridges and rules of the footprint that still exist."""
    bridges = [f"bridge {name}" for name in sorted(footprint.bridges) if Path("/sys/class/net", name).exists()]
    rules = [
        f"{tool} -t {table} {' '.join(rule)}"
        for tool in ("iptables", "ip6tables")
        for table, rule in _rules(tool, footprint)
    ]
    return bridges + rules


def _rules(tool: str, footprint: Footprint) -> list[tuple[str, list[str]]]:
    """(table, rule without -A) of libvirt's chains that name one of our bridges or subnets."""
    ours = footprint.bridges | footprint.subnets
    found = []
    for table in _TABLES:
        for line in _run([tool, "-t", table, "-S"]).splitlines():
            words = shlex.split(line)
            if words[:1] == ["-A"] and words[1].startswith(_CHAIN_PREFIX) and ours.intersection(words):
                found.append((table, words[1:]))
    return found


def _orphans(tool: str) -> Footprint:
    """Bridges of capn's that rules name and that are gone, with the subnets that those rules name beside them.

    libvirt makes a bridge before its rules and takes the rules away after it, so none of them serves anybody.
    """
    bridges, subnets = set[str](), set[str]()
    for line in _run([tool, "-t", "filter", "-S"]).splitlines():
        words = shlex.split(line)
        if words[:1] != ["-A"] or not words[1].startswith(_CHAIN_PREFIX):
            continue
        said = dict(itertools.pairwise(words))
        names = {said[key] for key in ("-i", "-o") if key in said}
        if names and all(_is_gone(name) for name in names):
            bridges |= names
            subnets |= {said[key] for key in ("-s", "-d") if key in said}
    return Footprint(frozenset(bridges), frozenset(subnets))


def _is_gone(bridge: str) -> bool:
    return bridge.startswith(_BRIDGE_PREFIX) and not Path("/sys/class/net", bridge).exists()


def _remove_empty_chains(tool: str) -> None:
    for table in _TABLES:
        lines = [shlex.split(line) for line in _run([tool, "-t", table, "-S"]).splitlines()]
        chains = [words[1] for words in lines if words[0] == "-N" and words[1].startswith(_CHAIN_PREFIX)]
        used = {words[1] for words in lines if words[0] == "-A"}
        if not chains or used.intersection(chains):
            continue
        for words in lines:
            if words[0] == "-A" and words[-2:-1] == ["-j"] and words[-1] in chains:
                _run([tool, "--wait", "-t", table, "-D", *words[1:]])
        for chain in chains:
            _run([tool, "--wait", "-t", table, "-X", chain])


def _other_libvirtd() -> bool:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "comm").read_text().strip() in {"libvirtd", "virtnetworkd"}:
                    return True
    return False


def _run(argv: list[str]) -> str:
    """Output of a command; failures are nothing here, because what was to be removed may be gone already."""
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C", **os.environ}
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30, env=environment).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
