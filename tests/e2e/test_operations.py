"""What is done to a real cluster that stays as it is, in order; each test goes on where the one before ended.

A CA of the user's own and two kinds of workers -> add-ons -> a label while paused, and after -> `capn plan` and another
size of one pool -> the control plane's certificates renewed -> switched off and on -> delete. A client calls the
child's API all the while, and its errors are counted.

`make e2e-full`: four emulated machines at a time, half an hour on two CPUs; CI has no time for it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capn.dev.child import TOOLBOX_IMAGE
from tests.conftest import Kubectl
from tests.e2e.lab import BOOT_LIMIT_S, Lab, build_cluster, build_marks, condition, running_lab
from tests.e2e.served import call_api, report
from tests.harness.steady_client import SteadyClient

VERSION = "v1.37.2"
NAMESPACE = "ops"
NAME = "day2"
PLANE, SMALL, BATCH = f"{NAME}-cp-0", f"{NAME}-small-0", f"{NAME}-batch-0"
TAINT = {"key": "only", "value": "batch", "effect": "NoSchedule"}

pytestmark = build_marks("CAPN_E2E_FULL", "make e2e-full", boots=4)


def machine(memory_mib: int) -> dict[str, Any]:
    return {"cpus": 2, "memory": f"{memory_mib}Mi", "disk": "6Gi"}


def manifest(*, small_mib: int = 1280, **spec: object) -> dict[str, Any]:
    workers = [
        {"name": "small", "replicas": 1, "machine": machine(small_mib), "labels": {"tier": "small"}},
        {"name": "batch", "replicas": 1, "machine": machine(1792), "taints": [TAINT]},
    ]
    return build_cluster(NAMESPACE, NAME, version=VERSION, machine=machine(2048), workers=workers, **spec)


@pytest.fixture(scope="module")
def lab(account: Path, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("ops")
    with running_lab(directory, account, kubectl, namespace=NAMESPACE, versions=[VERSION]) as lab:
        yield lab


@pytest.fixture(scope="module")
def own_ca(lab: Lab) -> str:
    """A CA that the user made before the cluster; its certificate."""
    key, certificate = lab.directory / "ca.key", lab.directory / "ca.crt"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    make = ["req", "-x509", *curve, "-nodes", "-days", "1000", "-subj", "/CN=ours"]
    subprocess.run(["openssl", *make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    lab.kubectl("create", "secret", "tls", f"{NAME}-ca", "-n", NAMESPACE, f"--cert={certificate}", f"--key={key}")
    return certificate.read_text()


@pytest.fixture(scope="module")
def api(lab: Lab, own_ca: str) -> Iterator[SteadyClient]:
    """The cluster, Ready, and a client of its API."""
    assert own_ca
    lab.kubectl.apply(manifest())
    lab.wait_for("the cluster is Ready", lambda: lab.is_ready(NAME), limit_s=2 * BOOT_LIMIT_S)
    with call_api(lab.child(NAME)) as client:
        yield client


def node(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = lab.child(NAME).json("get", "node", name)
    return found


def uids(lab: Lab) -> dict[str, str]:
    return {found["metadata"]["name"]: found["metadata"]["uid"] for found in lab.objects("nestedmachines")}


def memory_kib(found: dict[str, Any]) -> int:
    return int(found["status"]["capacity"]["memory"].removesuffix("Ki"))


def test_workers_are_of_two_kinds(lab: Lab, api: SteadyClient) -> None:
    small, batch = node(lab, SMALL), node(lab, BATCH)
    assert small["metadata"]["labels"]["tier"] == "small"
    assert "tier" not in batch["metadata"]["labels"]
    assert TAINT in batch["spec"]["taints"]
    assert TAINT not in small["spec"].get("taints", [])
    assert memory_kib(small) < 1280 << 10 < memory_kib(batch) < 1792 << 10
    report(lab, api, "the cluster at rest")


def test_the_users_ca_is_honoured_and_stays_theirs(lab: Lab, own_ca: str) -> None:
    config = lab.child(NAME)(
        "config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.certificate-authority-data}"
    )
    secret = lab.kubectl.json("get", "secret", f"{NAME}-ca", "-n", NAMESPACE)
    assert config == secret["data"]["tls.crt"]
    assert own_ca
    assert "ownerReferences" not in secret["metadata"]


def test_add_ons_are_applied_and_kept(lab: Lab, api: SteadyClient) -> None:
    child = lab.child(NAME)
    greeting = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "greeting", "namespace": "default"}}
    content = json.dumps({**greeting, "data": {"says": "hello"}})
    lab.kubectl("create", "configmap", "ours", "-n", NAMESPACE, f"--from-literal=greeting.yaml={content}")
    lab.kubectl.apply(manifest(addons=[{"name": "ours", "configMapRef": {"name": "ours"}}]))

    def says_hello() -> bool:
        return bool(child.json("get", "configmap", "greeting")["data"]["says"] == "hello")

    def rows() -> list[tuple[object, ...]]:
        return [(row["name"], row["ready"], row["applied"]) for row in lab.cluster(NAME)["status"].get("addons", [])]

    lab.wait_for("the add-on is in the child", says_hello, limit_s=BOOT_LIMIT_S)
    lab.wait_for("the cluster says so", lambda: rows() == [("ours", True, 1)], limit_s=BOOT_LIMIT_S)
    child("delete", "configmap", "greeting")
    lab.wait_for("it is there again", says_hello, limit_s=BOOT_LIMIT_S)
    lab.kubectl.apply(manifest(addons=[]))
    lab.wait_for(
        "without the add-on it is gone",
        lambda: "NotFound" in child.run("get", "configmap", "greeting").stderr,
        limit_s=BOOT_LIMIT_S,
    )
    assert report(lab, api, "add-ons").errors == 0


def test_a_label_waits_while_paused_and_then_changes_in_place(lab: Lab, api: SteadyClient) -> None:
    before = uids(lab)
    wanted = manifest(paused=True, addons=[])
    wanted["spec"]["workers"][0]["labels"] = {"tier": "other"}
    lab.kubectl.apply(wanted)

    def is_paused() -> bool:
        found = lab.cluster(NAME)
        paused = condition(found, "Paused")
        return bool(paused["status"] == "True" and paused["observedGeneration"] == found["metadata"]["generation"])

    lab.wait_for("it says that it is paused", is_paused, limit_s=60)
    assert node(lab, SMALL)["metadata"]["labels"]["tier"] == "small"
    wanted["spec"]["paused"] = False
    lab.kubectl.apply(wanted)
    lab.wait_for(
        "the node has the label",
        lambda: node(lab, SMALL)["metadata"]["labels"]["tier"] == "other",
        limit_s=BOOT_LIMIT_S,
    )
    lab.kubectl.apply(manifest(addons=[]))
    lab.wait_for("all is as before", lambda: lab.is_ready(NAME), limit_s=BOOT_LIMIT_S)
    assert uids(lab) == before
    assert report(lab, api, "a label in place").errors == 0


def test_another_size_is_planned_and_rolls(lab: Lab, api: SteadyClient) -> None:
    before = uids(lab)
    wanted = manifest(small_mib=1408, addons=[])
    planned = lab.plan(wanted)
    assert SMALL in planned
    assert BATCH not in planned
    lab.kubectl.apply(wanted)

    def has_rolled() -> bool:
        small = [item for item in lab.objects("nestedmachines") if item["spec"].get("pool") == "small"]
        names = [item["metadata"]["name"] for item in small if item["metadata"]["uid"] != before[SMALL]]
        if len(small) != 1 or len(names) != 1 or not lab.is_ready(NAME):
            return False
        return memory_kib(node(lab, names[0])) > 1280 << 10

    lab.wait_for("the pool is of the new size", has_rolled, limit_s=2 * BOOT_LIMIT_S)
    assert before.items() - {SMALL: before[SMALL]}.items() <= uids(lab).items()
    assert report(lab, api, "another size of a pool").errors == 0


def test_certificates_are_renewed_without_a_gap(lab: Lab, api: SteadyClient) -> None:
    child = lab.child(NAME)
    before = read_serial(lab)
    child.apply(build_host_pod("sh /usr/local/lib/capn/certificates.sh now"))

    def phase() -> str:
        return str(child.json("get", "pod", "on-host")["status"]["phase"])

    lab.wait_for("the program has ended", lambda: phase() in {"Succeeded", "Failed"}, limit_s=2 * BOOT_LIMIT_S)
    assert phase() == "Succeeded", child("logs", "on-host")
    assert read_serial(lab) != before
    lab.wait_for("the machine's status says until when", lambda: says_when(lab), limit_s=BOOT_LIMIT_S)
    lab.say(f"{(lab.machine(PLANE) or {})['status']['certificates']}")
    restarted = ("kube-controller-manager", "kube-scheduler")
    lab.wait_for("they are Ready", lambda: all(runs(child, name) for name in restarted), limit_s=BOOT_LIMIT_S)
    assert report(lab, api, "certificates renewed").errors == 0


def read_serial(lab: Lab) -> str:
    """Of the certificate that the child's API server shows."""
    endpoint = lab.cluster(NAME)["status"]["endpoint"]
    where = f"{endpoint['host']}:{endpoint['port']}"
    shown = subprocess.run(
        ["openssl", "s_client", "-connect", where], input="", capture_output=True, text=True, timeout=60, check=True
    ).stdout
    return subprocess.run(
        ["openssl", "x509", "-noout", "-serial"], input=shown, capture_output=True, text=True, check=True
    ).stdout


def says_when(lab: Lab) -> bool:
    found = (lab.machine(PLANE) or {}).get("status", {}).get("certificates") or {}
    return bool(found.get("end")) and not found.get("failure")


def runs(child: Kubectl, component: str) -> bool:
    pods = child.json("get", "pods", "-n", "kube-system", "-l", f"component={component}")["items"]
    return all(condition(pod, "Ready")["status"] == "True" for pod in pods)


def build_host_pod(command: str) -> dict[str, Any]:
    """A pod that runs a command on the control plane's machine."""
    container = {
        "name": "host",
        "image": TOOLBOX_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["busybox", "chroot", "/host", "/bin/sh", "-c", command],
        "securityContext": {"privileged": True},
        "volumeMounts": [{"name": "host", "mountPath": "/host", "mountPropagation": "HostToContainer"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "on-host", "namespace": "default"},
        "spec": {
            "nodeName": PLANE,
            "hostPID": True,
            "hostNetwork": True,
            "restartPolicy": "Never",
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
            "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
        },
    }


def test_it_is_switched_off_and_on(lab: Lab, api: SteadyClient) -> None:
    child, before = lab.child(NAME), uids(lab)
    nodes = {item["metadata"]["uid"] for item in child.json("get", "nodes")["items"]}
    lab.kubectl.apply(manifest(small_mib=1408, addons=[], powerState="Off"))
    lab.wait_for(
        "it is off", lambda: condition(lab.cluster(NAME), "PoweredOff")["status"] == "True", limit_s=BOOT_LIMIT_S
    )
    assert {lab.virsh("domstate", name).strip() for name in lab.domains()} == {"shut off"}
    report(lab, api, "on the way off")
    lab.kubectl.apply(manifest(small_mib=1408, addons=[], powerState="On"))
    lab.wait_for("it is Ready again", lambda: lab.is_ready(NAME), limit_s=2 * BOOT_LIMIT_S)
    assert {item["metadata"]["uid"] for item in child.json("get", "nodes")["items"]} == nodes
    assert uids(lab) == before
    report(lab, api, "switched on")


def test_deleting_leaves_nothing_but_the_users_ca(lab: Lab) -> None:
    lab.kubectl("delete", "nestedcluster", NAME, "-n", NAMESPACE, "--timeout=300s", timeout_s=330)
    assert lab.is_empty()
    secrets = lab.kubectl("get", "secrets", "-n", NAMESPACE, "-o", "name").split()
    assert secrets == [f"secret/{NAME}-ca"]
