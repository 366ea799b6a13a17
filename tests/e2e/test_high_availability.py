"""Control planes of a real cluster, in order; each test goes on where the one before ended.

One control plane -> another argument of its API server -> three control planes -> the one that has the endpoint loses
its power and comes back -> another one's VM is destroyed and replaced -> one control plane again -> delete. A client
calls the child's API all the while, and its errors are counted. (What workloads meet when control planes come and go is
in test_life.py: with a worker beside them, three emulated control planes keep two CPUs so busy that etcd needs ten
seconds for a read.)

`make e2e-full`: three emulated machines, half an hour on two CPUs; CI has no time for it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Kubectl
from tests.e2e.lab import BOOT_LIMIT_S, Lab, build_cluster, build_marks, condition, running_lab
from tests.e2e.served import call_api, node_address, read_access, report
from tests.harness.steady_client import SteadyClient

VERSION = "v1.37.2"
NAMESPACE = "ha"
NAME = "trio"
SAN, FLAG = "api.trio.test", "max-requests-inflight"

pytestmark = build_marks("CAPN_E2E_FULL", "make e2e-full", boots=5)


def manifest(replicas: int) -> dict[str, Any]:
    return build_cluster(
        NAMESPACE,
        NAME,
        version=VERSION,
        machine={"cpus": 2, "memory": "2048Mi", "disk": "6Gi"},
        controlPlane={"replicas": replicas},
    )


@pytest.fixture(scope="module")
def lab(account: Path, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("ha")
    with running_lab(directory, account, kubectl, namespace=NAMESPACE, versions=[VERSION]) as lab:
        yield lab


@pytest.fixture(scope="module")
def api(lab: Lab) -> Iterator[SteadyClient]:
    """The cluster, Ready, and a client of its API."""
    lab.kubectl.apply(manifest(1))
    lab.wait_for("the cluster is Ready", lambda: is_settled(lab, 1), limit_s=2 * BOOT_LIMIT_S)
    with call_api(lab.child(NAME)) as client:
        yield client


def is_settled(lab: Lab, replicas: int) -> bool:
    """Whether the cluster is Ready with so many control planes, and nothing more is to be done."""
    status = lab.cluster(NAME).get("status", {})
    ready = all(
        condition({"status": status}, kind)["status"] == "True" for kind in ("Ready", "ControlPlaneReady")
    ) and not condition({"status": status}, "ControlPlaneReady")["reason"].startswith(("Scaling", "Rep", "Rem", "Wait"))
    planes = [m for m in lab.objects("nestedmachines") if m["spec"]["role"] == "control-plane"]
    return bool(ready and len(planes) == replicas and all(condition(m, "Ready")["status"] == "True" for m in planes))


def members(lab: Lab) -> dict[str, bool]:
    """etcd's members by name, and whether each is a learner."""
    tls = [f"--{kind}=/etc/kubernetes/pki/etcd/{name}" for kind, name in
           (("cacert", "ca.crt"), ("cert", "server.crt"), ("key", "server.key"))]  # fmt: skip
    child = lab.child(NAME)
    pods = child.json("get", "pods", "-n", "kube-system", "-l", "component=etcd")["items"]
    pod = next(pod["metadata"]["name"] for pod in pods if condition(pod, "Ready")["status"] == "True")
    said = child("exec", "-n", "kube-system", pod, "--", "etcdctl", *tls, "member", "list", "-w", "json")
    return {member["name"]: bool(member.get("isLearner")) for member in json.loads(said)["members"]}


def has_voters(lab: Lab, *ordinals: int) -> bool:
    return members(lab) == {f"{NAME}-cp-{ordinal}": False for ordinal in ordinals}


def boot_of(lab: Lab, name: str) -> str:
    """The boot that a node's kubelet speaks of, once it is Ready."""
    found = lab.child(NAME).json("get", "node", name)
    assert condition(found, "Ready")["status"] == "True"
    return str(found["status"]["nodeInfo"]["bootID"])


def holder(lab: Lab) -> str:
    """The machine that has the endpoint's address, as etcd's pod on it sees its network cards."""
    child = lab.child(NAME)
    host = lab.cluster(NAME)["status"]["endpoint"]["host"]
    for pod in child.json("get", "pods", "-n", "kube-system", "-l", "component=etcd")["items"]:
        name = pod["metadata"]["name"]
        show = ("busybox", "ip", "-o", "addr", "show", "to", host)
        done = child.run("exec", "--request-timeout=15s", "-n", "kube-system", name, "--", *show)
        if done.stdout.strip():
            return str(pod["spec"]["nodeName"])
    raise AssertionError(f"nobody has {host}")


def test_the_endpoint_is_no_machines_own(lab: Lab, api: SteadyClient) -> None:
    status = lab.cluster(NAME)["status"]["endpoint"]
    assert status["virtual"] is True
    assert status["host"] != node_address(lab, f"{NAME}-cp-0")
    assert has_voters(lab, 0)
    report(lab, api, "the cluster at rest")


def test_other_arguments_of_the_api_server_replace_the_only_one_and_nobody_notices(lab: Lab, api: SteadyClient) -> None:
    asked = {"apiServer": {"extraArgs": {FLAG: "300"}}, "extraSANs": [SAN]}
    wanted = manifest(1)
    wanted["spec"]["controlPlane"] |= asked
    planned = lab.plan(wanted)
    assert f"{NAME}-cp-0" in planned
    assert f"controlPlane.apiServer.extraArgs.{FLAG}: none -> 300" in planned
    lab.kubectl.apply(wanted)
    lab.wait_for(
        "the only one is another one",
        lambda: lab.machine(f"{NAME}-cp-0") is None and is_settled(lab, 1),
        limit_s=2 * BOOT_LIMIT_S,
    )
    count = report(lab, api, "other arguments of the API server")
    pod = lab.child(NAME).json("get", "pod", f"kube-apiserver-{NAME}-cp-1", "-n", "kube-system")
    assert f"--{FLAG}=300" in pod["spec"]["containers"][0]["command"]
    tls, host, port = read_access(lab.child(NAME))
    with socket.create_connection((host, port), timeout=30) as plain, tls.wrap_socket(plain, server_hostname=SAN):
        lab.say(f"the certificate is good for {SAN}")
    assert count.errors == 0


def test_one_becomes_three_and_nobody_notices(lab: Lab, api: SteadyClient) -> None:
    lab.kubectl("scale", "nestedcluster", NAME, "-n", NAMESPACE, "--replicas=3")
    lab.wait_for("there are three", lambda: is_settled(lab, 3), limit_s=4 * BOOT_LIMIT_S)
    count = report(lab, api, "1 -> 3")
    lab.wait_for("all three have a vote", lambda: has_voters(lab, 0, 1, 2), limit_s=BOOT_LIMIT_S)
    assert count.errors == 0
    assert count.answers > 30


def test_the_endpoint_outlives_its_holder_and_a_reboot_keeps_the_node(lab: Lab, api: SteadyClient) -> None:
    first = holder(lab)
    uid, boot = lab.child(NAME).json("get", "node", first)["metadata"]["uid"], boot_of(lab, first)
    lab.say(f"{first} has the endpoint; it loses its power")
    lab.virsh("destroy", lab.domain_of(first))
    lab.wait_for("another one has the endpoint", lambda: holder(lab) != first, limit_s=BOOT_LIMIT_S)
    lab.wait_for(f"{first} has booted anew", lambda: boot_of(lab, first) != boot, limit_s=BOOT_LIMIT_S)
    lab.wait_for("three are Ready again", lambda: is_settled(lab, 3), limit_s=BOOT_LIMIT_S)
    lab.wait_for("its member is back", lambda: has_voters(lab, 0, 1, 2), limit_s=BOOT_LIMIT_S)
    report(lab, api, f"{first} without power, and back")
    assert lab.child(NAME).json("get", "node", first)["metadata"]["uid"] == uid


def test_a_destroyed_one_is_replaced_while_there_is_quorum(lab: Lab, api: SteadyClient) -> None:
    lost = holder(lab)
    machine = lab.machine(lost)
    assert machine is not None
    lab.say(f"{lost} has the endpoint")
    lab.destroy(lost)

    def replaced() -> bool:
        found = lab.machine(lost)
        return found is not None and found["metadata"]["uid"] != machine["metadata"]["uid"] and is_settled(lab, 3)

    lab.wait_for(f"{lost} is another one and Ready", replaced, limit_s=2 * BOOT_LIMIT_S)
    lab.wait_for("all three have a vote", lambda: has_voters(lab, 0, 1, 2), limit_s=BOOT_LIMIT_S)
    report(lab, api, f"{lost} destroyed and replaced")


def test_three_become_one_and_nobody_notices(lab: Lab, api: SteadyClient) -> None:
    lab.kubectl("scale", "nestedcluster", NAME, "-n", NAMESPACE, "--replicas=1")
    lab.wait_for("there is one", lambda: is_settled(lab, 1), limit_s=2 * BOOT_LIMIT_S)
    count = report(lab, api, "3 -> 1")
    lab.wait_for("it has the only vote", lambda: has_voters(lab, 0), limit_s=BOOT_LIMIT_S)
    assert count.errors == 0


def test_deleting_leaves_nothing(lab: Lab) -> None:
    lab.kubectl("delete", "nestedcluster", NAME, "-n", NAMESPACE, "--timeout=300s", timeout_s=330)
    assert lab.is_empty()
