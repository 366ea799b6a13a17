"""One story with real machines, in order; each test goes on where the one before ended.

A failing bootstrap is explained -> create -> SIGKILL of the controller in mid-boot -> Ready -> a pod runs and DNS
answers -> the control plane loses its power and comes back -> a restart writes nothing -> delete leaves nothing.

One control plane and one worker; CAPN_E2E_WORKERS=0 leaves the worker out, which saves two minutes on an emulated CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from capn.dev.child import POD_NAME, build_pod, parse_lookup
from capn.dev.parent import Parent
from tests.conftest import Kubectl
from tests.e2e.lab import BOOT_LIMIT_S, Lab, build_cluster, condition, running_lab
from tests.harness.audit import AuditReader

VERSION = "v1.37.2"
USER = "system:serviceaccount:capn-system:capn-controller"
NAMESPACE = "e2e"
FULL = "CAPN_E2E_FULL"

pytestmark = [pytest.mark.usefixtures("in_order"), pytest.mark.e2e, pytest.mark.timeout(4 * BOOT_LIMIT_S)]


def manifest(name: str, **spec: object) -> dict[str, Any]:
    size = {"cpus": 2, "memory": "2048Mi", "disk": "6Gi"}
    return build_cluster(NAMESPACE, name, version=VERSION, machine=size, **spec)


WORKERS = int(os.environ.get("CAPN_E2E_WORKERS", "1"))
NODES = {"good-cp-0", *(f"good-pool-{ordinal}" for ordinal in range(WORKERS))}
GOOD = manifest(
    "good",
    workers=[{"name": "pool", "replicas": WORKERS}] if WORKERS else [],
    controlPlane={"machine": {"cpus": 2, "memory": "2560Mi", "disk": "6Gi"}},
)
BAD = manifest("bad", controlPlane={"apiServer": {"extraArgs": {"no-such-flag": "true"}}})


@pytest.fixture(scope="module")
def lab(account: Path, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("e2e"), account, kubectl, namespace=NAMESPACE, versions=[VERSION]) as lab:
        yield lab


def test_a_failing_bootstrap_is_explained(lab: Lab) -> None:
    lab.kubectl.apply(BAD)

    def failed() -> bool:
        return condition(lab.machine("bad-cp-0"), "BootstrapSucceeded")["status"] == "False" and bool(
            (lab.machine("bad-cp-0") or {})["status"].get("failureReason")
        )

    lab.wait_for("the bootstrap of bad-cp-0 fails", failed, limit_s=BOOT_LIMIT_S)
    shown = time.time()
    machine = lab.machine("bad-cp-0")
    assert machine is not None
    found = condition(machine, "BootstrapSucceeded")
    lab.say(f"{found['reason']}: {found['message']}")
    assert "kubeadm/" in found["message"]
    assert "no-such-flag" in found["message"]
    assert "no-such-flag" in machine["status"]["bootstrap"]["logTail"]
    assert machine["status"]["bootstrap"]["failed"] is True
    assert shown - _first_word_of_failure(lab) < 10
    cluster = lab.cluster("bad")
    assert condition(cluster, "Stalled")["status"] == "True"
    assert "bad-cp-0" in cluster["status"]["failureMessage"]


def _first_word_of_failure(lab: Lab) -> float:
    """When the controller heard of it, by its own log; the guest says it at once and every few seconds."""
    for line in lab.controller.log.read_text().splitlines():
        entry = json.loads(line)
        if entry.get("event") == "guest" and entry.get("state") == "failed":
            return datetime.fromisoformat(entry["timestamp"]).timestamp()
    raise AssertionError(lab.evidence())


def test_a_corrected_flag_has_the_machine_made_again(lab: Lab) -> None:
    failed = lab.machine("bad-cp-0")
    assert failed is not None
    uid = failed["metadata"]["uid"]
    lab.kubectl.apply(manifest("bad", controlPlane={"apiServer": {"extraArgs": {"v": "1"}}}))

    def boots() -> bool:
        machine = lab.machine("bad-cp-0") or {}
        stage = str(machine.get("status", {}).get("bootstrap", {}).get("stage", ""))
        return bool(machine and machine["metadata"]["uid"] != uid and stage.startswith("kubeadm/"))

    lab.wait_for("another machine runs kubeadm", boots, limit_s=BOOT_LIMIT_S)
    assert len(lab.domains()) == 1


def test_a_cluster_in_mid_boot_can_be_deleted(lab: Lab) -> None:
    _delete(lab, "bad")


def test_sigkill_in_mid_boot_makes_no_second_machine(lab: Lab) -> None:
    lab.kubectl.apply(GOOD)

    def in_kubeadm() -> bool:
        machine = lab.machine("good-cp-0") or {}
        return str(machine.get("status", {}).get("bootstrap", {}).get("stage", "")).startswith("kubeadm/")

    lab.wait_for("kubeadm runs in good-cp-0", in_kubeadm, limit_s=BOOT_LIMIT_S)
    domains = {name: lab.virsh("domuuid", name).strip() for name in lab.domains()}
    lab.controller.kill()
    lab.say("the controller was killed")
    lab.controller.start()
    time.sleep(5)
    assert domains.items() <= {name: lab.virsh("domuuid", name).strip() for name in lab.domains()}.items()


def test_it_becomes_ready(lab: Lab) -> None:
    lab.wait_for("good is Ready", lambda: condition(lab.cluster("good"), "Ready")["status"] == "True",
                 limit_s=2 * BOOT_LIMIT_S)  # fmt: skip
    assert len(lab.domains()) == len(NODES)
    assert lab.cluster("good")["status"]["version"] == VERSION
    nodes: list[dict[str, Any]] = []

    def answers() -> bool:
        nodes[:] = lab.child("good").json("get", "nodes")["items"]
        return True

    lab.wait_for("the child lists its nodes", answers, limit_s=BOOT_LIMIT_S)
    provider_ids = {machine["status"]["providerID"] for machine in lab.objects("nestedmachines")}
    assert {node["metadata"]["name"] for node in nodes} == NODES
    assert {node["spec"]["providerID"] for node in nodes} == provider_ids


def test_a_pod_runs_and_dns_answers(lab: Lab) -> None:
    child = lab.child("good")
    lab.wait_for("the child takes a pod", lambda: child.apply(build_pod()), limit_s=BOOT_LIMIT_S)
    pod: dict[str, Any] = {}

    def runs() -> bool:
        pod.update(child.json("get", "pod", POD_NAME))
        return bool(condition(pod, "Ready")["status"] == "True")

    lab.wait_for("the pod runs", runs, limit_s=BOOT_LIMIT_S)
    assert pod["spec"]["nodeName"] in (NODES - {"good-cp-0"} or NODES)
    answer = ""

    def answers() -> bool:
        nonlocal answer
        done = child.run("exec", POD_NAME, "--", "nslookup", "kubernetes.default.svc.cluster.local")
        answer = done.stdout
        return done.returncode == 0

    lab.wait_for("DNS answers in the pod", answers, limit_s=BOOT_LIMIT_S)
    # The first address of the default Service network, which kubeadm gives to the API server's Service.
    assert parse_lookup(answer) == "10.96.0.1"


@pytest.mark.skipif(FULL not in os.environ, reason=f"{FULL} is not set: CI has no time for it, `make e2e-full` has")
def test_a_control_plane_that_lost_its_power_comes_back_as_the_same_node(lab: Lab) -> None:
    child = lab.child("good")
    before = child.json("get", "node", "good-cp-0")
    [domain] = [name for name in lab.domains() if "good-cp-0" in name]
    lab.virsh("destroy", domain)
    lab.wait_for("the VM runs again", lambda: "running" in lab.virsh("domstate", domain), limit_s=BOOT_LIMIT_S)

    def is_back() -> bool:
        node = child.json("get", "node", "good-cp-0")
        rebooted = node["status"]["nodeInfo"]["bootID"] != before["status"]["nodeInfo"]["bootID"]
        return bool(rebooted and condition(node, "Ready")["status"] == "True")

    lab.wait_for("the child answers and its node is Ready", is_back, limit_s=BOOT_LIMIT_S)
    assert child.json("get", "node", "good-cp-0")["metadata"]["uid"] == before["metadata"]["uid"]
    lab.wait_for("good is Ready", lambda: condition(lab.cluster("good"), "Ready")["status"] == "True",
                 limit_s=BOOT_LIMIT_S)  # fmt: skip


def test_bootstrap_secrets_are_gone_after_the_join(lab: Lab) -> None:
    def clean() -> bool:
        tokens = lab.child("good").json("get", "secrets", "-n", "kube-system")["items"]
        return not [item for item in tokens if item["type"] == "bootstrap.kubernetes.io/token"] and len(
            lab.volumes()
        ) == len(NODES)

    lab.wait_for("tokens and seeds are gone", clean, limit_s=BOOT_LIMIT_S)


def test_the_hypervisor_sees_no_secret_and_the_controller_no_file_of_it(lab: Lab) -> None:
    secrets = lab.kubectl.json("get", "secrets", "-n", NAMESPACE)["items"]
    values = {value for secret in secrets for value in secret["data"].values() if len(value) > 40}
    assert values
    for domain in lab.domains():
        xml = lab.virsh("dumpxml", "--security-info", domain)
        assert not [value for value in values if value in xml]
        assert "token" not in xml.lower()
    assert not Path(lab.hypervisor.pool_path).exists()


def test_a_restarted_controller_writes_nothing(lab: Lab, parent: Parent) -> None:
    assert lab.controller.stop() == 0
    before = _versions(lab)
    audit = AuditReader(parent.audit_log)
    audit.skip()
    lab.controller.start()
    time.sleep(25)  # the lease is free: it leads at once and has looked at everything
    requests = [request for request in audit.read(user=USER) if not request.resource.endswith("leases")]
    assert [request for request in requests if request.writes] == []
    assert _versions(lab) == before
    assert "leading" in lab.controller.tail(200)


def _versions(lab: Lab) -> Mapping[str, str]:
    kinds = "nestedclusters,nestedmachines,secrets"
    return {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in lab.objects(kinds)}


def test_deleting_leaves_nothing(lab: Lab) -> None:
    _delete(lab, "good")
    assert not lab.domains()
    assert not lab.volumes()
    assert not lab.networks() - {"default"}
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    state = str(lab.hypervisor.state)
    processes = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    assert not [line for line in processes.splitlines() if "qemu-system" in line and state in line]
    assert "vnet" not in links or lab.domains()


def _delete(lab: Lab, name: str) -> None:
    lab.kubectl("delete", "nestedcluster", name, "-n", NAMESPACE, "--timeout=180s", timeout_s=200)

    def gone() -> bool:
        left = [item["metadata"]["name"] for item in lab.objects("nestedclusters,nestedmachines,secrets")]
        return not [item for item in left if item == name or item.startswith(f"{name}-")]

    lab.wait_for(f"nothing of {name} is left in the parent", gone, limit_s=60)
    assert not [domain for domain in lab.domains() if name in domain]
