"""The CRDs in a real kube-apiserver: defaults, refusals with field and fix, and pydantic never disagreeing."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from capn.api.cluster import NestedCluster, NestedClusterSpec
from capn.api.crd_rules import MACHINE_FIXED
from capn.api.machine import NestedMachine
from capn.dev.parent import Parent
from tests.conftest import Kubectl
from tests.integration.spec_strategies import (
    FULL_CLUSTER_SPEC,
    FULL_MACHINE_SPEC,
    GOOD_CLUSTER_SPECS,
    GOOD_MACHINE_SPECS,
    strange_objects,
    sweep,
)
from tests.unit.api.cases import ACCEPTED, CLUSTERS, MACHINES, Refused, cluster, machine

PLURALS = {"NestedCluster": "nestedclusters", "NestedMachine": "nestedmachines"}
REFUSED = {400, 422}
FUZZ = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Api:
    """Dry-run creates over `kubectl proxy`: fast enough for a fuzz, no credentials in the test."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def create(self, obj: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """HTTP status and body; unknown fields are refused, as kubectl asks."""
        path = f"/apis/capn.dev/v1alpha1/namespaces/default/{PLURALS[obj['kind']]}?dryRun=All&fieldValidation=Strict"
        self._connection.request("POST", path, json.dumps(obj), {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def api(parent: Parent, binaries: Mapping[str, Path], crds: list[str]) -> Iterator[Api]:
    assert crds
    argv = [str(binaries["kubectl"]), f"--kubeconfig={parent.kubeconfig}", "proxy", "--port=0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout
        first = proxy.stdout.readline()
        found = re.search(r":(\d+)$", first.strip())
        assert found, first
        connected = Api(int(found[1]))
        yield connected
        connected.close()
        proxy.terminate()


def _causes(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    causes = body.get("details", {}).get("causes", [])
    return [(cause.get("field", ""), cause["message"]) for cause in causes if cause["field"] != "<nil>"]


def test_the_version_alone_gets_the_same_defaults_as_pydantic(api: Api) -> None:
    status, body = api.create(cluster({}))
    assert status == 201, body
    assert NestedClusterSpec.model_validate(body["spec"]) == NestedClusterSpec(version="v1.37.2")
    assert body["spec"]["network"]["podCIDR"] == "10.244.0.0/16"
    assert body["spec"]["machine"] == {"cpus": 2, "memory": "2560Mi", "disk": "10Gi"}
    assert body["spec"]["infrastructure"] == {"kind": "libvirt", "endpoint": "default"}


def test_part_of_an_object_gets_the_other_defaults(api: Api) -> None:
    status, body = api.create(cluster({"network": {"cni": "None"}, "workers": [{"name": "a", "machine": {"cpus": 4}}]}))
    assert status == 201, body
    assert body["spec"]["network"]["serviceCIDR"] == "10.96.0.0/16"
    assert body["spec"]["workers"] == [
        {"name": "a", "replicas": 1, "machine": {"cpus": 4, "memory": "2560Mi", "disk": "10Gi"}}
    ]


@pytest.mark.parametrize("spec", ACCEPTED)
def test_a_good_spec_is_taken(api: Api, spec: dict[str, Any]) -> None:
    status, body = api.create(cluster(spec))
    assert status == 201, body


@pytest.mark.parametrize("case", CLUSTERS, ids=lambda case: case.id)
def test_a_bad_cluster_is_refused_at_its_field_with_the_fix(api: Api, case: Refused) -> None:
    _assert_refused(api, cluster(case.spec, case.name), case)


@pytest.mark.parametrize("case", MACHINES, ids=lambda case: case.id)
def test_a_bad_machine_is_refused_at_its_field_with_the_fix(api: Api, case: Refused) -> None:
    _assert_refused(api, machine(case.spec, case.name), case)


def _assert_refused(api: Api, obj: dict[str, Any], case: Refused) -> None:
    status, body = api.create(obj)
    assert status == 422, body
    at_field = [message for field, message in _causes(body) if field.startswith(case.field)]
    assert at_field, body["message"]
    # The message of an enum or a bound is the API server's own; both list what is allowed.
    wanted = (case.words, "supported values", "should be", "may not be more", "Duplicate")
    assert any(words in message for message in at_field for words in wanted), at_field


CHANGES: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    ("downgrade by two minors", {"version": "v1.35.9"}, "spec.version", "older"),
    ("two minors at once", {"version": "v1.39.0"}, "spec.version", "one minor"),
    ("podCIDR", {"network": {"podCIDR": "10.245.0.0/16"}}, "spec.network.podCIDR", "new cluster"),
    ("serviceCIDR", {"network": {"serviceCIDR": "10.97.0.0/16"}}, "spec.network.serviceCIDR", "new cluster"),
    ("dnsDomain", {"network": {"dnsDomain": "x.y"}}, "spec.network.dnsDomain", "new cluster"),
    ("cni", {"network": {"cni": "None"}}, "spec.network.cni", "new cluster"),
    ("endpoint", {"infrastructure": {"endpoint": "b"}}, "spec.infrastructure", "new cluster"),
    ("kind", {"infrastructure": {"kind": "memory"}}, "spec.infrastructure", "new cluster"),
    ("isolation", {"isolation": "Namespace"}, "spec.isolation", "new cluster"),
)


@pytest.fixture
def demo(kubectl: Kubectl, crds: list[str], namespace: str) -> str:
    assert crds
    kubectl("-n", namespace, "create", "-f", "-", stdin=json.dumps(cluster({})))
    return namespace


@pytest.mark.parametrize(("spec", "field", "words"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_a_change_is_refused(kubectl: Kubectl, demo: str, spec: dict[str, Any], field: str, words: str) -> None:
    done = kubectl.run("-n", demo, "patch", "nc", "demo", "--type=merge", "-p", json.dumps({"spec": spec}))
    assert done.returncode != 0
    assert f"{field}: " in done.stderr
    assert words in done.stderr


def test_upgrades_are_taken(kubectl: Kubectl, demo: str) -> None:
    for version in ("v1.37.3", "v1.38.0"):
        kubectl("-n", demo, "patch", "nc", "demo", "--type=merge", "-p", json.dumps({"spec": {"version": version}}))
    assert kubectl.json("-n", demo, "get", "nc", "demo")["spec"]["version"] == "v1.38.0"


def test_a_machine_cannot_be_changed(kubectl: Kubectl, crds: list[str], namespace: str) -> None:
    assert crds
    kubectl("-n", namespace, "create", "-f", "-", stdin=json.dumps(machine({})))
    patch = json.dumps({"spec": {"machine": {"cpus": 4}}})
    done = kubectl.run("-n", namespace, "patch", "nm", "demo-cp-0", "--type=merge", "-p", patch)
    assert "spec: Forbidden: a machine cannot be changed" in done.stderr


@pytest.mark.parametrize("field", MACHINE_FIXED)
def test_nothing_but_labels_and_taints_of_a_machine_changes(
    kubectl: Kubectl, crds: list[str], namespace: str, field: str
) -> None:
    assert crds
    worker = {"role": "worker", "pool": "a", "labels": {"a": "b"}}
    kubectl("-n", namespace, "create", "-f", "-", stdin=json.dumps(machine(worker, "demo-a-0")))
    changed = {
        "role": "control-plane",
        "ordinal": 1,
        "version": "v1.37.3",
        "machine": {"image": "other"},
        "infrastructure": {"endpoint": "b"},
        "kubeadm": {"etcd": {"extraArgs": {"v": "1"}}},
        "bootstrap": {"dataSecretName": "s"},
    }
    patch = json.dumps({"spec": {field: changed.get(field, "other"), "labels": {"a": None, "c": "d"}}})
    done = kubectl.run("-n", namespace, "patch", "nm", "demo-a-0", "--type=merge", "-p", patch)
    assert "spec: Forbidden: a machine cannot be changed" in done.stderr


def test_labels_and_taints_of_a_machine_change(kubectl: Kubectl, crds: list[str], namespace: str) -> None:
    assert crds
    worker = {"role": "worker", "pool": "a", "labels": {"a": "b"}}
    kubectl("-n", namespace, "create", "-f", "-", stdin=json.dumps(machine(worker, "demo-a-0")))
    for spec in (
        {"labels": {"a": None, "c": "d"}, "taints": [{"key": "k", "value": "", "effect": "NoSchedule"}]},
        {"labels": {"c": None}, "taints": []},
    ):
        kubectl("-n", namespace, "patch", "nm", "demo-a-0", "--type=merge", "-p", json.dumps({"spec": spec}))
    live = kubectl.json("-n", namespace, "get", "nm", "demo-a-0")["spec"]
    assert (live.get("labels") or {}, live.get("taints") or []) == ({}, [])


def test_the_control_plane_scales_by_odd_numbers(kubectl: Kubectl, demo: str) -> None:
    done = kubectl.run("-n", demo, "scale", "nc", "demo", "--replicas=2")
    assert "etcd needs an odd number" in done.stderr
    kubectl("-n", demo, "scale", "nc", "demo", "--replicas=3")
    assert kubectl.json("-n", demo, "get", "nc", "demo")["spec"]["controlPlane"]["replicas"] == 3


def test_the_scale_subresource_shows_and_sets_the_control_plane_alone(kubectl: Kubectl, demo: str) -> None:
    """What kubectl scale, an autoscaler and `kubectl wait` see."""
    pool = {"name": "md", "replicas": 4}
    patch = json.dumps({"spec": {"workers": [pool]}})
    kubectl("-n", demo, "patch", "nc", "demo", "--type=merge", "-p", patch)
    selector = "capn.dev/cluster=demo,capn.dev/role=control-plane"
    status = {
        "selector": selector,
        "controlPlane": {"desired": 3, "created": 2, "ready": 1},
        "workers": {"desired": 4, "created": 4, "ready": 4},
    }
    patch = json.dumps({"status": status})
    kubectl("-n", demo, "patch", "nc", "demo", "--subresource=status", "--type=merge", "-p", patch)
    kubectl("-n", demo, "scale", "nc", "demo", "--current-replicas=1", "--replicas=3")
    shown = kubectl.json("-n", demo, "get", "nc", "demo", "--subresource=scale")
    assert shown["kind"] == "Scale"
    assert shown["spec"] == {"replicas": 3}
    assert shown["status"] == {"replicas": 2, "selector": selector}
    spec = kubectl.json("-n", demo, "get", "nc", "demo")["spec"]
    assert spec["controlPlane"]["replicas"] == 3
    assert spec["workers"] == [pool]
    for name, labels in (("demo-cp-0", {"capn.dev/role": "control-plane"}), ("demo-md-0", {"capn.dev/role": "worker"})):
        made = machine({"role": labels["capn.dev/role"]} | ({"pool": "md"} if "md" in name else {}), name)
        made["metadata"]["labels"] = labels | {"capn.dev/cluster": "demo"}
        kubectl("-n", demo, "create", "-f", "-", stdin=json.dumps(made))
    assert kubectl("-n", demo, "get", "nm", "-l", selector, "-o", "name").split() == [
        "nestedmachine.capn.dev/demo-cp-0"
    ]


def test_get_and_explain_are_readable(kubectl: Kubectl, demo: str) -> None:
    header = kubectl("-n", demo, "get", "nc", "-o", "wide").splitlines()[0].split()
    assert header == ["NAME", "PHASE", "VERSION", "MACHINES", "READY", "ENDPOINT", "REASON", "AGE"]
    assert kubectl("-n", demo, "get", "capn", "-o", "name").split() == ["nestedcluster.capn.dev/demo"]
    told = kubectl("explain", "nc.spec", "--recursive=false")
    assert "Kubernetes version, such as v1.37.2." in told
    every = kubectl("explain", "nm.status.conditions")
    assert "<no description>" not in told + every


def test_two_managers_share_the_conditions(kubectl: Kubectl, demo: str) -> None:
    for kind in ("Ready", "Backup"):
        condition = {
            "type": kind,
            "status": "True",
            "reason": "Done",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        status = {**cluster({}), "spec": None, "status": {"conditions": [condition]}}
        kubectl(
            "-n", demo, "apply", "--server-side", "--subresource=status", f"--field-manager={kind}", "-f", "-",
            stdin=json.dumps({key: value for key, value in status.items() if value}),
        )  # fmt: skip
    conditions = kubectl.json("-n", demo, "get", "nc", "demo")["status"]["conditions"]
    assert [condition["type"] for condition in conditions] == ["Ready", "Backup"]


def _compare(api: Api, model: type[BaseModel], obj: dict[str, Any]) -> bool:
    status, body = api.create(obj)
    assert status == 201 or status in REFUSED, body
    try:
        model.model_validate(obj)
        refusal = None
    except ValidationError as error:
        refusal = error
    said = body.get("message") if status != 201 else "accepted"
    assert (refusal is None) == (status == 201), f"pydantic: {refusal}\nAPI server: {said}\n{json.dumps(obj)}"
    if status == 422:
        assert all(re.match(r"\.?(spec|metadata)\b", field) for field, _ in _causes(body)), body
        assert _causes(body), body
    return status == 201


def _fuzz(
    api: Api,
    model: type[BaseModel],
    build: Callable[..., dict[str, Any]],
    specs: st.SearchStrategy[dict[str, Any]],
    names: tuple[str, ...],
) -> None:
    taken = refused = 0

    @FUZZ
    @given(strange_objects(specs, names))
    def compare(drawn: dict[str, Any]) -> None:
        nonlocal taken, refused
        accepted = _compare(api, model, {**build({}, drawn["name"]), "spec": drawn["spec"]})
        taken, refused = taken + accepted, refused + (not accepted)

    compare()
    # Both ways were tried, or the fuzz shows nothing.
    assert min(taken, refused) > 20, (taken, refused)


@pytest.mark.timeout(1800)
def test_every_field_of_a_cluster_with_every_strange_value_agrees(api: Api) -> None:
    taken = [_compare(api, NestedCluster, cluster(spec)) for spec in sweep(FULL_CLUSTER_SPEC)]
    assert min(taken.count(True), taken.count(False)) > 200


@pytest.mark.timeout(1800)
def test_every_field_of_a_machine_with_every_strange_value_agrees(api: Api) -> None:
    taken = [_compare(api, NestedMachine, machine(spec)) for spec in sweep(FULL_MACHINE_SPEC)]
    assert min(taken.count(True), taken.count(False)) > 100


@pytest.mark.timeout(1800)
def test_pydantic_and_the_api_server_agree_on_clusters(api: Api) -> None:
    _fuzz(api, NestedCluster, cluster, GOOD_CLUSTER_SPECS, ("demo", "a" * 40, "a" * 41, "a.b", "A", "a-", "0"))


@pytest.mark.timeout(1800)
def test_pydantic_and_the_api_server_agree_on_machines(api: Api) -> None:
    _fuzz(api, NestedMachine, machine, GOOD_MACHINE_SPECS, ("demo-cp-0", "a" * 63, "a" * 64, "a.b", "a-", "0"))
