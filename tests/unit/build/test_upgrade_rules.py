"""Each refusal of a version, by its rule; and what is not refused."""

from __future__ import annotations

from typing import Any

import pytest

from capn.api.cluster import NestedCluster
from capn.api.machine import NestedMachine
from capn.build.companions import COMPANIONS
from capn.build.upgrade_rules import find_upgrade_refusal
from capn.parts.catalogue import RELEASES
from tests.unit.build.pool_samples import make_worker
from tests.unit.build.samples import make_cluster, make_machine


def planes(*versions: str, joined: bool = True) -> list[NestedMachine]:
    made = [make_machine(version=version) for version in versions]
    status = made[0].status.model_copy(update={"node_ref": make_worker(0).status.node_ref if joined else None})
    return [machine.model_copy(update={"status": status}) for machine in made]


def cluster(version: str, kind: str = "memory", **status: Any) -> NestedCluster:
    found = make_cluster(version=version, infrastructure={"kind": kind})
    return NestedCluster.model_validate(
        {"metadata": {"name": "demo", "namespace": "a", "uid": "u"}, "spec": found.spec.to_json(), "status": status}
    )


def rule(wanted: NestedCluster, control_planes: list[NestedMachine], *workers: str) -> tuple[str, str] | None:
    found = find_upgrade_refusal(wanted, control_planes, [make_worker(0, version=version) for version in workers])
    return None if found is None else (found.rule, found.message)


@pytest.mark.parametrize(
    ("running", "workers", "wanted"),
    [
        ([], [], "v1.37.2"),
        (["v1.37.2"], ["v1.30.0"], "v1.37.2"),  # no change: nothing is asked
        (["v1.36.3"], ["v1.36.3"], "v1.37.2"),
        (["v1.36.3"], ["v1.36.3"], "v1.36.4"),
        (["v1.36.3", "v1.37.2", "v1.37.2"], ["v1.36.3"], "v1.37.2"),
        (["v1.36.3", "v1.37.1"], ["v1.36.3"], "v1.37.2"),  # a newer patch in mid-upgrade
    ],
)
def test_what_is_taken_on(running: list[str], workers: list[str], wanted: str) -> None:
    assert rule(cluster(wanted), planes(*running) if running else [], *workers) is None


@pytest.mark.parametrize(
    ("running", "workers", "wanted", "name", "words"),
    [
        (["v1.37.2"], [], "v1.36.3", "VersionDowngrade", "never go back"),
        (["v1.37.2"], [], "v1.37.1", "VersionDowngrade", "v1.37.2 or newer"),
        (["v1.36.3", "v1.37.2"], [], "v1.36.3", "VersionDowngrade", "has joined with v1.37.2"),
        (["v1.35.1"], [], "v1.37.2", "VersionJump", "1.36 first"),
        (["v1.35.1", "v1.36.3"], [], "v1.37.2", "VersionJump", "one minor version at a time"),
        (["v1.36.3"], ["v1.33.0"], "v1.37.2", "VersionSkew", "at most 3 minors older"),
        (["v1.36.3"], ["v1.37.9"], "v1.37.2", "VersionSkew", "may not be newer"),
        (["v1.37.2"], [], "v1.38.0", "VersionUnknown", "1.36, 1.37"),
    ],
)
def test_each_rule_is_named(running: list[str], workers: list[str], wanted: str, name: str, words: str) -> None:
    found = rule(cluster(wanted), planes(*running), *workers)
    assert found is not None
    assert found[0] == name
    assert words in found[1]


def test_what_has_not_joined_may_be_taken_back() -> None:
    old, new = planes("v1.36.3"), planes("v1.37.2", joined=False)
    assert rule(cluster("v1.36.3"), [*old, *new]) is None


@pytest.mark.parametrize(
    ("kind", "endpoint", "refused"),
    [
        ("libvirt", {"host": "10.0.0.10", "port": 6443}, True),
        ("parent", {"host": "10.0.0.10", "port": 6443}, True),
        ("libvirt", {"host": "10.0.0.10", "port": 6443, "virtual": True}, False),
        ("libvirt", None, False),
        ("kubevirt", {"host": "10.0.0.10", "port": 6443}, False),
    ],
)
def test_a_fixed_endpoint_keeps_its_control_plane(
    kind: str,
    endpoint: dict[str, Any] | None,
    refused: bool,  # noqa: FBT001 - a column of the table above
) -> None:
    found = rule(cluster("v1.37.2", kind, **({"endpoint": endpoint} if endpoint else {})), planes("v1.36.3"))
    assert (found is not None) is refused
    if found is not None:
        assert found[0] == "EndpointFixed"
        assert "set it back to v1.36.3" in found[1]


def test_the_companions_are_those_that_node_images_are_built_from() -> None:
    built = {int(release.version.split(".")[1]): release for release in RELEASES}
    assert built.keys() == COMPANIONS.keys()
    for minor, release in built.items():
        assert COMPANIONS[minor].coredns == release.coredns
        assert COMPANIONS[minor].etcd.partition("-")[0] == release.etcd.removeprefix("v")
