"""One story on real KubeVirt, in order; each test goes on where the one before ended.

A bad image is explained -> create -> SIGKILL of the controller in mid-boot -> Ready -> pods on both nodes talk, DNS
answers -> a restart writes nothing -> a VM deleted behind our back is noticed and its machine replaced -> delete leaves
nothing. The controller has the rights of config/rbac and config/kubevirt and no others.

Not in CI, whose hour has no room for it: `make e2e-kubevirt`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from capn.dev.child import POD_NAME, build_pod, parse_lookup
from capn.image.catalogue import ImageCatalogue
from capn.image.recipe import KERNEL_COMMAND_LINE
from capn.settings import KubeVirtEndpoint, cache_dir
from tests.conftest import REPO
from tests.e2e.lab import BOOT_LIMIT_S, KubeVirtLab, build_cluster, condition
from tests.harness.audit import AuditReader
from tests.harness.controller_process import ControllerProcess
from tests.harness.kubevirt_ground import Ground, kubevirt_ground

VERSION = "v1.37.2"
USER = "system:serviceaccount:capn-system:capn-controller"
NAMESPACE = "e2e"
NODES = {"good-cp-0", "good-pool-0"}

pytestmark = [
    pytest.mark.usefixtures("in_order"),
    pytest.mark.e2e,
    pytest.mark.kubevirt,
    pytest.mark.timeout(4 * BOOT_LIMIT_S),
    pytest.mark.skipif(
        "CAPN_E2E_KUBEVIRT" not in os.environ,
        reason="a quarter of an hour that CI has not: `make e2e-kubevirt`; CI runs the contract on real KubeVirt",
    ),
]


def manifest(name: str, **spec: object) -> dict[str, Any]:
    network = {"podCIDR": "10.220.0.0/16", "serviceCIDR": "10.120.0.0/16"}
    return build_cluster(NAMESPACE, name, version=VERSION, infrastructure={"kind": "kubevirt"}, network=network, **spec)


GOOD = manifest(
    "good",
    controlPlane={"machine": {"cpus": 2, "memory": "2560Mi"}},
    workers=[{"name": "pool", "replicas": 1, "machine": {"cpus": 1, "memory": "2048Mi"}}],
)
BAD_IMAGE = manifest("bad", machine={"cpus": 2, "memory": "2048Mi", "image": "no-such-image"})


@pytest.fixture(scope="module")
def ground(binaries: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    image = ImageCatalogue(cache_dir() / "images" / "node").find(VERSION)
    assert image is not None, f"no node image for {VERSION}; run `make image` first"
    with kubevirt_ground(binaries, tmp_path_factory.mktemp("kubevirt")) as ground:
        ground.load(image, cache=cache_dir())
        yield ground


@pytest.fixture(scope="module")
def lab(ground: Ground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeVirtLab]:
    directory, kubectl = tmp_path_factory.mktemp("e2e"), ground.kubectl
    kubectl("apply", "--server-side", "-f", str(REPO / "crds"))
    kubectl("wait", "--for=condition=Established", "-f", str(REPO / "crds"), "--timeout=60s", timeout_s=70)
    account = ground.make_account("story")
    block = ground.node.link.block
    endpoint = KubeVirtEndpoint(
        image_pull_policy="Never", kernel_args=KERNEL_COMMAND_LINE, reserved_cidrs=(block.network,), grace_s=0
    )
    settings = {
        "endpoints": {"kubevirt": {"default": endpoint.model_dump(mode="json")}},
        "namespace": NAMESPACE,
        "log_format": "json",
    }
    controller = ControllerProcess(directory / "controller", account, settings)
    kubectl("create", "namespace", NAMESPACE)
    controller.start()
    lab = KubeVirtLab(kubectl, controller, NAMESPACE, directory)
    try:
        yield lab
    finally:
        controller.stop()


def test_a_bad_image_is_explained(lab: KubeVirtLab) -> None:
    lab.kubectl.apply(BAD_IMAGE)

    def explained() -> bool:
        return bool(condition(lab.machine("bad-cp-0"), "InfrastructureReady")["reason"] == "ImagePullFailed")

    lab.wait_for("the image of bad-cp-0 cannot be pulled", explained, limit_s=300)
    message = condition(lab.machine("bad-cp-0"), "InfrastructureReady")["message"]
    lab.say(message)
    assert "capn.dev/node:no-such-image" in message
    assert "capn image containerdisk" in message
    assert condition(lab.cluster("bad"), "Ready")["status"] == "False"
    delete(lab, "bad")


def test_sigkill_in_mid_boot_makes_no_second_machine(lab: KubeVirtLab) -> None:
    lab.kubectl.apply(GOOD)

    def in_kubeadm() -> bool:
        machine = lab.machine("good-cp-0") or {}
        return str(machine.get("status", {}).get("bootstrap", {}).get("stage", "")).startswith("kubeadm/")

    lab.wait_for("kubeadm runs in good-cp-0", in_kubeadm, limit_s=BOOT_LIMIT_S)
    before = instances(lab)
    lab.controller.kill()
    lab.say("the controller was killed")
    lab.controller.start()
    time.sleep(5)
    assert before.items() <= instances(lab).items()


def test_it_becomes_ready(lab: KubeVirtLab) -> None:
    lab.wait_for("good is Ready", lambda: condition(lab.cluster("good"), "Ready")["status"] == "True",
                 limit_s=2 * BOOT_LIMIT_S)  # fmt: skip
    assert set(instances(lab)) == NODES
    nodes = lab.child("good").json("get", "nodes")["items"]
    assert {node["metadata"]["name"] for node in nodes} == NODES
    provider_ids = {machine["status"]["providerID"] for machine in lab.objects("nestedmachines")}
    assert {node["spec"]["providerID"] for node in nodes} == provider_ids
    lab.say(f"objects of good: {' '.join(lab.left())}")


def test_pods_on_both_nodes_talk_and_dns_answers(lab: KubeVirtLab) -> None:
    child = lab.child("good")
    server = pod("server", "good-cp-0", "echo hello > /www/index.html; exec httpd -f -p 8080 -h /www")
    lab.wait_for("the child takes pods", lambda: child.apply(build_pod(), server), limit_s=BOOT_LIMIT_S)

    def both_run() -> bool:
        pods = (child.json("get", "pod", name) for name in ("server", POD_NAME))
        return all(condition(found, "Ready")["status"] == "True" for found in pods)

    lab.wait_for("a pod runs on each node", both_run, limit_s=BOOT_LIMIT_S)
    assert child.json("get", "pod", POD_NAME)["spec"]["nodeName"] == "good-pool-0"
    # Asked for only now: a pod that has just become Ready had no address in a look before that.
    address = child.json("get", "pod", "server")["status"]["podIP"]
    said = ""

    def fetched() -> bool:  # Debian's static busybox crashes in wget -T
        nonlocal said
        done = child.run("exec", POD_NAME, "--", "wget", "-qO-", f"http://{address}:8080/")
        said = done.stdout
        assert done.returncode == 0, f"wget from {address} ended with {done.returncode}: {done.stderr}"
        return True

    lab.wait_for("the worker's pod fetches from the control plane's", fetched, limit_s=300)
    assert said == "hello\n"
    # The other way, with more than fits a packet: the overlay's MTU is right.
    made = child.run("exec", POD_NAME, "--", "sh", "-c", "seq 200000 > /tmp/page && (httpd -p 8081 -h /tmp &)")
    assert made.returncode == 0, made.stderr
    worker = child.json("get", "pod", POD_NAME)["status"]["podIP"]
    big = child.run("exec", "server", "--", "sh", "-c", f"wget -qO- http://{worker}:8081/page | wc -l")
    assert big.stdout.strip() == "200000", big.stderr
    answer = ""

    def answers() -> bool:
        nonlocal answer
        done = child.run("exec", POD_NAME, "--", "nslookup", "kubernetes.default.svc.cluster.local")
        answer = done.stdout
        assert done.returncode == 0, f"nslookup ended with {done.returncode}: {done.stdout}{done.stderr}"
        return True

    lab.wait_for("DNS answers in the pod", answers, limit_s=BOOT_LIMIT_S)
    assert parse_lookup(answer) == "10.120.0.1"


def pod(name: str, node: str, script: str) -> dict[str, Any]:
    """A pod on a certain node, taints or not."""
    made = build_pod()
    made["metadata"]["name"] = name
    made["spec"] |= {"nodeName": node, "tolerations": [{"operator": "Exists"}]}
    made["spec"]["containers"][0]["command"] = ["sh", "-c", script]
    return made


def test_seeds_are_released(lab: KubeVirtLab) -> None:
    def clean() -> bool:
        tokens = lab.child("good").json("get", "secrets", "-n", "kube-system")["items"]
        vms = lab.objects("virtualmachines")
        volumes = [volume["name"] for vm in vms for volume in vm["spec"]["template"]["spec"]["volumes"]]
        return (
            not [item for item in tokens if item["type"] == "bootstrap.kubernetes.io/token"] and "seed" not in volumes
        )

    lab.wait_for("tokens and seeds are gone", clean, limit_s=BOOT_LIMIT_S)
    for name in NODES:
        secret = lab.kubectl.json("get", "secret", f"{name}-seed", "-n", NAMESPACE)
        assert len(secret["data"]["userdata"]) < 100


def test_a_restarted_controller_writes_nothing(lab: KubeVirtLab, ground: Ground) -> None:
    assert lab.controller.stop() == 0
    audit = AuditReader(ground.parent.audit_log)
    audit.skip()
    lab.controller.start()
    time.sleep(25)  # the lease is free: it leads at once and has looked at everything
    requests = [request for request in audit.read(user=USER) if not request.resource.endswith("leases")]
    assert [request for request in requests if request.writes] == []
    assert "leading" in lab.controller.tail(200)


def test_a_vm_deleted_behind_our_back_is_noticed_and_its_machine_replaced(lab: KubeVirtLab) -> None:
    uid = (lab.machine("good-pool-0") or {})["metadata"]["uid"]
    lab.kubectl("delete", "vm", "good-pool-0", "-n", NAMESPACE, "--wait=false")
    deleted = time.monotonic()

    def noticed() -> bool:
        meta = (lab.machine("good-pool-0") or {"metadata": {}})["metadata"]
        return meta.get("uid") != uid or "deletionTimestamp" in meta

    lab.wait_for("the machine of the lost VM is taken away", noticed, limit_s=120)
    assert time.monotonic() - deleted < 60, "by watch, not by the look of every five minutes"

    def replaced() -> bool:
        machine = lab.machine("good-pool-0")
        return machine is not None and machine["metadata"]["uid"] != uid and (
            condition(machine, "Ready")["status"] == "True"
        )  # fmt: skip

    lab.wait_for("another good-pool-0 has joined", replaced, limit_s=BOOT_LIMIT_S)


def test_deleting_leaves_nothing(lab: KubeVirtLab) -> None:
    delete(lab, "good")
    assert lab.left() == []


def test_every_right_is_used(ground: Ground) -> None:
    """The controller's role for KubeVirt has nothing that the story did not need."""
    role = yaml.safe_load((REPO / "config/kubevirt/role.yaml").read_text())
    granted = {
        (f"{group}/{resource}".lstrip("/"), verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    used = {(request.resource, request.verb) for request in AuditReader(ground.parent.audit_log).read(user=USER)}
    assert granted - used == set()


def instances(lab: KubeVirtLab) -> dict[str, str]:
    """UIDs of the running VMs by name."""
    return {item["metadata"]["name"]: item["metadata"]["uid"] for item in lab.objects("virtualmachineinstances")}


def delete(lab: KubeVirtLab, name: str) -> None:
    lab.kubectl("delete", "nestedcluster", name, "-n", NAMESPACE, "--timeout=180s", timeout_s=200)

    def gone() -> bool:
        return not [found for found in lab.left() if f"/{name}-" in found or found.endswith(f"-{name}")]

    lab.wait_for(f"nothing of {name} is left", gone, limit_s=120)
