"""A real cluster over two hypervisors, in order; each test goes on where the one before ended.

A control plane on one, a pool over both -> pods on both serve one page -> the other hypervisor loses its power and
comes back -> the pool leaves it -> a pool of another kind goes there -> delete. Two clients call the child's API and
fetch the page all the while, and their errors are counted. The hypervisors are two private libvirtd, the second in a
network of its own behind a cable (`tests/harness/two_hosts.py`).

`make e2e-full`: four emulated machines at a time, half an hour on two CPUs; CI has no time for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from capn.dev.accel import choose_accel
from tests.conftest import Kubectl, run_async
from tests.e2e.lab import (
    BOOT_LIMIT_S,
    Story,
    build_cluster,
    build_controller,
    build_marks,
    condition,
    require_images,
)
from tests.e2e.served import Served, fetch_page, node_address, serving, web_pods
from tests.harness.two_hosts import TwoHosts

VERSION = "v1.37.2"
NAMESPACE = "racks"
NAME = "wide"
PLANE, WEB, BATCH = f"{NAME}-cp-0", [f"{NAME}-web-0", f"{NAME}-web-1"], f"{NAME}-batch-0"
TAINT = {"key": "only", "value": "batch", "effect": "NoSchedule"}
ZONE = "topology.kubernetes.io/zone"

pytestmark = build_marks("CAPN_E2E_FULL", "make e2e-full", boots=4)


@dataclass
class TwoHostLab(Story):
    """A story on two hypervisors."""

    hosts: TwoHosts

    def machines_evidence(self) -> list[str]:
        """Every domain of both with its state."""
        return [line for name in "ab" for line in (f"--- domains of {name}", self.hosts.virsh(name, "list", "--all"))]

    def places(self) -> dict[str, str]:
        """The failure domain of each machine, as its NestedMachine has it."""
        found = self.objects("nestedmachines")
        return {item["metadata"]["name"]: item["spec"]["failureDomain"] for item in found}

    def uids(self) -> dict[str, str]:
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in self.objects("nestedmachines")}

    def row(self, domain: str) -> dict[str, Any]:
        """What the cluster's status says of a domain."""
        [found] = [row for row in self.cluster(NAME)["status"]["failureDomains"] if row["name"] == domain]
        return dict(found)


def machine(memory_mib: int) -> dict[str, Any]:
    return {"cpus": 2, "memory": f"{memory_mib}Mi", "disk": "6Gi"}


def manifest(*domains: str, batch: int = 0) -> dict[str, Any]:
    """The cluster: its pool `web` in these domains (none: all of them), and so many of another kind in `b`."""
    workers = [
        {"name": "web", "replicas": 2, "machine": machine(1280), "labels": {"tier": "web"}, "failureDomains": domains},
        {"name": "batch", "replicas": batch, "machine": machine(1408), "taints": [TAINT], "failureDomains": ["b"]},
    ]
    plane = {"failureDomains": ["a"]}
    return build_cluster(NAMESPACE, NAME, version=VERSION, machine=machine(2048), controlPlane=plane, workers=workers)


@pytest.fixture(scope="module")
def lab(account: Path, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHostLab]:
    require_images([VERSION])
    directory = tmp_path_factory.mktemp("racks")
    hosts = TwoHosts(directory)
    accel = run_async(lambda: choose_accel("auto", print))
    try:
        hosts.start()
        endpoint = hosts.settings(accel=accel, unsafe_disk_cache=True)
        controller = build_controller(directory, account, NAMESPACE, endpoint)
        kubectl("create", "namespace", NAMESPACE)
        controller.start()
        try:
            yield TwoHostLab(kubectl, controller, NAMESPACE, directory, hosts)
        finally:
            controller.stop()
    finally:
        left = hosts.stop()
        assert not left, f"left on the host: {left}"


@pytest.fixture(scope="module")
def served(lab: TwoHostLab) -> Iterator[Served]:
    lab.kubectl.apply(manifest())
    lab.wait_for("the cluster is Ready", lambda: lab.is_ready(NAME), limit_s=3 * BOOT_LIMIT_S)
    with serving(lab, NAME, node=PLANE, replicas=2, spread=ZONE) as served:
        yield served


def nodes_where_they_are_said_to_be(lab: TwoHostLab) -> dict[str, dict[str, Any]]:
    """The child's nodes by name; each VM is on the hypervisor that its NestedMachine and its node name."""
    places = lab.places()
    for name, domain in places.items():
        there = [host for host, found in lab.hosts.domains().items() if any(f"-{name}-" in one for one in found)]
        assert there == [domain], name
    nodes = {node["metadata"]["name"]: node for node in lab.child(NAME).json("get", "nodes")["items"]}
    assert {name: node["metadata"]["labels"][ZONE] for name, node in nodes.items()} == places
    return nodes


def test_machines_are_spread_over_both(lab: TwoHostLab, served: Served) -> None:
    nodes, places = nodes_where_they_are_said_to_be(lab), lab.places()
    assert places[PLANE] == "a"
    assert {places[name] for name in WEB} == {"a", "b"}
    assert all(nodes[name]["metadata"]["labels"]["tier"] == "web" for name in WEB)
    assert {name: (lab.row(name)["machines"], lab.row(name)["available"]) for name in "ab"} == {
        "a": (2, True),
        "b": (1, True),
    }
    served.report("the cluster at rest")


def test_a_page_is_served_across_both(lab: TwoHostLab, served: Served) -> None:
    """A node's port leads to both pods, one on each host, by turns that are random: 16 calls miss none."""
    places = lab.places()
    assert {places[pod["spec"]["nodeName"]] for pod in web_pods(lab.child(NAME)).values()} == {"a", "b"}
    for name in (PLANE, *WEB):
        address = node_address(lab, name)
        for _again in range(16):
            fetch_page(address)
        lab.say(f"{name} in {places[name]} leads to the page")
    api, page = served.report("across both")
    assert page.errors == api.errors == 0


def test_a_hypervisor_without_power_takes_nothing_else_with_it(lab: TwoHostLab, served: Served) -> None:
    before = lab.uids()
    served.report("until then")
    lab.hosts.cut_power()
    lab.wait_for("the cluster says that b is down", lambda: not lab.row("b")["available"], limit_s=300)
    lab.say(f"b: {lab.row('b')['message']}; {condition(lab.cluster(NAME), 'InfrastructureReady')}")
    ill = [name for name, domain in lab.places().items() if domain == "b"]

    def are_missed() -> bool:
        nodes = lab.child(NAME).json("get", "nodes")["items"]
        unready = {node["metadata"]["name"] for node in nodes if condition(node, "Ready")["status"] != "True"}
        return unready == set(ill)

    lab.wait_for("the child misses its nodes there", are_missed, limit_s=BOOT_LIMIT_S)
    api, _ = served.report("without b")
    assert api.errors == 0
    assert lab.uids() == before  # unknown is not gone: nobody is made elsewhere
    assert len(lab.hosts.virsh("a", "list", "--name").split()) == len(lab.places()) - len(ill)


def test_it_comes_back_with_its_machines(lab: TwoHostLab, served: Served) -> None:
    before = lab.uids()
    lab.hosts.restore_power()
    lab.wait_for("b takes machines again", lambda: lab.row("b")["available"], limit_s=300)
    lab.wait_for("the cluster is Ready again", lambda: lab.is_ready(NAME), limit_s=2 * BOOT_LIMIT_S)
    assert lab.uids() == before
    lab.wait_for("both pods serve", lambda: len(web_pods(lab.child(NAME))) == 2, limit_s=BOOT_LIMIT_S)
    # Both hosts are this one: a machine that boots takes CPUs from all others, and calls may come to their limit.
    served.report("b is back")


def test_a_pool_leaves_a_domain(lab: TwoHostLab, served: Served) -> None:
    before = lab.uids()
    [leaving] = [name for name in WEB if lab.places()[name] == "b"]
    wanted = manifest("a")
    planned = lab.plan(wanted)
    assert leaving in planned
    assert "failureDomain: b -> a" in planned
    assert PLANE not in planned
    lab.kubectl.apply(wanted)

    def has_left() -> bool:
        return set(lab.places().values()) == {"a"} and lab.is_ready(NAME) and lab.row("b")["machines"] == 0

    lab.wait_for("the pool is on a alone", has_left, limit_s=2 * BOOT_LIMIT_S)
    assert len(set(before.values()) & set(lab.uids().values())) == 2
    assert lab.hosts.domains()["b"] == set()
    api, page = served.report("a pool leaves a domain")
    assert api.errors == page.errors == 0


def test_another_kind_of_machine_goes_where_it_shall_be(lab: TwoHostLab, served: Served) -> None:
    lab.kubectl.apply(manifest("a", batch=1))
    lab.wait_for("the batch is there", lambda: lab.is_ready(NAME) and BATCH in lab.places(), limit_s=2 * BOOT_LIMIT_S)
    nodes = nodes_where_they_are_said_to_be(lab)
    assert lab.places()[BATCH] == "b"
    assert TAINT in nodes[BATCH]["spec"]["taints"]
    memory = {name: int(node["status"]["capacity"]["memory"].removesuffix("Ki")) for name, node in nodes.items()}
    web = {memory[name] for name, node in nodes.items() if node["metadata"]["labels"].get("tier") == "web"}
    assert max(web) < memory[BATCH] < memory[PLANE]
    api, page = served.report("a pool of another kind in b")
    assert api.errors == page.errors == 0


def test_deleting_leaves_nothing_on_either(lab: TwoHostLab) -> None:
    lab.kubectl("delete", "nestedcluster", NAME, "-n", NAMESPACE, "--timeout=300s", timeout_s=330)
    assert lab.hosts.domains() == {"a": set(), "b": set()}
    for name in "ab":
        volumes = [line.split()[0] for line in lab.hosts.virsh(name, "vol-list", "capn").splitlines() if line.strip()]
        assert [volume for volume in volumes if not volume.startswith("capn-node-")] == []
        assert lab.hosts.virsh(name, "net-dumpxml", "capn-shared").count("<host ") == 1  # nobody's
