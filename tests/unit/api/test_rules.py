"""The Python half of the rules: pydantic refuses what the API server refuses, at the same field."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from capn.api import checks
from capn.api.cluster import NestedCluster, NestedClusterSpec
from capn.api.crd_rules import MACHINE_FIXED
from capn.api.machine import NestedMachine, NestedMachineSpec
from capn.api.machine_template import quantity_mib
from tests.unit.api.cases import ACCEPTED, CLUSTERS, MACHINES, Refused, cluster, machine


def _paths(error: ValidationError) -> list[str]:
    """Paths as the API server prints them, of everything that is wrong."""
    paths = []
    for problem in error.errors():
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        paths.append((path + problem.get("ctx", {}).get("field", "")).removeprefix("."))
    return paths


@pytest.mark.parametrize("case", CLUSTERS, ids=lambda case: case.id)
def test_a_bad_cluster_is_refused_at_its_field(case: Refused) -> None:
    with pytest.raises(ValidationError) as caught:
        NestedCluster.model_validate(cluster(case.spec, case.name))
    # The API server writes the key of a map as [key], pydantic as .key.
    assert case.field.replace("[a]", ".a").replace("[v]", ".v") in _paths(caught.value)


@pytest.mark.parametrize("case", MACHINES, ids=lambda case: case.id)
def test_a_bad_machine_is_refused_at_its_field(case: Refused) -> None:
    with pytest.raises(ValidationError) as caught:
        NestedMachine.model_validate(machine(case.spec, case.name))
    assert case.field in _paths(caught.value)


@pytest.mark.parametrize("case", [case for case in CLUSTERS if case.words and case.field != "spec.isolation"])
def test_the_message_of_a_rule_says_the_fix(case: Refused) -> None:
    with pytest.raises(ValidationError) as caught:
        NestedCluster.model_validate(cluster(case.spec, case.name))
    assert case.words in str(caught.value)


@pytest.mark.parametrize("spec", ACCEPTED)
def test_a_good_spec_is_taken(spec: dict[str, Any]) -> None:
    assert NestedCluster.model_validate(cluster(spec)).spec.version == "v1.37.2"


def test_the_version_alone_is_enough() -> None:
    assert NestedClusterSpec(version="v1.37.2").to_json() == {
        "version": "v1.37.2",
        "isolation": "VM",
        "paused": False,
        "powerState": "On",
        "network": {
            "podCIDR": "10.244.0.0/16",
            "serviceCIDR": "10.96.0.0/16",
            "dnsDomain": "cluster.local",
            "cni": "Flannel",
        },
        "controlPlane": {
            "replicas": 1,
            "failureDomains": [],
            "extraSANs": [],
            "apiServer": {"extraArgs": {}},
            "controllerManager": {"extraArgs": {}},
            "scheduler": {"extraArgs": {}},
            "etcd": {"extraArgs": {}},
        },
        "workers": [],
        "addons": [],
        "machine": {"cpus": 2, "memory": "2560Mi", "disk": "10Gi"},
        "drain": {"timeoutSeconds": 600},
        "infrastructure": {"kind": "libvirt", "endpoint": "default"},
        "deletionPolicy": "Delete",
    }


def test_all_of_a_machine_but_labels_and_taints_is_fixed() -> None:
    fields = {field.alias or name for name, field in NestedMachineSpec.model_fields.items()}
    assert fields - set(MACHINE_FIXED) == {"labels", "taints"}


def test_a_boolean_is_no_number() -> None:
    with pytest.raises(ValidationError, match="write a number"):
        NestedCluster.model_validate(cluster({"controlPlane": {"replicas": True}}))


@pytest.mark.parametrize(("value", "words"), [(True, 'write "On" in quotes'), (False, 'write "Off" in quotes')])
def test_a_power_state_without_quotes_is_a_boolean_and_the_refusal_says_so(value: bool, words: str) -> None:  # noqa: FBT001
    with pytest.raises(ValidationError, match=words):
        NestedCluster.model_validate(cluster({"powerState": value}))


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        NestedCluster.model_validate(cluster({"size": 3}))


@pytest.mark.parametrize(("text", "mib"), [("512Mi", 512), ("4Gi", 4096), ("1Ti", 1 << 20)])
def test_quantity_in_mib(text: str, mib: int) -> None:
    assert quantity_mib(text) == mib


def test_null_is_absent_in_fields_and_maps_but_unknown_fields_stay_unknown() -> None:
    taken = NestedCluster.model_validate(cluster({"workers": [{"name": "a", "labels": {"b": None}}], "paused": None}))
    assert taken.spec.workers[0].labels == {}
    with pytest.raises(ValidationError, match="Extra inputs"):
        NestedCluster.model_validate(cluster({"size": None}))
    with pytest.raises(ValidationError):
        NestedCluster.model_validate(cluster({"workers": [None]}))


def test_malformed_networks_are_the_business_of_one_rule_only() -> None:
    # The others stay silent, so that a person reads one message and not four.
    assert checks.is_unicast("x")
    assert checks.are_apart("x", "10.0.0.0/8")
    assert checks.is_prefix_within("x", least=8, most=24)
    assert checks.node_capacity("x") is None
    assert checks.node_capacity("10.0.0.0/16") == 256


def test_metadata_says_who_owns_and_whether_deleting() -> None:
    owners = [{"kind": "A", "name": "a", "uid": "1"}, {"kind": "B", "name": "b", "uid": "2", "controller": True}]
    obj = machine({}) | {
        "metadata": {"name": "a", "ownerReferences": owners, "deletionTimestamp": "2026-01-01T00:00:00Z"}
    }
    metadata = NestedMachine.model_validate(obj).metadata
    assert (metadata.controller_uid, metadata.deleting) == ("2", True)
    assert not NestedMachine.model_validate(machine({})).metadata.deleting
