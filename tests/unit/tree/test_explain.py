from __future__ import annotations

from typing import Any

import pytest

from capn import names
from capn.api.conditions import ClusterCondition, MachineCondition
from capn.build.stamps import ANNOTATION_CLUSTER_UID, ANNOTATION_MACHINE
from capn.bundle import find_shipped
from capn.tree.explain import Link, Seen, Verdict, explain, parse_fixes

FIXES = parse_fixes((find_shipped("docs") / "troubleshooting.md").read_text())


def obj(name: str, conditions: dict[str, tuple[str, str]], **status: object) -> dict[str, Any]:
    """An object whose conditions are given as status and reason; the message repeats the reason."""
    found = [
        {"type": kind, "status": state, "reason": reason, "message": f"says {reason}"}
        for kind, (state, reason) in conditions.items()
    ]
    return {
        "kind": "NestedX",
        "metadata": {"name": name, "namespace": "n", "uid": f"uid-{name}"},
        "spec": {"role": "control-plane"},
        "status": {"conditions": found, **status},
    }


def good_cluster(**changed: tuple[str, str]) -> dict[str, Any]:
    kinds = [
        kind for kind in ClusterCondition if kind not in {"Stalled", "Reconciling", "Paused", "Deleting", "PoweredOff"}
    ]
    return obj("c", {kind.value: ("True", "Fine") for kind in kinds} | changed)


def good_machine(name: str = "c-cp-0", **changed: Any) -> dict[str, Any]:
    status = changed.pop("status", {"bootstrap": {"stage": "done"}})
    kinds = [kind for kind in MachineCondition if kind not in {"Paused", "Deleting", "PoweredOff"}]
    return obj(name, {kind.value: ("True", "Fine") for kind in kinds} | changed, **status)


def claim_of(machine: dict[str, Any], **changed: Any) -> dict[str, Any]:
    claim = good_machine("claim", **changed)
    claim["metadata"]["annotations"] = {
        names.ANNOTATION_OWNER_UID: machine["metadata"]["uid"],
        ANNOTATION_CLUSTER_UID: "uid-c",
        ANNOTATION_MACHINE: machine["metadata"]["name"],
    }
    return claim


def last(seen: Seen) -> Link:
    links = explain(seen, FIXES)
    assert all(link.verdict in {Verdict.OK, Verdict.UNKNOWN} for link in links[:-1])
    return links[-1]


def test_a_ready_cluster_has_the_whole_chain() -> None:
    machine = good_machine()
    links = explain(Seen(good_cluster(), [machine], good_cluster(), [claim_of(machine)]), FIXES)
    assert {link.verdict for link in links} == {Verdict.OK}
    order = list(dict.fromkeys(link.link for link in links))
    assert order == [
        *("cluster", "machine", "claim", "VM", "cloud-init stage", "kubeadm phase", "node"),
        *("API server", "CNI", "nesting"),
    ]


BAD_BOOT: dict[str, Any] = {
    "status": {
        "bootstrap": {"stage": "kubeadm/preflight", "failed": True, "logTail": "one\n[ERROR Port-2379]: in use"},
        "failureReason": "PortInUse",
    },
    "BootstrapSucceeded": ("False", "PortInUse"),
    "NodeHealthy": ("False", "Waiting"),
    "Ready": ("False", "PortInUse"),
}


def test_a_failed_kubeadm_phase_comes_with_the_end_of_its_log_and_the_fix() -> None:
    cluster = good_cluster(Ready=("False", "PortInUse"), CNIReady=("False", "Waiting"))
    found = last(Seen(cluster, [good_machine("c-md-0"), good_machine(**BAD_BOOT)]))
    assert (found.link, found.verdict, found.reason) == ("kubeadm phase", Verdict.FAILED, "PortInUse")
    assert found.message.startswith("at preflight: ")
    assert found.evidence[-1] == "[ERROR Port-2379]: in use"
    assert found.fix == FIXES["PortInUse"]


@pytest.mark.parametrize("stage", ["boot", "network", "runtime"])
def test_before_kubeadm_it_is_cloud_inits_stage(stage: str) -> None:
    machine = good_machine(
        status={"bootstrap": {"stage": stage}}, BootstrapSucceeded=("False", "Bootstrapping"), Ready=("False", "B")
    )
    found = last(Seen(good_cluster(Ready=("False", "WaitingForMachines")), [machine]))
    assert (found.link, found.verdict) == ("cloud-init stage", Verdict.WAITING)
    assert found.message.startswith(f"at {stage}: ")


def test_what_the_parent_refuses_is_the_claims_link() -> None:
    machine = good_machine(InfrastructureReady=("False", "MachineStarting"), Ready=("False", "MachineStarting"))
    claim = claim_of(machine, InfrastructureReady=("False", "BudgetExceeded"))
    found = last(Seen(good_cluster(Ready=("False", "WaitingForMachines")), [machine], good_cluster(), [claim]))
    assert (found.link, found.reason, found.fix) == ("VM", "BudgetExceeded", FIXES["BudgetExceeded"])
    waiting = good_cluster(InfrastructureReady=("False", "WaitingForParent"))
    refused = obj("claim", {"InfrastructureReady": ("False", "TooDeep")}, failureReason="TooDeep")
    found = last(Seen(waiting, [], refused))
    assert (found.link, found.verdict, found.reason) == ("claim", Verdict.FAILED, "TooDeep")


@pytest.mark.parametrize(
    ("changed", "link", "reason"),
    [
        ({"CertificatesAvailable": ("False", "CertificatesLost")}, "cluster", "CertificatesLost"),
        ({"ControlPlaneInitialized": ("False", "WaitingForAPIServer")}, "API server", "WaitingForAPIServer"),
        ({"CNIReady": ("False", "WaitingForCNI")}, "CNI", "WaitingForCNI"),
        ({"NestingReady": ("False", "WaitingForController")}, "nesting", "WaitingForController"),
        ({"Ready": ("False", "ChildUnreachable")}, "cluster", "ChildUnreachable"),
        ({"Paused": ("True", "Paused")}, "cluster", "Paused"),
    ],
)
def test_every_link_can_be_the_one(changed: dict[str, tuple[str, str]], link: str, reason: str) -> None:
    found = last(Seen(good_cluster(**changed), [good_machine()]))
    assert (found.link, found.reason) == (link, reason)
    assert found.fix


def test_nothing_made_yet_and_objects_that_are_half_there() -> None:
    bare: dict[str, Any] = {"metadata": {"name": "c"}}
    assert last(Seen(bare)).link == "machine"
    assert last(Seen(bare, [{"metadata": {"name": "m"}}])).link == "cloud-init stage"


def test_fixes_are_those_of_the_page() -> None:
    assert FIXES["WaitingForAPIServer"] == FIXES["WaitingForKubeadm"]
    assert FIXES["Paused"] == "set it to false"
    assert "reason" in FIXES  # the table's head is harmless
    assert parse_fixes("no table\n|a|b|\n") == {}


def test_a_cluster_that_is_off_is_off_and_nothing_else_is_wrong_with_it() -> None:
    cluster = good_cluster(Ready=("False", "PoweredOff"), ControlPlaneReady=("False", "PoweredOff"))
    cluster["spec"]["powerState"] = "Off"
    machine = good_machine(Ready=("False", "PoweredOff"), InfrastructureReady=("False", "PoweredOff"))
    found = last(Seen(cluster, [machine]))
    assert (found.link, found.verdict, found.reason) == ("cluster", Verdict.WAITING, "PoweredOff")
