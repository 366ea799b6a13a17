"""A node's addresses, settings and cgroups, as far as they need no root."""

from __future__ import annotations

import asyncio
import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from capn.dev.addresses import RANGE, AddressBlock, choose_block
from capn.dev.cgroups import create_group, find_groups
from capn.dev.link import Link, short_id
from capn.dev.node import _why_not_ready
from capn.dev.node_dns import build_dns
from capn.dev.node_files import (
    PLUGINS,
    PROGRAMS,
    TOOLS,
    NodePlan,
    build_cni,
    build_containerd,
    build_init,
    build_kube_proxy,
    build_kubelet,
)
from capn.errors import NotFoundError, TerminalError

BLOCK = AddressBlock(IPv4Network("198.18.16.0/20"))


def plan() -> NodePlan:
    programs = {name: Path("/cache", name, name) for name in (*PROGRAMS, *TOOLS, *PLUGINS)}
    return NodePlan("n1", BLOCK, "https://198.18.31.253:6443", "capn-1", "capnp1", programs, restrict_oom=True)


def test_the_parts_of_a_block_do_not_overlap() -> None:
    parts = [BLOCK.pods, BLOCK.services, BLOCK.balancers, BLOCK.link]
    assert all(part.subnet_of(BLOCK.network) for part in parts)
    assert not any(one.overlaps(other) for one in parts for other in parts if one is not other)
    assert BLOCK.dns in BLOCK.services
    assert list(BLOCK.link.hosts()) == [BLOCK.host, BLOCK.node]
    assert BLOCK.host == IPv4Address("198.18.31.253")


def test_a_free_block_is_chosen_and_the_first_never() -> None:
    assert choose_block([]) == BLOCK
    assert choose_block([IPv4Network("198.18.17.4/32")]).network == IPv4Network("198.18.32.0/20")
    last = choose_block([], start=30)
    assert last.network == IPv4Network("198.19.240.0/20")
    assert choose_block([last.network], start=30) == BLOCK
    assert choose_block([IPv4Network("10.0.0.0/8")], start=31) == BLOCK


def test_without_a_free_block_the_users_are_named() -> None:
    with pytest.raises(TerminalError, match=r"no free /20 in 198\.18\.0\.0/15: in use are 198\.18\.0\.0/15"):
        choose_block([RANGE])


def test_names_on_the_host_fit_and_differ(tmp_path: Path) -> None:
    one, other = Link(tmp_path / "one"), Link(tmp_path / "other")
    assert len({one.name, other.name, one.peer, other.peer}) == 4
    assert all(len(name) <= 15 for name in (one.name, one.peer))
    assert one.name == short_id(tmp_path / "one")
    with pytest.raises(NotFoundError, match="capn dev up --node"):
        _ = one.block


def test_a_damaged_memory_is_no_block(tmp_path: Path) -> None:
    Link(tmp_path).memory.write_text("{")
    assert Link(tmp_path).read() is None
    Link(tmp_path).memory.write_text('{"block": "198.18.16.0/20"}')
    assert Link(tmp_path).block == BLOCK


def test_settings_agree_with_each_other() -> None:
    kubelet, proxy, init = build_kubelet(plan()), build_kube_proxy(plan()), build_init(plan())
    assert kubelet["cgroupRoot"] == f"/{init['cgroup']}"
    assert kubelet["clusterDNS"] == ["198.18.24.10"]
    assert proxy["clusterCIDR"] == build_cni(BLOCK)["plugins"][0]["ipam"]["ranges"][0][0]["subnet"]
    assert init["address"] == "198.18.31.254/30"
    assert init["gateway"] == "198.18.31.253"
    assert f"unix://{kubelet['containerRuntimeEndpoint'].removeprefix('unix://')}" in init["etc"]["crictl.yaml"]
    assert set(init["run"]) == set(PROGRAMS) <= set(init["programs"])
    assert "restrict_oom_score_adj = true" in build_containerd(restrict_oom=True)
    assert "restrict_oom_score_adj = false" in build_containerd(restrict_oom=False)


def test_dns_is_one_service_at_the_address_of_the_kubelet() -> None:
    objects = build_dns(image="image:1", address=str(BLOCK.dns))
    (service,) = [one for one in objects if one["kind"] == "Service"]
    assert service["spec"]["clusterIP"] == "198.18.24.10"
    (deployment,) = [one for one in objects if one["kind"] == "Deployment"]
    assert deployment["spec"]["template"]["metadata"]["labels"] == service["spec"]["selector"]


def test_only_a_fresh_ready_counts() -> None:
    def node(status: str) -> str:
        heard = "2026-01-01T00:00:05Z"
        ready = {"type": "Ready", "status": status, "message": "cni", "lastHeartbeatTime": heard}
        return json.dumps({"status": {"conditions": [ready]}})

    assert _why_not_ready("", "") == "the kubelet has not registered it"
    assert _why_not_ready("{}", "") == "no status"
    assert _why_not_ready(node("False"), "") == "cni"
    assert _why_not_ready(node("True"), "2026-01-01T00:00:05Z") is None
    assert _why_not_ready(node("True"), "2026-01-01T00:00:06Z") == "the kubelet has said nothing yet"


def hierarchy(mount: Path, name: str, files: dict[str, str]) -> None:
    (mount / name).mkdir(parents=True)
    for file, text in {"tasks": "", **files}.items():
        (mount / name / file).write_text(text)


def test_groups_of_version_1_are_made_in_every_hierarchy(tmp_path: Path) -> None:
    for name in ("cpu,cpuacct", "memory", "pids", "cpuset"):
        hierarchy(tmp_path, name, {})
    (tmp_path / "cpu").symlink_to("cpu,cpuacct")
    create_group("capn-1", mount=tmp_path)
    create_group("capn-1", mount=tmp_path)
    assert [path.parent.name for path in find_groups("capn-1", mount=tmp_path)] == [
        "cpu,cpuacct",
        "cpuset",
        "memory",
        "pids",
    ]
    assert (tmp_path / "memory" / "capn-1" / "system").is_dir()


def test_groups_of_version_2_pass_the_controllers_on(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu io memory pids\n")
    create_group("capn-1", mount=tmp_path, cpu_shares=8192)
    assert (tmp_path / "capn-1" / "cpu.weight").read_text() == "313"
    assert (tmp_path / "capn-1" / "cgroup.subtree_control").read_text() == "+pids"
    assert find_groups("capn-1", mount=tmp_path) == [tmp_path / "capn-1"]


def test_missing_controllers_are_named(tmp_path: Path) -> None:
    with pytest.raises(TerminalError, match="no cgroup hierarchy for cpu, memory, pids below"):
        create_group("capn-1", mount=tmp_path)
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    with pytest.raises(TerminalError, match="does not offer the controllers memory, pids"):
        create_group("capn-1", mount=tmp_path)


def test_a_host_that_forbids_groups_is_told(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "capn-1").write_text("in the way")
    with pytest.raises(TerminalError, match="cannot make the cgroup capn-1 below"):
        create_group("capn-1", mount=tmp_path)


def test_removing_a_link_that_never_was_is_fine(tmp_path: Path) -> None:
    asyncio.run(Link(tmp_path).remove())
    assert Link(tmp_path).leaks() == []
