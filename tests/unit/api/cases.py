"""Objects that pydantic and a real API server must refuse, with the field and words of the fix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Refused:
    """What is wrong with a spec, where the refusal must point, and words that its message must hold."""

    id: str
    spec: dict[str, Any]
    field: str
    words: str
    name: str = "demo"


def cluster(spec: dict[str, Any], name: str = "demo") -> dict[str, Any]:
    """A NestedCluster with version v1.37.2 unless the spec says otherwise."""
    return {
        "apiVersion": "capn.dev/v1alpha1",
        "kind": "NestedCluster",
        "metadata": {"name": name},
        "spec": {"version": "v1.37.2", **spec},
    }


def machine(spec: dict[str, Any], name: str = "demo-cp-0") -> dict[str, Any]:
    """A NestedMachine of cluster demo: a control plane unless the spec says otherwise."""
    return {
        "apiVersion": "capn.dev/v1alpha1",
        "kind": "NestedMachine",
        "metadata": {"name": name},
        "spec": {"clusterName": "demo", "role": "control-plane", "version": "v1.37.2", **spec},
    }


def _network(**fields: str) -> dict[str, Any]:
    return {"network": fields}


def _pool(**fields: object) -> dict[str, Any]:
    return {"workers": [{"name": "a", **fields}]}


_LABEL = "letter or digit at both ends"
_CHECK = "spec.healthCheck."

CLUSTERS = (
    Refused("add-on without content", {"addons": [{"name": "a"}]}, "spec.addons[0]", "exactly one"),
    Refused(
        "add-on with two contents",
        {"addons": [{"name": "a", "configMapRef": {"name": "x"}, "secretRef": {"name": "x"}}]},
        "spec.addons[0]",
        "exactly one",
    ),
    Refused(
        "add-on from another namespace",
        {"addons": [{"name": "a", "configMapRef": {"name": "other/x"}}]},
        "spec.addons[0].configMapRef.name",
        "write the object's name",
    ),
    Refused("version without v", {"version": "1.37.2"}, "spec.version", "such as v1.37.2"),
    Refused("version with leading zero", {"version": "v1.037.2"}, "spec.version", "such as v1.37.2"),
    Refused("version with line break", {"version": "v1.37.2\n"}, "spec.version", "such as v1.37.2"),
    Refused("reserved isolation", {"isolation": "Namespace"}, "spec.isolation", "set VM"),
    Refused("unknown isolation", {"isolation": "Container"}, "spec.isolation", "VM"),
    Refused("even replicas", {"controlPlane": {"replicas": 2}}, "spec.controlPlane.replicas", "1, 3, 5 or 7"),
    Refused("no replicas", {"controlPlane": {"replicas": 0}}, "spec.controlPlane.replicas", "1"),
    Refused("too many replicas", {"controlPlane": {"replicas": 9}}, "spec.controlPlane.replicas", "7"),
    Refused("malformed pods", _network(podCIDR="10.244.0.0"), "spec.network.podCIDR", "such as 10.244.0.0/16"),
    Refused("host bits", _network(podCIDR="10.244.0.1/16"), "spec.network.podCIDR", "without host bits"),
    Refused("pods by IPv6", _network(podCIDR="fd00::/64"), "spec.network.podCIDR", "IPv4"),
    Refused("pods too small", _network(podCIDR="10.244.0.0/25"), "spec.network.podCIDR", "/8 and /24"),
    Refused("pods too large", _network(podCIDR="16.0.0.0/7"), "spec.network.podCIDR", "/8 and /24"),
    Refused("services too large", _network(serviceCIDR="10.0.0.0/8"), "spec.network.serviceCIDR", "/12 and /24"),
    Refused("loopback", _network(podCIDR="127.0.0.0/16"), "spec.network.podCIDR", "private"),
    Refused("link-local", _network(podCIDR="169.254.0.0/16"), "spec.network.podCIDR", "private"),
    Refused("multicast", _network(podCIDR="224.0.0.0/16"), "spec.network.podCIDR", "private"),
    Refused("unspecified", _network(podCIDR="0.0.0.0/16"), "spec.network.podCIDR", "private"),
    Refused("overlap", _network(serviceCIDR="10.244.0.0/20"), "spec.network.serviceCIDR", "overlap"),
    Refused("overlap, other way", _network(podCIDR="10.96.0.0/12"), "spec.network.serviceCIDR", "overlap"),
    Refused("dns domain", _network(dnsDomain="Cluster.Local"), "spec.network.dnsDomain", "lower case"),
    Refused("unknown cni", _network(cni="Weave"), "spec.network.cni", "Flannel"),
    Refused("san", {"controlPlane": {"extraSANs": ["a_b"]}}, "spec.controlPlane.extraSANs[0]", "DNS name"),
    Refused("san like address", {"controlPlane": {"extraSANs": ["1.2.3.999"]}}, "spec.controlPlane.extraSANs[0]", "IP"),
    Refused("san twice", {"controlPlane": {"extraSANs": ["a", "b", "a"]}}, "spec.controlPlane.extraSANs", ""),
    Refused(
        "argument with dashes",
        {"controlPlane": {"apiServer": {"extraArgs": {"--v": "4"}}}},
        "spec.controlPlane.apiServer.extraArgs",
        "without leading dashes",
    ),
    Refused(
        "long argument",
        {"controlPlane": {"apiServer": {"extraArgs": {"a" * 64: ""}}}},
        "spec.controlPlane.apiServer.extraArgs",
        "at most 63",
    ),
    Refused(
        "argument with line break",
        {"controlPlane": {"etcd": {"extraArgs": {"v": "4\n5"}}}},
        "spec.controlPlane.etcd.extraArgs[v]",
        "one line",
    ),
    Refused("pool name", {"workers": [{"name": "A"}]}, "spec.workers[0].name", _LABEL),
    Refused("pool called cp", {"workers": [{"name": "cp"}]}, "spec.workers[0].name", "another name"),
    Refused("pool twice", {"workers": [{"name": "a"}, {"name": "a"}]}, "spec.workers", ""),
    Refused("pool too large", _pool(replicas=1001), "spec.workers[0].replicas", "1000"),
    Refused("negative pool", _pool(replicas=-1), "spec.workers[0].replicas", "0"),
    Refused(
        "bounds the wrong way round",
        _pool(autoscaling={"min": 2, "max": 1}),
        "spec.workers[0].autoscaling.min",
        "as min",
    ),
    Refused("no upper bound", _pool(autoscaling={"min": 1}), "spec.workers[0].autoscaling.max", ""),
    Refused("bound too high", _pool(autoscaling={"min": 1, "max": 1001}), "spec.workers[0].autoscaling.max", "1000"),
    Refused("bound below zero", _pool(autoscaling={"min": -1, "max": 1}), "spec.workers[0].autoscaling.min", "0"),
    Refused(
        "first size out of bounds",
        _pool(autoscaling={"min": 2, "max": 3}),
        "spec.workers[0].replicas",
        "from min to max",
    ),
    Refused("domain name", _pool(failureDomains=["Rack A"]), "spec.workers[0].failureDomains[0]", _LABEL),
    Refused("domain twice", _pool(failureDomains=["a", "b", "a"]), "spec.workers[0].failureDomains", ""),
    Refused("33 domains", _pool(failureDomains=[f"d{n}" for n in range(33)]), "spec.workers[0].failureDomains", "32"),
    Refused(
        "domain of control planes",
        {"controlPlane": {"failureDomains": [""]}},
        "spec.controlPlane.failureDomains[0]",
        _LABEL,
    ),
    Refused(
        "a zone beside domains",
        _pool(failureDomains=["a"], labels={"topology.kubernetes.io/zone": "x"}),
        "spec.workers[0].labels",
        "take the label away",
    ),
    Refused("drain for ever", {"drain": {"timeoutSeconds": 0}}, "spec.drain.timeoutSeconds", "1"),
    Refused("drain of two days", {"drain": {"timeoutSeconds": 172800}}, "spec.drain.timeoutSeconds", "86400"),
    Refused("label key", _pool(labels={"a/b/c": ""}), "spec.workers[0].labels", "dns.prefix/name"),
    Refused("label name too long", _pool(labels={"a/" + "b" * 64: ""}), "spec.workers[0].labels", "at most 63"),
    Refused("label value", _pool(labels={"a": "-"}), "spec.workers[0].labels[a]", "both ends"),
    Refused("reserved label", _pool(labels={"node-role.kubernetes.io/x": ""}), "spec.workers[0].labels", "your own"),
    Refused("reserved label, short", _pool(labels={"x.k8s.io/y": ""}), "spec.workers[0].labels", "your own"),
    Refused(
        "taint key", _pool(taints=[{"key": "-", "effect": "NoExecute"}]), "spec.workers[0].taints[0].key", "dns.prefix"
    ),
    Refused(
        "taint effect", _pool(taints=[{"key": "a", "effect": "No"}]), "spec.workers[0].taints[0].effect", "NoSchedule"
    ),
    Refused(
        "taint twice",
        _pool(taints=[{"key": "a", "effect": "NoExecute"}, {"key": "a", "value": "x", "effect": "NoExecute"}]),
        "spec.workers[0].taints",
        "",
    ),
    Refused("backup without store", {"backup": {}}, "spec.backup.store", ""),
    Refused("backup to an odd store", {"backup": {"store": "A"}}, "spec.backup.store", _LABEL),
    *(
        Refused(f"schedule {text!r}", {"backup": {"store": "a", "schedule": text}}, "spec.backup.schedule", "0 3 * * *")
        for text in (
            "@daily",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "* * * *",
            "*/0 * * * *",
        )
    ),
    Refused("no backup kept", {"backup": {"store": "a", "keep": 0}}, "spec.backup.keep", "1"),
    Refused("memory without unit", {"machine": {"memory": "4"}}, "spec.machine.memory", "such as 2560Mi"),
    Refused("memory in decimal", {"machine": {"memory": "4G"}}, "spec.machine.memory", "such as 2560Mi"),
    Refused("memory too large", {"machine": {"memory": "17Ti"}}, "spec.machine.memory", "16Ti"),
    Refused("memory too small for kubeadm", {"machine": {"memory": "1699Mi"}}, "spec.machine.memory", "1700Mi"),
    Refused(
        "memory of the control plane",
        {"controlPlane": {"machine": {"memory": "1Gi"}}},
        "spec.controlPlane.machine.memory",
        "1700Mi",
    ),
    Refused("memory of a pool", _pool(machine={"memory": "512Mi"}), "spec.workers", "1024Mi"),
    Refused(
        "memory that only pools use",
        {"machine": {"memory": "512Mi"}, "controlPlane": {"machine": {}}, **_pool()},
        "spec.machine.memory",
        "1024Mi",
    ),
    Refused("disk too small", {"machine": {"disk": "4095Mi"}}, "spec.machine.disk", "4Gi"),
    Refused("one cpu", {"machine": {"cpus": 1}}, "spec.machine.cpus", "2 cpus"),
    Refused(
        "one cpu of the control plane",
        {"controlPlane": {"machine": {"cpus": 1}}},
        "spec.controlPlane.machine.cpus",
        "2 cpus",
    ),
    Refused("image name", {"machine": {"image": "../x"}}, "spec.machine.image", "lower case"),
    Refused("endpoint", {"infrastructure": {"endpoint": "qemu:///system"}}, "spec.infrastructure.endpoint", _LABEL),
    Refused("unknown provider", {"infrastructure": {"kind": "aws"}}, "spec.infrastructure.kind", "libvirt"),
    Refused(
        "more nodes than pod networks",
        {**_network(podCIDR="10.244.0.0/24"), **_pool()},
        "spec.network.podCIDR",
        "larger network",
    ),
    Refused(
        "more nodes than pod networks once scaled",
        {**_network(podCIDR="10.244.0.0/22"), **_pool(autoscaling={"min": 1, "max": 4})},
        "spec.network.podCIDR",
        "larger network",
    ),
    Refused("unknown power state", {"powerState": "Asleep"}, "spec.powerState", "On"),
    Refused("a store of none", {"restoreFrom": {}}, "spec.restoreFrom.store", ""),
    Refused(
        "a snapshot elsewhere",
        {"restoreFrom": {"store": "a", "snapshot": "../../b/c1/20261127T030000Z-0a1b2c3d"}},
        "spec.restoreFrom.snapshot",
        "",
    ),
    Refused(
        "no snapshot's name",
        {"restoreFrom": {"store": "a", "snapshot": "latest"}},
        "spec.restoreFrom.snapshot",
        "without ending",
    ),
    Refused(
        "a cluster elsewhere",
        {"restoreFrom": {"store": "a", "cluster": "b/c"}},
        "spec.restoreFrom.cluster",
        "lower case",
    ),
    Refused(
        "a claim that begins with a snapshot",
        {"claim": {"path": "team/a"}, "restoreFrom": {"store": "a"}},
        "spec.restoreFrom",
        "by the child",
    ),
    Refused(
        "a claim with a backup",
        {"claim": {"path": "team/a"}, "backup": {"store": "a"}},
        "spec.backup",
        "the cluster that it is made for",
    ),
    Refused(
        "a claim with add-ons",
        {"claim": {"path": "team/a"}, "addons": [{"name": "a", "configMapRef": {"name": "x"}}]},
        "spec.addons",
        "the cluster that it is made for",
    ),
    Refused(
        "a claim that is off",
        {"claim": {"path": "team/a"}, "powerState": "Off"},
        "spec.powerState",
        "the cluster that it is made for",
    ),
    Refused(
        "rollout that allows nothing",
        _pool(rollout={"maxSurge": 0, "maxUnavailable": 0}),
        "spec.workers[0].rollout.maxSurge",
        "one of either",
    ),
    Refused("negative surge", _pool(rollout={"maxSurge": -1}), "spec.workers[0].rollout.maxSurge", "0"),
    Refused(
        "part that is no part", {"healthCheck": {"maxUnhealthy": "40 %"}}, "spec.healthCheck.maxUnhealthy", "'40%'"
    ),
    Refused(
        "no time to start", {"healthCheck": {"nodeStartupTimeoutSeconds": 0}}, _CHECK + "nodeStartupTimeoutSeconds", "1"
    ),
    Refused(
        "retries that never end",
        {"healthCheck": {"nodeStartupTimeoutSeconds": 3600}},
        _CHECK + "minHealthyPeriodSeconds",
        "longer",
    ),
    Refused("long name", {}, "metadata.name", "at most 40", name="a" * 41),
    Refused("name with a dot", {}, "metadata.name", "letters, digits and '-'", name="a.b"),
    Refused("long names together", {"workers": [{"name": "b" * 24}]}, "spec.workers", "shorten", name="a" * 35),
)

MACHINES = (
    Refused("worker without pool", {"role": "worker"}, "spec.pool", "name the pool"),
    Refused("control plane with pool", {"pool": "a"}, "spec.pool", "none of a control plane"),
    Refused("one cpu", {"machine": {"cpus": 1}}, "spec.machine.cpus", "2 cpus"),
    Refused("control plane's memory", {"machine": {"memory": "1Gi"}}, "spec.machine.memory", "1700Mi"),
    Refused(
        "worker's memory",
        {"role": "worker", "pool": "a", "machine": {"memory": "512Mi"}},
        "spec.machine.memory",
        "1024Mi",
    ),
    Refused("unknown role", {"role": "etcd"}, "spec.role", "worker"),
    Refused("domain name", {"failureDomain": "a.b"}, "spec.failureDomain", _LABEL),
    Refused("name with a dot", {}, "metadata.name", "node's name", name="a.b"),
    Refused("long name", {}, "metadata.name", "63", name="a" * 64),
)

ACCEPTED: tuple[dict[str, Any], ...] = (
    {},
    {"network": {"podCIDR": "10.0.0.0/8", "serviceCIDR": "172.16.0.0/12", "cni": "None", "dnsDomain": "k8s"}},
    {"network": {"podCIDR": "10.244.0.0/24"}},
    {"controlPlane": {"replicas": 7, "extraSANs": ["*.example.org", "10.0.0.1", "fd00::1"]}},
    {"workers": [{"name": "a", "labels": {"node.kubernetes.io/x": "", "kubernetes.io/os": "linux", "b.c/D_e": "F.g"}}]},
    {"workers": [{"name": "a", "taints": [{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoSchedule"}]}]},
    {"machine": {"memory": "512Mi"}, "infrastructure": {"kind": "memory"}, "workers": [{"name": "a"}]},
    {"machine": {"cpus": 1, "memory": "1Gi"}, "controlPlane": {"machine": {}}, "workers": [{"name": "a"}]},
    {"powerState": "Off"},
    {"machine": {"memory": "16Ti", "disk": "64Ti", "image": "v1.37.2"}},
    {"workers": [{"name": "a", "replicas": 2, "autoscaling": {"min": 0, "max": 255}}]},
    {"network": {"podCIDR": "10.244.0.0/22"}, "workers": [{"name": "a", "autoscaling": {"min": 1, "max": 3}}]},
    {"controlPlane": {"failureDomains": ["rack-a"]}, "workers": [{"name": "a", "failureDomains": ["b", "rack-a"]}]},
    {"workers": [{"name": "a", "failureDomains": [], "labels": {"topology.kubernetes.io/zone": "x"}}]},
    {"drain": {"timeoutSeconds": 1}},
    {"workers": [{"name": "a", "rollout": {"maxSurge": 0, "maxUnavailable": 1}}, {"name": "b", "rollout": {}}]},
    {"healthCheck": {}},
    {"healthCheck": {"enabled": False, "maxUnhealthy": "3", "maxRetries": 0, "unhealthyTimeoutSeconds": 1}},
    {"paused": None, "network": None, "workers": [{"name": "a", "replicas": 0, "machine": {"memory": "1Gi"}}]},
)  # each beside version v1.37.2
