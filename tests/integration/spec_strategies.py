"""Specs for the admission fuzz: mostly good ones, then a few places made strange."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

Path = tuple[str | int, ...]

STRANGE_TEXT = (
    "", " ", "a", "A", "-a", "a-", "a.b", "a_b", "a/b", "a/b/c", "/a", "a/", "ä", "a\n", "a\x00", "a" * 63, "a" * 64,
    "a" * 254, "b." * 126 + "b/c", "b." * 127 + "b/c", "b/" + "c" * 63, "b/" + "c" * 64, "10.0.0.0/8", "10.0.0.0/08",
    "10.0.0.0/+8", "10.0.0.1/8", "10.0.0.0/33", "010.0.0.0/8", "10.0.0.0", "10.0.0.0/12", "10.0.0.0/24",
    "10.0.0.0/25", "10.96.0.0/20", "10.244.0.0/16", "10.0.0.0/255.0.0.0", "127.0.0.0/8", "0.0.0.0/8", "224.0.0.0/8",
    "240.0.0.0/8", "255.255.255.0/24", "169.254.0.0/16", "168.0.0.0/8", "::/0", "fd00::/64", "::ffff:10.0.0.0/104",
    " 10.0.0.0/8", "10.0.0.0/8 ", "1.2.3.4", "1.2.3.04", "::1", "::ffff:1.2.3.4", "fe80::1%eth0", "1:2:3:4:5:6:7::",
    "::1.2.3.4", "*.example.org", "*", "*.*.a", "1.2.3.999", "v1.37.2", "v1.037.2", "v1.37.2\n", "v1.37", "v2.0.0",
    "v1.0.0", "v1.999.999", "v1.1000.0", "1Gi", "0Mi", "16Ti", "17Ti", "64Ti", "65Ti", "1e3Mi", "1.5Gi", "1700M",
    "1023Mi", "1024Mi", "1699Mi", "1700Mi", "4095Mi", "4Gi", "9999999999Ti", "VM", "Namespace", "Flannel", "None",
    "libvirt", "memory", "cp", "control-plane", "worker", "NoExecute", "kubernetes.io/x", "kubernetes.io/hostname",
    "x.kubernetes.io/y", "node.kubernetes.io/x", "a.node.kubernetes.io/x", "x.k8s.io/y", "k8s.io/y", "k8s.io",
    "kubelet.kubernetes.io/x", "--v", "* * * * *", "0 3 * * *", "60 * * * *", "@daily", "* * 0 * *",
)  # fmt: skip
STRANGE_NUMBERS = (-1, 0, 1, 2, 3, 4, 7, 8, 9, 10, 256, 257, 1000, 1001, 9999, 10000, 2**31, 2**63)
STRANGE_JSON: tuple[Any, ...] = (None, True, False, 1.5, [], {}, [""], {"a": "b"}, [{}], {"a": None}, [None])
STRANGE: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(STRANGE_TEXT),
    st.sampled_from(STRANGE_NUMBERS),
    st.sampled_from(STRANGE_JSON),
    st.text(max_size=8),
    st.ip_addresses().map(str),
)

_WORD = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
_MEMORY = st.sampled_from(["1700Mi", "2Gi", "2560Mi", "1Ti"])
_MACHINE = st.fixed_dictionaries(
    {}, optional={"cpus": st.integers(2, 8), "memory": _MEMORY, "disk": st.just("4Gi"), "image": _WORD}
)
_LABELS = st.dictionaries(st.sampled_from(["a", "b.c/d", "node.kubernetes.io/e"]), _WORD, max_size=2)
_TAINT = st.fixed_dictionaries(
    {"key": _WORD, "effect": st.sampled_from(["NoExecute", "NoSchedule"])}, optional={"value": _WORD}
)
_TAINTS = st.lists(_TAINT, max_size=2, unique_by=lambda taint: (taint["key"], taint["effect"]))
_ARGS = st.fixed_dictionaries(
    {}, optional={"extraArgs": st.dictionaries(_WORD, st.text("ab=,", max_size=5), max_size=2)}
)
_INFRASTRUCTURE = st.fixed_dictionaries(
    {}, optional={"kind": st.sampled_from(["libvirt", "memory"]), "endpoint": _WORD}
)
_DOMAINS = st.lists(_WORD, max_size=3, unique=True)
_POOL = st.fixed_dictionaries(
    {"name": _WORD.filter(lambda name: name != "cp")},
    optional={
        "replicas": st.integers(0, 3),
        "autoscaling": st.fixed_dictionaries({"min": st.just(0), "max": st.integers(3, 9)}),
        "machine": _MACHINE,
        "failureDomains": _DOMAINS,
        "labels": _LABELS,
        "taints": _TAINTS,
    },
)
_CONTROL_PLANE = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.sampled_from([1, 3, 5, 7]),
        "machine": _MACHINE,
        "failureDomains": _DOMAINS,
        "extraSANs": st.lists(st.sampled_from(["a", "*.b.c", "10.0.0.1", "fd00::1"]), max_size=3, unique=True),
        "apiServer": _ARGS,
        "controllerManager": _ARGS,
        "scheduler": _ARGS,
        "etcd": _ARGS,
    },
)
_HEALTH_CHECK = st.fixed_dictionaries(
    {},
    optional={
        "enabled": st.booleans(),
        "nodeStartupTimeoutSeconds": st.integers(1, 3599),
        "maxUnhealthy": st.sampled_from(["0", "7", "40%", "100%"]),
        "maxRetries": st.integers(0, 100),
    },
)
_NETWORK = st.fixed_dictionaries(
    {},
    optional={
        "podCIDR": st.sampled_from(["10.0.0.0/12", "192.168.0.0/16", "10.244.0.0/20"]),
        "serviceCIDR": st.sampled_from(["172.16.0.0/12", "10.96.0.0/24"]),
        "dnsDomain": _WORD,
        "cni": st.sampled_from(["Flannel", "None"]),
    },
)
_BACKUP = st.fixed_dictionaries(
    {"store": _WORD},
    optional={"schedule": st.sampled_from(["0 3 * * *", "*/5 22-2 1,15 * 0"]), "keep": st.integers(1, 9)},
)
GOOD_CLUSTER_SPECS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"version": st.sampled_from(["v1.37.2", "v1.36.0"])},
    optional={
        "isolation": st.just("VM"),
        "paused": st.booleans(),
        "powerState": st.sampled_from(["On", "Off"]),
        "network": _NETWORK,
        "controlPlane": _CONTROL_PLANE,
        "workers": st.lists(_POOL, max_size=3, unique_by=lambda pool: pool["name"]),
        "machine": _MACHINE,
        "drain": st.fixed_dictionaries({}, optional={"timeoutSeconds": st.integers(1, 86400)}),
        "infrastructure": _INFRASTRUCTURE,
        "backup": _BACKUP,
        "healthCheck": _HEALTH_CHECK,
        "deletionPolicy": st.sampled_from(["Delete", "Orphan"]),
    },
)
_MACHINE_FIELDS = {
    "ordinal": st.integers(0, 9999),
    "machine": _MACHINE,
    "infrastructure": _INFRASTRUCTURE,
    "labels": _LABELS,
    "taints": _TAINTS,
    "bootstrap": st.fixed_dictionaries({}, optional={"dataSecretName": _WORD}),
}
GOOD_MACHINE_SPECS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries(
        {"clusterName": _WORD, "version": st.just("v1.37.2"), "role": st.just("control-plane")},
        optional=_MACHINE_FIELDS,
    ),
    st.fixed_dictionaries(
        {"clusterName": _WORD, "version": st.just("v1.37.2"), "role": st.just("worker"), "pool": st.just("a")},
        optional=_MACHINE_FIELDS,
    ),
)


_FULL_MACHINE = {"cpus": 2, "memory": "2Gi", "disk": "4Gi", "image": "a"}
_FULL_NODE = {"labels": {"a": "b"}, "taints": [{"key": "a", "value": "b", "effect": "NoExecute"}]}
_FULL_ROLLOUT = {"maxSurge": 0, "maxUnavailable": 1}
FULL_CLUSTER_SPEC: dict[str, Any] = {
    "version": "v1.37.2",
    "isolation": "VM",
    "paused": False,
    "powerState": "On",
    "network": {"podCIDR": "10.244.0.0/16", "serviceCIDR": "10.96.0.0/16", "dnsDomain": "a.b", "cni": "Flannel"},
    "controlPlane": {
        "replicas": 1,
        "machine": _FULL_MACHINE,
        "failureDomains": ["a"],
        "extraSANs": ["a"],
        "etcd": {"extraArgs": {"a": "b"}},
    },
    "workers": [
        {
            "name": "a",
            "replicas": 1,
            "autoscaling": {"min": 1, "max": 2},
            "machine": _FULL_MACHINE,
            "failureDomains": ["a"],
            **_FULL_NODE,
            "rollout": _FULL_ROLLOUT,
        }
    ],
    "healthCheck": {
        "enabled": True,
        "nodeStartupTimeoutSeconds": 600,
        "unhealthyTimeoutSeconds": 60,
        "maxUnhealthy": "2",
        "maxRetries": 1,
        "retryPeriodSeconds": 30,
        "minHealthyPeriodSeconds": 900,
    },
    "machine": _FULL_MACHINE,
    "drain": {"timeoutSeconds": 60},
    "infrastructure": {"kind": "libvirt", "endpoint": "a"},
    "deletionPolicy": "Delete",
}
FULL_MACHINE_SPEC: dict[str, Any] = {
    "clusterName": "a",
    "role": "worker",
    "ordinal": 0,
    "pool": "a",
    "version": "v1.37.2",
    "machine": _FULL_MACHINE,
    "infrastructure": {"kind": "libvirt", "endpoint": "a"},
    "failureDomain": "a",
    **_FULL_NODE,
    "bootstrap": {"dataSecretName": "a"},
}


def sweep(full: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The full spec with one place changed: each field takes every strange value of its type and a few of others."""
    for path in paths(full):
        holder, key = _open(full, path)
        same_type = {str: STRANGE_TEXT, int: STRANGE_NUMBERS}.get(type(holder[key]), ())
        for value in (*same_type, *STRANGE_JSON, "a", 2):
            changed = copy.deepcopy(full)
            holder, key = _open(changed, path)
            holder[key] = value
            yield changed
        for name in STRANGE_TEXT if path[-2:-1] in {("labels",), ("extraArgs",)} else ("size",):
            changed = copy.deepcopy(full)
            holder, key = _open(changed, path)
            if isinstance(holder, dict):
                holder[name] = "x"
                yield changed


def _open(spec: dict[str, Any], path: Path) -> tuple[Any, str | int]:
    holder: Any = spec
    for key in path[:-1]:
        holder = holder[key]
    return holder, path[-1]


def paths(value: object, here: Path = ()) -> Iterator[Path]:
    """Every place in a JSON value."""
    if here:
        yield here
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from paths(child, (*here, key))


@st.composite
def strange_objects(
    draw: st.DrawFn, good_specs: st.SearchStrategy[dict[str, Any]], names: tuple[str, ...]
) -> dict[str, Any]:
    """{'name': ..., 'spec': ...} with zero to two places replaced, removed, doubled or added."""
    spec = draw(good_specs)
    name = draw(st.sampled_from(names)) if draw(st.integers(0, 9)) == 0 else names[0]
    for _ in range(draw(st.integers(0, 2))):
        if places := list(paths(spec)):
            spec = _change(draw, spec, draw(st.sampled_from(places)))
    return {"name": name, "spec": spec}


def _change(draw: st.DrawFn, spec: dict[str, Any], path: Path) -> dict[str, Any]:
    changed = copy.deepcopy(spec)
    holder, key = _open(changed, path)
    action = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "double", "rename"]))
    if action == "remove":
        del holder[key]
    elif action == "double" and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[0]))
    elif action in {"add", "rename"} and isinstance(holder, dict):
        holder[draw(st.one_of(st.sampled_from(STRANGE_TEXT), st.just("memory")))] = draw(STRANGE)
    else:
        holder[key] = draw(STRANGE)
    return changed
