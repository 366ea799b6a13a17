"""The life of a real cluster, in order; each test goes on where the one before ended.

One control plane and a worker of Kubernetes 1.36 serve a page -> a snapshot -> upgrade to 1.37, the controller killed
in the middle -> workers 1 -> 2 -> 1 -> a worker's VM destroyed and replaced -> the only control plane destroyed, and
restored from the newest snapshot -> the cluster deleted, a new one begun with the snapshot -> delete. Two clients call
the child's API and fetch the page all the while, and their errors are counted.

`make e2e-full`: four emulated machines at a time, most of an hour on two CPUs; CI has no time for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Kubectl
from tests.e2e.lab import BOOT_LIMIT_S, Lab, build_cluster, build_marks, condition, running_lab
from tests.e2e.served import Served, node_address, serving, web_pods

FORMER, VERSION = "v1.36.3", "v1.37.2"
NAMESPACE = "life"
NAME, HEIR = "old", "heir"
STORE = "disk"

pytestmark = build_marks("CAPN_E2E_FULL", "make e2e-full", boots=6)


def manifest(name: str, version: str, **spec: object) -> dict[str, Any]:
    common = {
        "machine": {"cpus": 2, "memory": "2048Mi", "disk": "6Gi"},
        "workers": [{"name": "pool", "replicas": 1}],
        "backup": {"store": STORE},
    }
    return build_cluster(NAMESPACE, name, version=version, **{**common, **spec})


@pytest.fixture(scope="module")
def lab(account: Path, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("life")
    (directory / "store").mkdir()
    settings = {"backup_stores": {STORE: {"kind": "directory", "path": str(directory / "store")}}}
    versions = [FORMER, VERSION]
    with running_lab(directory, account, kubectl, namespace=NAMESPACE, versions=versions, settings=settings) as lab:
        yield lab


@pytest.fixture(scope="module")
def served(lab: Lab) -> Iterator[Served]:
    lab.kubectl.apply(manifest(NAME, FORMER))
    lab.wait_for("the cluster is Ready", lambda: lab.is_ready(NAME), limit_s=2 * BOOT_LIMIT_S)
    with serving(lab, NAME, node=f"{NAME}-pool-0", replicas=2) as served:
        yield served


def patch(lab: Lab, spec: str) -> None:
    lab.kubectl("patch", "nestedcluster", NAME, "-n", NAMESPACE, "--type=merge", "-p", f'{{"spec": {spec}}}')


def machines(lab: Lab, role: str, name: str = NAME) -> dict[str, dict[str, Any]]:
    """A cluster's machines of one role, by name."""
    found = [item for item in lab.objects("nestedmachines") if item["spec"]["clusterName"] == name]
    return {item["metadata"]["name"]: item for item in found if item["spec"]["role"] == role}


def kubelets(lab: Lab) -> dict[str, str]:
    """The version of each node's kubelet, of those that are Ready."""
    nodes = lab.child(NAME).json("get", "nodes")["items"]
    return {
        node["metadata"]["name"]: node["status"]["nodeInfo"]["kubeletVersion"]
        for node in nodes
        if condition(node, "Ready")["status"] == "True"
    }


def back_up(lab: Lab, mark: str) -> dict[str, Any]:
    """Take a snapshot now; what the status says of it."""
    lab.kubectl("annotate", "nestedcluster", NAME, "-n", NAMESPACE, f"capn.dev/backup-now={mark}", "--overwrite")

    def done() -> bool:
        return bool(lab.cluster(NAME)["status"].get("backup", {}).get("lastRequest") == mark)

    lab.wait_for(f"the snapshot {mark} is taken", done, limit_s=BOOT_LIMIT_S)
    found: dict[str, Any] = lab.cluster(NAME)["status"]["backup"]["lastSuccess"]
    lab.say(f"{found}")
    return found


def remember(child: Kubectl, name: str) -> None:
    """Write something into the child that can be looked for later."""
    child("create", "configmap", name, "--from-literal=is=there")


def remembers(child: Kubectl) -> set[str]:
    names = child("get", "configmaps", "-n", "default", "-o", "name").split()
    return {name.partition("/")[2] for name in names} - {"kube-root-ca.crt"}


def test_a_cluster_of_the_former_minor_serves(lab: Lab, served: Served) -> None:
    assert lab.cluster(NAME)["status"]["version"] == FORMER
    assert set(kubelets(lab).values()) == {FORMER}
    served.report("the cluster at rest")


def test_a_snapshot_is_taken_on_demand(lab: Lab, served: Served) -> None:
    found = back_up(lab, "first")
    api, page = served.report("a snapshot")
    assert int(found["size"]) > 1 << 20
    assert api.errors == page.errors == 0


def test_a_jump_over_a_minor_and_a_step_back_are_refused(lab: Lab, served: Served) -> None:
    before = {item["metadata"]["uid"] for item in lab.objects("nestedmachines")}
    for version in ("v1.38.0", "v1.35.9"):
        done = lab.kubectl.run(
            "patch",
            "nestedcluster",
            NAME,
            "-n",
            NAMESPACE,
            "--type=merge",
            "-p",
            f'{{"spec": {{"version": "{version}"}}}}',
        )
        if done.returncode == 0:
            lab.wait_for(
                f"{version} is refused",
                lambda: condition(lab.cluster(NAME), "Stalled")["status"] == "True",
                limit_s=60,
            )
            lab.say(condition(lab.cluster(NAME), "Stalled")["message"])
        else:
            lab.say(done.stderr.strip())
            assert "version" in done.stderr
    patch(lab, f'{{"version": "{FORMER}"}}')
    lab.wait_for("it is Ready as before", lambda: lab.is_ready(NAME), limit_s=60)
    assert {item["metadata"]["uid"] for item in lab.objects("nestedmachines")} == before
    api, page = served.report("refusals")
    assert api.errors == page.errors == 0


def test_the_control_plane_is_upgraded_and_nobody_notices(lab: Lab, served: Served) -> None:
    patch(lab, f'{{"version": "{VERSION}"}}')

    def joins() -> bool:
        news = [m for m in machines(lab, "control-plane").values() if m["spec"]["version"] == VERSION]
        return bool(news) and str(news[0].get("status", {}).get("bootstrap", {}).get("stage", "")).startswith(
            "kubeadm/"
        )

    lab.wait_for("a control plane of the new version joins", joins, limit_s=BOOT_LIMIT_S)
    lab.controller.kill()
    lab.say("the controller was killed")
    lab.controller.start()

    def upgraded() -> bool:
        found = machines(lab, "control-plane")
        return {machine["spec"]["version"] for machine in found.values()} == {VERSION} and len(found) == 1

    lab.wait_for("the only control plane is a new one", upgraded, limit_s=2 * BOOT_LIMIT_S)
    api, page = served.report("upgrade of the control plane")
    assert page.errors == 0
    assert api.errors == 0


def test_then_the_workers_are(lab: Lab, served: Served) -> None:
    # Whose node goes cannot be asked; the endpoint's holder stays.
    served.address = lab.cluster(NAME)["status"]["endpoint"]["host"]
    lab.wait_for(
        "everything has the new version",
        lambda: (
            lab.is_ready(NAME)
            and lab.cluster(NAME)["status"]["version"] == VERSION
            and set(kubelets(lab).values()) == {VERSION}
            and len(machines(lab, "worker")) == 1
        ),
        limit_s=3 * BOOT_LIMIT_S,
    )
    api, page = served.report("upgrade of the worker")
    assert api.errors == 0
    assert page.errors == 0
    child = lab.child(NAME)
    recorded = child("get", "configmap", "kubeadm-config", "-n", "kube-system", "-o", "yaml")
    assert f"kubernetesVersion: {VERSION}" in recorded

    def proxies_are_new() -> bool:
        pods = child.json("get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-proxy")["items"]
        tags = {pod["spec"]["containers"][0]["image"].rpartition(":")[2] for pod in pods}
        return tags == {VERSION} and all(condition(pod, "Ready")["status"] == "True" for pod in pods)

    # The pod of a node that is gone stays until the child's garbage collector comes by.
    lab.wait_for("every kube-proxy is new", proxies_are_new, limit_s=BOOT_LIMIT_S)


def test_workers_come_and_go(lab: Lab, served: Served) -> None:
    before = set(machines(lab, "worker"))
    lab.kubectl.apply(manifest(NAME, VERSION, workers=[{"name": "pool", "replicas": 2}]))
    lab.wait_for(
        "there are two workers",
        lambda: lab.is_ready(NAME) and len(machines(lab, "worker")) == 2,
        limit_s=2 * BOOT_LIMIT_S,
    )
    [old] = before
    lab.kubectl("annotate", "nestedmachine", old, "-n", NAMESPACE, "capn.dev/delete-machine=")
    lab.kubectl.apply(manifest(NAME, VERSION))
    lab.wait_for(
        "there is one again, and not the first", lambda: len(machines(lab, "worker")) == 1, limit_s=2 * BOOT_LIMIT_S
    )
    api, page = served.report("workers 1 -> 2 -> 1, the first one drained")
    [left] = machines(lab, "worker")
    assert left != old
    lab.wait_for("its node is gone", lambda: old not in kubelets(lab), limit_s=60)
    assert api.errors == 0
    assert page.errors == 0


def test_a_worker_that_lost_its_vm_is_replaced(lab: Lab, served: Served) -> None:
    [(name, machine)] = machines(lab, "worker").items()
    lab.destroy(name)

    def replaced() -> bool:
        uids = {found["metadata"]["uid"] for found in machines(lab, "worker").values()}
        return machine["metadata"]["uid"] not in uids and lab.is_ready(NAME) and len(web_pods(lab.child(NAME))) == 2

    lab.wait_for("another worker serves", replaced, limit_s=2 * BOOT_LIMIT_S)
    api, _ = served.report("the only worker lost and replaced")
    assert api.errors == 0


def test_the_only_control_plane_is_restored_from_the_newest_snapshot(lab: Lab, served: Served) -> None:
    [worker] = machines(lab, "worker")
    served.address = node_address(lab, worker)
    child = lab.child(NAME)
    remember(child, "before")
    snapshot = back_up(lab, "second")
    remember(child, "after")
    pods = set(web_pods(child))
    served.report("a second snapshot")
    [(name, machine)] = machines(lab, "control-plane").items()
    lab.destroy(name)

    def restored() -> bool:
        found = machines(lab, "control-plane")
        uids = {item["metadata"]["uid"] for item in found.values()}
        return len(found) == 1 and machine["metadata"]["uid"] not in uids and lab.is_ready(NAME)

    lab.wait_for("a new control plane has the data of before", restored, limit_s=2 * BOOT_LIMIT_S)
    api, page = served.report("the only control plane lost and restored")
    lab.say(f"{lab.cluster(NAME)['status']['restore']}")
    assert lab.cluster(NAME)["status"]["restore"]["snapshot"].endswith(snapshot["name"].rpartition("/")[2])
    assert remembers(child) == {"before"}
    said = lab.kubectl.json("get", "events", "-n", NAMESPACE)["items"]
    assert [event for event in said if event["reason"] == "RestoreStarted" and event["type"] == "Warning"]
    lab.wait_for("the pods of before are Ready", lambda: set(web_pods(child)) == pods, limit_s=BOOT_LIMIT_S)
    assert api.errors > 0  # nobody could have served it
    assert page.errors == 0


def copy_pki(lab: Lab, kind: str) -> dict[str, Any]:
    """A PKI Secret of the old cluster for the new one, as docs/lifecycle.md says."""
    old = lab.kubectl.json("get", "secret", f"{NAME}-{kind}", "-n", NAMESPACE)
    meta = {"name": f"{HEIR}-{kind}", "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": old["type"], "data": old["data"]}


def test_a_new_cluster_begins_with_a_snapshot(lab: Lab, served: Served) -> None:
    served.report("until the end")
    inherited = [copy_pki(lab, kind) for kind in ("ca", "etcd", "proxy", "sa")]
    lab.kubectl("delete", "nestedcluster", NAME, "-n", NAMESPACE, "--timeout=300s", timeout_s=330)
    assert lab.is_empty()
    lab.kubectl.apply(*inherited)
    source = {"store": STORE, "cluster": NAME}
    lab.kubectl.apply(manifest(HEIR, VERSION, restoreFrom=source))
    lab.wait_for("the new cluster is Ready", lambda: lab.is_ready(HEIR), limit_s=3 * BOOT_LIMIT_S)
    child = lab.child(HEIR)
    assert remembers(child) == {"before"}
    assert {node["metadata"]["name"] for node in child.json("get", "nodes")["items"]} == {
        *machines(lab, "control-plane", HEIR),
        *machines(lab, "worker", HEIR),
    }
    lab.wait_for("the page is served there", lambda: len(web_pods(child)) == 2, limit_s=BOOT_LIMIT_S)


def test_deleting_leaves_nothing(lab: Lab) -> None:
    lab.kubectl("delete", "nestedcluster", HEIR, "-n", NAMESPACE, "--timeout=300s", timeout_s=330)
    assert lab.is_empty()
