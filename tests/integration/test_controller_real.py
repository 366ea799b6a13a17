"""The controller as a process, with the service account's rights, against the real parent and simulated machines."""

from __future__ import annotations

import base64
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from capn.build.kubeconfig import parse_kubeconfig
from capn.dev.parent import Parent
from tests.conftest import REPO, Kubectl
from tests.harness.audit import AuditReader
from tests.harness.controller_process import ControllerProcess

pytestmark = pytest.mark.timeout(300)
USER = "system:serviceaccount:capn-system:capn-controller"
SECRETS = {"one-ca", "one-etcd", "one-proxy", "one-sa", "one-kubeconfig"}


# What needs a cause that this test does not bring: a first start, a cluster that is orphaned, an event that repeats.
NOT_ALWAYS_USED = {
    ("create", "coordination.k8s.io/leases"),
    ("patch", "secrets"),
    ("get", "events.k8s.io/events"),
    ("patch", "events.k8s.io/events"),
}


def manifest(namespace: str, name: str = "one", **spec: object) -> dict[str, Any]:
    return {
        "apiVersion": "capn.dev/v1alpha1",
        "kind": "NestedCluster",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "version": "v1.37.2",
            "workers": [{"name": "workers", "replicas": 1}],
            "infrastructure": {"kind": "memory", "endpoint": "default"},
            **spec,
        },
    }


@pytest.fixture(scope="module")
def account(kubectl: Kubectl, crds: list[str], parent: Parent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig that holds nothing but the rights of config/rbac."""
    assert crds
    kubectl("apply", "-f", str(REPO / "config/default/namespace.yaml"))
    kubectl("apply", "-k", str(REPO / "config/rbac"))
    token = kubectl("create", "token", "capn-controller", "-n", "capn-system", "--duration=6h").strip()
    config = yaml.safe_load(parent.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path = tmp_path_factory.mktemp("account") / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def controller(account: Path, namespace: str, tmp_path: Path) -> Iterator[ControllerProcess]:
    settings = {
        "endpoints": {"memory": {"default": {"kind": "memory"}, "slow": {"kind": "memory", "boot_s": 4}}},
        "namespace": namespace,
        "log_format": "json",
    }
    process = ControllerProcess(tmp_path / "controller", account, settings)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def audit(parent: Parent) -> AuditReader:
    reader = AuditReader(parent.audit_log)
    reader.skip()
    return reader


def wait_for(what: str, check: Callable[[], bool], controller: ControllerProcess, *, limit_s: float = 90.0) -> None:
    deadline = time.monotonic() + limit_s
    while not check():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}\n{controller.tail()}"
        time.sleep(0.2)


def condition(obj: dict[str, Any], kind: str) -> dict[str, Any]:
    found = [entry for entry in obj.get("status", {}).get("conditions", []) if entry["type"] == kind]
    return found[0] if found else {"status": "Unknown", "reason": "", "message": ""}


def read(kubectl: Kubectl, namespace: str, name: str = "one") -> dict[str, Any]:
    found: dict[str, Any] = kubectl.json("get", "nestedcluster", name, "-n", namespace)
    return found


def wait_ready(kubectl: Kubectl, namespace: str, controller: ControllerProcess, name: str = "one") -> dict[str, Any]:
    def ready() -> bool:
        return bool(condition(read(kubectl, namespace, name), "Ready")["status"] == "True")

    wait_for(f"{name} Ready", ready, controller)
    return read(kubectl, namespace, name)


def delete_and_check(kubectl: Kubectl, namespace: str, controller: ControllerProcess) -> None:
    kubectl("delete", "nestedcluster", "--all", "-n", namespace, "--timeout=60s", timeout_s=90)

    def nothing_left() -> bool:
        kinds = "nestedclusters,nestedmachines,secrets"
        return not kubectl.json("get", kinds, "-n", namespace)["items"]

    wait_for("nothing left of the cluster", nothing_left, controller, limit_s=30)


def test_a_cluster_becomes_ready_and_goes_without_a_trace(
    kubectl: Kubectl, namespace: str, controller: ControllerProcess, audit: AuditReader
) -> None:
    kubectl.apply(manifest(namespace))
    cluster = wait_ready(kubectl, namespace, controller)
    assert cluster["status"]["phase"] == "Ready"
    assert cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"]
    assert cluster["status"]["machines"] == {"desired": 2, "created": 2, "ready": 2}
    assert all(condition(cluster, kind)["status"] == "False" for kind in ("Reconciling", "Stalled", "Paused"))
    secrets = {item["metadata"]["name"]: item for item in kubectl.json("get", "secrets", "-n", namespace)["items"]}
    assert set(secrets) >= SECRETS
    for name in SECRETS:
        assert secrets[name]["type"] == "cluster.x-k8s.io/secret"
        assert secrets[name]["metadata"]["labels"]["cluster.x-k8s.io/cluster-name"] == "one"
        assert secrets[name]["metadata"]["ownerReferences"][0]["uid"] == cluster["metadata"]["uid"]
    host, port = cluster["status"]["endpoint"]["host"], cluster["status"]["endpoint"]["port"]
    credentials = parse_kubeconfig(base64.b64decode(secrets["one-kubeconfig"]["data"]["value"]))
    assert credentials.server == f"https://{host}:{port}"
    machines = kubectl.json("get", "nestedmachines", "-n", namespace)["items"]
    assert {machine["metadata"]["name"] for machine in machines} == {"one-cp-0", "one-workers-0"}
    assert all(machine["status"]["providerID"].startswith("capn-memory://") for machine in machines)
    events = kubectl.json("get", "events.events.k8s.io", "-n", namespace)["items"]
    assert {event["regarding"]["kind"] for event in events} == {"NestedCluster", "NestedMachine"}
    delete_and_check(kubectl, namespace, controller)
    refused = [request for request in audit.read(user=USER) if request.code in {401, 403, 422}]
    assert not refused
    assert "Traceback" not in controller.log.read_text()


def test_every_right_that_is_granted_is_used_and_no_other(
    audit: AuditReader, kubectl: Kubectl, namespace: str, controller: ControllerProcess
) -> None:
    note = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "note", "namespace": "default"}}
    content = {"metadata": {"name": "notes", "namespace": namespace}, "data": {"note.yaml": json.dumps(note)}}
    kubectl.apply({"apiVersion": "v1", "kind": "ConfigMap", **content})
    kubectl.apply(manifest(namespace, addons=[{"name": "notes", "configMapRef": {"name": "notes"}}]))
    wait_ready(kubectl, namespace, controller)
    delete_and_check(kubectl, namespace, controller)
    used = {(request.verb, request.resource) for request in audit.read(user=USER)}
    granted = _granted(kubectl)
    # 'update' of finalizers is what ownerReferences with blockOwnerDeletion are checked against; it is no request.
    unused = {right for right in granted - used if not right[1].endswith("/finalizers")}
    assert used <= granted
    assert unused - NOT_ALWAYS_USED == set()


def _granted(kubectl: Kubectl) -> set[tuple[str, str]]:
    rules = kubectl.json("get", "clusterrole", "capn-controller")["rules"]
    rules += kubectl.json("get", "role", "capn-leader-election", "-n", "capn-system")["rules"]
    return {
        (verb, "/".join(part for part in (group, resource) if part))
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_at_rest_it_neither_writes_nor_reads(
    kubectl: Kubectl, namespace: str, controller: ControllerProcess, audit: AuditReader
) -> None:
    kubectl.apply(manifest(namespace))
    wait_ready(kubectl, namespace, controller)
    time.sleep(3)  # events are written behind
    audit.skip()
    time.sleep(12)
    requests = [request for request in audit.read(user=USER) if not request.resource.endswith("leases")]
    assert [request for request in requests if request.verb != "watch"] == []


def test_sigkill_in_mid_boot_ends_in_the_same_state(
    kubectl: Kubectl, namespace: str, controller: ControllerProcess
) -> None:
    kubectl.apply(manifest(namespace, infrastructure={"kind": "memory", "endpoint": "slow"}))

    def booting() -> bool:
        found = kubectl.json("get", "nestedmachines", "-n", namespace)["items"]
        return any(machine.get("status", {}).get("phase") == "Bootstrapping" for machine in found)

    wait_for("a machine boots", booting, controller)
    before = _identities(kubectl, namespace)
    controller.kill()
    controller.start()
    wait_ready(kubectl, namespace, controller)
    after = _identities(kubectl, namespace)
    assert before.items() <= after.items()
    assert {name for kind, name in after if kind == "NestedMachine"} == {"one-cp-0", "one-workers-0"}
    delete_and_check(kubectl, namespace, controller)


def _identities(kubectl: Kubectl, namespace: str) -> dict[tuple[str, str], str]:
    items = kubectl.json("get", "nestedclusters,nestedmachines,secrets", "-n", namespace)["items"]
    kept = [item for item in items if "bootstrap" not in item["metadata"]["name"]]
    return {(item["kind"], item["metadata"]["name"]): item["metadata"]["uid"] for item in kept}


def test_sigterm_ends_well_and_gives_the_lease_back(kubectl: Kubectl, controller: ControllerProcess) -> None:
    def holder() -> str:
        lease = kubectl.json("get", "lease", "capn", "-n", "capn-system")
        return str(lease["spec"].get("holderIdentity") or "")

    wait_for("the lease is held", lambda: "leading" in controller.log.read_text(), controller)
    assert holder()
    assert controller.stop() == 0
    assert holder() == ""
    assert controller.process is not None
    assert controller.process.returncode != -signal.SIGTERM


def test_a_broken_cluster_says_why_and_does_not_stop_others(
    kubectl: Kubectl, namespace: str, controller: ControllerProcess
) -> None:
    kubectl.apply(manifest(namespace, "bad", infrastructure={"kind": "memory", "endpoint": "nowhere"}))
    kubectl.apply(manifest(namespace))
    wait_ready(kubectl, namespace, controller)
    bad = read(kubectl, namespace, "bad")
    assert condition(bad, "Stalled")["status"] == "True"
    assert condition(bad, "Ready")["reason"] == "EndpointNotFound"
    message = condition(bad, "Ready")["message"]
    assert "nowhere" in message
    assert "default, slow" in message
    delete_and_check(kubectl, namespace, controller)


def test_a_namespace_deleted_with_everything_in_it_ends(
    kubectl: Kubectl, namespace: str, controller: ControllerProcess
) -> None:
    kubectl.apply(manifest(namespace))
    wait_ready(kubectl, namespace, controller)
    kubectl("delete", "namespace", namespace, "--timeout=90s", timeout_s=120)
    assert "NotFound" in kubectl.run("get", "namespace", namespace).stderr
    kubectl("create", "namespace", namespace)  # the fixture deletes it


def test_a_cluster_deleted_while_the_controller_is_down_goes_when_it_is_back(
    kubectl: Kubectl, namespace: str, controller: ControllerProcess
) -> None:
    kubectl.apply(manifest(namespace, infrastructure={"kind": "memory", "endpoint": "slow"}))
    wait_for("its finalizer", lambda: bool(read(kubectl, namespace)["metadata"].get("finalizers")), controller)
    controller.kill()
    kubectl("delete", "nestedcluster", "one", "-n", namespace, "--wait=false")
    assert read(kubectl, namespace)["metadata"]["deletionTimestamp"]
    controller.start()
    delete_and_check(kubectl, namespace, controller)


def test_logs_are_json_with_keys_and_hold_no_secret(
    kubectl: Kubectl, namespace: str, controller: ControllerProcess
) -> None:
    kubectl.apply(manifest(namespace, infrastructure={"kind": "memory", "endpoint": "slow"}))
    canaries: set[str] = set()

    def ready() -> bool:
        for secret in kubectl.json("get", "secrets", "-n", namespace)["items"]:
            canaries.update(_secret_lines(secret))
        return bool(condition(read(kubectl, namespace), "Ready")["status"] == "True")

    wait_for("Ready", ready, controller)
    assert len(canaries) > 20
    text = controller.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert any(line.get("namespace") == namespace or namespace in str(line.get("key", "")) for line in lines)
    everything = text + json.dumps(
        kubectl.json("get", "events.events.k8s.io,nestedclusters,nestedmachines", "-n", namespace)
    )
    assert not [canary for canary in canaries if canary in everything]
    delete_and_check(kubectl, namespace, controller)


def _secret_lines(secret: dict[str, Any]) -> set[str]:
    """Long lines of keys and bootstrap data: none of them may appear anywhere else."""
    names = ("tls.key", "value")
    texts = [
        base64.b64decode(secret["data"][name]).decode(errors="replace") for name in names if name in secret["data"]
    ]
    lines = {line.strip() for text in texts for line in text.splitlines()}
    return {line for line in lines if len(line) >= 48 and "CERTIFICATE" not in line}


def test_metrics_have_controller_runtimes_names(controller: ControllerProcess) -> None:
    text = controller.metrics()
    for name in ("workqueue_depth", "controller_runtime_reconcile_total", "leader_election_master_status"):
        assert name in text
