"""Where CoreDNS is while there are nodes of two versions, and that it ends as kubeadm's."""

from __future__ import annotations

from typing import Any

import pytest

from capn import names
from capn.build.coredns import compute_dns_patch, describe_rollout, read_tag

OLD, NEW, PATCH = "v1.36.3", "v1.37.2", "v1.36.4"
KEY = names.LABEL_VERSION


def dns(tag: str = "v1.14.2", *, pinned: str | None = None, status: dict[str, int] | None = None) -> dict[str, Any]:
    pod = {
        "nodeSelector": {"os": "linux", **({KEY: pinned} if pinned else {})},
        "containers": [{"name": "coredns", "image": f"r.test/coredns/coredns:{tag}"}, {"name": "x", "image": "y"}],
    }
    return {
        "metadata": {"name": "coredns", "uid": "u", "resourceVersion": "7", "generation": 2},
        "spec": {"replicas": 2, "template": {"spec": pod}},
        "status": status or {},
    }


def patched(found: dict[str, Any] | None) -> tuple[str, str | None, dict[str, Any]]:
    assert found is not None
    assert found["metadata"] == {"uid": "u", "resourceVersion": "7"}
    pod = found["spec"]["template"]["spec"]
    assert pod["containers"][1] == {"name": "x", "image": "y"}
    return pod["containers"][0]["image"], pod["nodeSelector"][KEY], found["spec"]["strategy"]["rollingUpdate"]


def test_it_goes_to_new_nodes_and_no_old_pod_goes_first() -> None:
    found = compute_dns_patch(dns(), versions=(OLD, OLD), version=NEW)
    assert patched(found) == ("r.test/coredns/coredns:v1.14.6", NEW, {"maxUnavailable": 0, "maxSurge": 1})
    assert compute_dns_patch(dns("v1.14.6", pinned=NEW), versions=(OLD, NEW), version=NEW) is None


def test_it_is_kubeadms_again_when_all_nodes_are_new() -> None:
    found = compute_dns_patch(dns("v1.14.6", pinned=NEW), versions=(NEW,), version=NEW)
    assert patched(found) == ("r.test/coredns/coredns:v1.14.6", None, {"maxUnavailable": 1, "maxSurge": "25%"})
    assert compute_dns_patch(dns("v1.14.6"), versions=(NEW,), version=NEW) is None


def test_taken_back() -> None:
    found = compute_dns_patch(dns("v1.14.6", pinned=NEW), versions=(OLD,), version=OLD)
    assert patched(found) == ("r.test/coredns/coredns:v1.14.2", None, {"maxUnavailable": 1, "maxSurge": "25%"})


def test_the_same_image_everywhere_moves_nothing() -> None:
    assert compute_dns_patch(dns(), versions=(OLD, PATCH), version=PATCH) is None


def test_a_newer_patch_in_the_middle_moves_on() -> None:
    found = compute_dns_patch(dns("v1.14.6", pinned=NEW), versions=(OLD, NEW), version="v1.37.3")
    assert patched(found)[1] == "v1.37.3"


@pytest.mark.parametrize("live", [None, dns("v1.15.0"), dns("latest"), {"spec": {"template": {"spec": {}}}}])
def test_one_that_is_not_kubeadms_is_left_alone(live: Any) -> None:
    assert compute_dns_patch(live, versions=(OLD,), version=NEW) is None
    assert describe_rollout(live) is None
    assert live is None or read_tag(live) is None


def test_an_unknown_minor_changes_nothing() -> None:
    assert compute_dns_patch(dns(), versions=(OLD,), version="v1.99.0") is None


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}, None),
        ({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}, "0 of 2"),
        ({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 3}, "1 of 2"),
        ({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 3}, "2 of 2"),
        ({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 2}, "0 of 2"),
        ({}, "0 of 2"),
    ],
)
def test_how_far_it_is(status: dict[str, int], words: str | None) -> None:
    found = describe_rollout(dns("v1.14.6", status=status))
    assert found is None if words is None else words in str(found)
