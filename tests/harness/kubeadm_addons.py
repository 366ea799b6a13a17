"""kubeadm's add-ons in a simulated child, and what runs their pods: each node has its own version's images alone.

Role: the DaemonSet and Deployment controllers, a scheduler and kubelets, as far as an upgrade depends on them. It has
its own idea of which image is where, so that a test fails honestly when a pod lands where it cannot start.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from capn.api.resources import DAEMON_SET, DEPLOYMENT, NODE, POD
from capn.errors import ConflictError
from capn.kube.memory import MemoryKubeClient

Json = dict[str, Any]
REGISTRY = "registry.test"
COREDNS = {36: "v1.14.2", 37: "v1.14.6"}
SYSTEM = "kube-system"
_REPLICAS = 2


def _minor(version: str) -> int:
    return int(version.split(".")[1])


def build_proxy(version: str) -> Json:
    container = {
        "name": "kube-proxy",
        "image": f"{REGISTRY}/kube-proxy:{version}",
        "command": ["/usr/local/bin/kube-proxy", "--config=/var/lib/kube-proxy/config.conf"],
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
    }
    labels = {"k8s-app": "kube-proxy"}
    pod = {"hostNetwork": True, "nodeSelector": {"kubernetes.io/os": "linux"}, "containers": [container]}
    return {
        "metadata": {"name": "kube-proxy", "namespace": SYSTEM, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def build_dns(version: str) -> Json:
    container = {"name": "coredns", "image": f"{REGISTRY}/coredns/coredns:{COREDNS[_minor(version)]}"}
    labels = {"k8s-app": "kube-dns"}
    pod = {"nodeSelector": {"kubernetes.io/os": "linux"}, "containers": [container]}
    return {
        "metadata": {"name": "coredns", "namespace": SYSTEM, "labels": labels},
        "spec": {
            "replicas": _REPLICAS,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": "25%"}},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def image_of(workload: Mapping[str, Any]) -> str:
    return str(workload["spec"]["template"]["spec"]["containers"][0]["image"])


class Workloads:
    """The pods of the add-ons. `faults`: what was wrong at any moment. `restarted`: nodes whose kube-proxy was new.

    `held`: the end of an image's name whose pods do not become ready.
    """

    def __init__(self, api: MemoryKubeClient) -> None:
        self.api = api.as_manager("kube-controller-manager")
        self.faults: list[str] = []
        self.looks = 0
        self.held: str | None = None
        self._number = 0
        self._proxies: dict[str, tuple[str, str]] = {}
        # CoreDNS's pods by name, as the last round of the Deployment left them.
        self._dns: dict[str, Json] = {}
        self.restarted: set[str] = set()

    @staticmethod
    def runs(pod: Mapping[str, Any], nodes: Mapping[str, Json]) -> bool:
        return _runs(pod, nodes)

    def _is_running(self, pod: Mapping[str, Any], nodes: Mapping[str, Json]) -> bool:
        held = self.held is not None and str(pod["spec"]["containers"][0].get("image", "")).endswith(self.held)
        return _runs(pod, nodes) and not held

    async def run(self) -> None:
        seen = -1
        while True:
            if self.api.store.revision != seen:
                seen = self.api.store.revision
                await self.step()
            await asyncio.sleep(0.002)

    async def step(self) -> None:
        """One round of all controllers, then the look at what serves."""
        nodes = {node["metadata"]["name"]: node for node in (await self.api.list(NODE)).items}
        await self._collect(nodes)
        for daemon_set in (await self.api.list(DAEMON_SET, namespace=SYSTEM)).items:
            await self._run_daemon_set(daemon_set, nodes)
        if (deployment := await self.api.get(DEPLOYMENT, "coredns", SYSTEM)) is not None:
            await self._run_deployment(deployment, nodes)
        await self._look(nodes)

    async def _pods(self, owner: str) -> list[Json]:
        items = (await self.api.list(POD, namespace=SYSTEM)).items
        return [pod for pod in items if any(o["uid"] == owner for o in pod["metadata"].get("ownerReferences", ()))]

    async def _collect(self, nodes: Mapping[str, Json]) -> None:
        """Pods go with their node, and with their DaemonSet."""
        owners = {item["metadata"]["uid"] for item in (await self.api.list(DAEMON_SET, namespace=SYSTEM)).items}
        for pod in (await self.api.list(POD, namespace=SYSTEM)).items:
            owner: Json = next(iter(pod["metadata"].get("ownerReferences", ())), {})
            orphaned = owner.get("kind") == "DaemonSet" and owner["uid"] not in owners
            if orphaned or (pod["spec"].get("nodeName") and pod["spec"]["nodeName"] not in nodes):
                await self._delete(pod)

    async def _delete(self, pod: Json) -> None:
        await self.api.delete(POD, pod["metadata"]["name"], SYSTEM)

    async def _create(self, kind: str, owner: Json, node: str | None) -> None:
        self._number += 1
        template = owner["spec"]["template"]
        reference = {"apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": owner["metadata"]["uid"]}
        pod: Json = {
            "metadata": {
                "name": f"{owner['metadata']['name']}-{self._number}",
                "namespace": SYSTEM,
                "labels": template["metadata"]["labels"],
                "ownerReferences": [reference | {"controller": True}],
            },
            "spec": {**template["spec"], **({"nodeName": node} if node else {})},
        }
        await self.api.create(POD, pod)

    async def _run_daemon_set(self, owner: Json, nodes: Mapping[str, Json]) -> None:
        template, uid = owner["spec"]["template"]["spec"], owner["metadata"]["uid"]
        wanted = {name for name, node in nodes.items() if _may_run(template, node)}
        pods = {pod["spec"]["nodeName"]: pod for pod in await self._pods(uid)}
        for name in pods.keys() - wanted:
            await self._delete(pods.pop(name))
        for name in sorted(wanted - pods.keys()):
            await self._create("DaemonSet", owner, name)
        pods = {pod["spec"]["nodeName"]: pod for pod in await self._pods(uid)}
        old = [pod for pod in pods.values() if pod["spec"]["containers"] != template["containers"]]
        if old and owner["spec"]["updateStrategy"]["type"] == "RollingUpdate":
            victim = min(old, key=lambda pod: self._is_running(pod, nodes))
            await self._delete(victim)
            await self._create("DaemonSet", owner, victim["spec"]["nodeName"])
        pods = {pod["spec"]["nodeName"]: pod for pod in await self._pods(uid)}
        status = {
            "observedGeneration": owner["metadata"]["generation"],
            "desiredNumberScheduled": len(wanted),
            "updatedNumberScheduled": sum(pod["spec"]["containers"] == template["containers"] for pod in pods.values()),
            "numberAvailable": sum(self._is_running(pod, nodes) for pod in pods.values()),
        }
        await self._write_status(DAEMON_SET, owner, status)

    async def _run_deployment(self, owner: Json, nodes: Mapping[str, Json]) -> None:
        template, replicas = owner["spec"]["template"]["spec"], owner["spec"]["replicas"]
        rolling = owner["spec"]["strategy"]["rollingUpdate"]
        surge = 1 if isinstance(rolling["maxSurge"], str) else rolling["maxSurge"]
        pods = await self._restore_old(owner)
        new = [pod for pod in pods if _same(pod, template)]
        old = [pod for pod in pods if not _same(pod, template)]
        serving = sum(self._is_running(pod, nodes) for pod in pods)
        least = replicas - rolling["maxUnavailable"]
        broken = [pod for pod in old if not self._is_running(pod, nodes)]
        # As the real one: of pods that do not serve, those that are more than the least, new ones not counted.
        spare = len(pods) - least - sum(not self._is_running(pod, nodes) for pod in new)
        if old and serving > least:
            await self._delete(min(old, key=lambda pod: self._is_running(pod, nodes)))
        elif broken and spare > 0:
            await self._delete(broken[0])
        elif len(new) < replicas and len(pods) < replicas + surge:
            await self._create("ReplicaSet", owner, None)
        await self._schedule(owner["metadata"]["uid"], nodes)
        pods = await self._pods(owner["metadata"]["uid"])
        self._dns = {pod["metadata"]["name"]: pod for pod in pods}
        status = {
            "observedGeneration": owner["metadata"]["generation"],
            "replicas": len(pods),
            "updatedReplicas": sum(_same(pod, template) for pod in pods),
            "availableReplicas": sum(self._is_running(pod, nodes) for pod in pods),
        }
        await self._write_status(DEPLOYMENT, owner, status)

    async def _restore_old(self, owner: Json) -> list[Json]:
        """The Deployment's pods. Old ones that others deleted come back: their ReplicaSet is as large as it was."""
        template, uid = owner["spec"]["template"], owner["metadata"]["uid"]
        there = {pod["metadata"]["name"] for pod in await self._pods(uid)}
        for name, pod in self._dns.items():
            if name not in there and not _same(pod, template["spec"]):
                spec = {key: value for key, value in pod["spec"].items() if key != "nodeName"}
                old = {"metadata": owner["metadata"], "spec": {"template": {**template, "spec": spec}}}
                await self._create("ReplicaSet", old, None)
        return await self._pods(uid)

    async def _schedule(self, uid: str, nodes: Mapping[str, Json]) -> None:
        pods = await self._pods(uid)
        for pod in pods:
            if pod["spec"].get("nodeName"):
                continue
            able = [name for name, node in nodes.items() if _may_run(pod["spec"], node) and _is_open(node)]
            if able:
                load = {name: sum(p["spec"].get("nodeName") == name for p in pods) for name in able}
                # It does not know of images: the newest name first is where they may be missing.
                chosen = min(sorted(able, reverse=True), key=lambda name: load[name])
                await self.api.merge_patch(POD, pod["metadata"]["name"], SYSTEM, {"spec": {"nodeName": chosen}})
                pods = await self._pods(uid)

    async def _write_status(self, resource: Any, owner: Json, status: Json) -> None:
        if owner.get("status") != status:
            meta = {"name": owner["metadata"]["name"], "namespace": SYSTEM, "uid": owner["metadata"]["uid"]}
            try:
                await self.api.apply(resource, {"metadata": meta, "status": status}, subresource="status")
            except ConflictError:
                return  # deleted meanwhile

    async def _look(self, nodes: Mapping[str, Json]) -> None:
        """DNS serves, and each node has a kube-proxy that runs."""
        self.looks += 1
        pods = (await self.api.list(POD, namespace=SYSTEM)).items
        running = [pod for pod in pods if self._is_running(pod, nodes)]
        if not any(pod["metadata"].get("labels", {}).get("k8s-app") == "kube-dns" for pod in running):
            self.faults.append(f"no DNS: {[(p['metadata']['name'], p['spec'].get('nodeName')) for p in pods]}")
        proxies = {
            pod["spec"]["nodeName"]: pod
            for pod in running
            if pod["metadata"].get("labels", {}).get("k8s-app") == "kube-proxy"
        }
        live = {name for name in nodes if await self.api.get(NODE, name) is not None}
        self.faults += [f"no kube-proxy on {name}" for name in sorted(live - proxies.keys())]
        self.faults += [
            f"{pod['metadata']['name']} cannot start on {pod['spec']['nodeName']}"
            for pod in pods
            if pod["metadata"].get("labels", {}).get("k8s-app") == "kube-proxy"
            and pod["spec"]["nodeName"] in live
            and not self._is_running(pod, nodes)
        ]
        self._note_skew(proxies, nodes)
        for name, pod in proxies.items():
            node_uid, pod_uid = nodes[name]["metadata"]["uid"], pod["metadata"]["uid"]
            if (
                self._proxies.get(name, (node_uid, pod_uid)) != (node_uid, pod_uid)
                and self._proxies[name][0] == node_uid
            ):
                self.restarted.add(name)
            self._proxies[name] = (node_uid, pod_uid)

    def _note_skew(self, proxies: Mapping[str, Json], nodes: Mapping[str, Json]) -> None:
        """No kube-proxy may be newer than an API server that it may talk to."""
        planes = [
            _minor(node["status"]["nodeInfo"]["kubeletVersion"])
            for node in nodes.values()
            if "node-role.kubernetes.io/control-plane" in node["metadata"]["labels"]
        ]
        for name, pod in proxies.items():
            container = pod["spec"]["containers"][0]
            is_local = any(word.startswith("--master=") for word in container["command"])
            if not is_local and _minor(container["image"].rpartition(":")[2]) > min(planes, default=99):
                self.faults.append(f"kube-proxy on {name} is newer than an API server")


def _same(pod: Json, template: Mapping[str, Any]) -> bool:
    return all(pod["spec"].get(key) == template.get(key) for key in ("containers", "nodeSelector"))


def _is_open(node: Mapping[str, Any]) -> bool:
    return not node["spec"].get("unschedulable")


def _may_run(template: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    labels = node["metadata"]["labels"]
    required = ((template.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    terms = [term.get("matchExpressions", ()) for term in (required or {}).get("nodeSelectorTerms", ())]
    allowed = not terms or any(all(_matches(one, labels) for one in term) for term in terms)
    return allowed and (template.get("nodeSelector") or {}).items() <= labels.items()


def _matches(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert expression["operator"] == "NotIn"
    return labels.get(expression["key"]) not in expression["values"]


def _runs(pod: Mapping[str, Any], nodes: Mapping[str, Json]) -> bool:
    """Whether the pod's node is there and has its image."""
    node = nodes.get(pod["spec"].get("nodeName", ""))
    if node is None or "deletionTimestamp" in pod["metadata"]:
        return False
    version = node["status"]["nodeInfo"]["kubeletVersion"]
    own = {f"{REGISTRY}/kube-proxy:{version}", f"{REGISTRY}/coredns/coredns:{COREDNS[_minor(version)]}"}
    return pod["spec"]["containers"][0].get("image") in own


@asynccontextmanager
async def running_addons(api: MemoryKubeClient, version: str) -> AsyncIterator[Workloads]:
    """The child has kubeadm's add-ons of this version, and their pods run. Fails when DNS or a kube-proxy lacked."""
    kubeadm = api.as_manager("kubeadm")
    await kubeadm.create(DAEMON_SET, build_proxy(version))
    await kubeadm.create(DEPLOYMENT, build_dns(version))
    workloads = Workloads(api)
    for _ in range(6):
        await workloads.step()
    workloads.faults.clear()
    task = asyncio.create_task(workloads.run())
    try:
        yield workloads
        assert not task.done() or task.exception() is None, task.exception()
        assert workloads.faults == [], workloads.faults
        assert workloads.looks > 1
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
