"""Admission rules: each is one CEL expression for the API server and the same test in Python for pydantic.

Role: the only place that holds rules. A `Rule` (`capn.api.rule`) on a field goes into `Annotated[...]`; rules over
several fields are listed in a model's `RULES`. Messages state the fix. Must not: import the models (they import this),
do I/O, or hold a rule in one half only.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic_core import PydanticCustomError

from capn import names
from capn.api import checks, cron
from capn.api.claim_rules import CLAIM_RULES
from capn.api.rule import Rule


def drop_nulls(value: object) -> object:
    """Return a map without the entries that are null, as the API server does."""
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


def refuse_boolean(value: object) -> object:
    """Return the value, or raise: to Python True is 1, to the API server it is not a number."""
    if isinstance(value, bool):
        raise PydanticCustomError("rule", "write a number")
    return value


def refuse_unquoted_power(value: object) -> object:
    """Return the value, or raise: YAML has made a boolean of On or Off."""
    if isinstance(value, bool):
        word = "On" if value else "Off"
        raise PydanticCustomError(
            "rule", "{text}", {"text": f'write "{word}" in quotes: YAML reads {word} as {str(value).lower()}'}
        )
    return value


def _matches(pattern: str, message: str) -> Rule:
    # A rule and not JSON schema's `pattern`: the API server would print only the expression, never the fix.
    return Rule(f"self.matches(r'^({pattern})$')", message, holds=lambda text: checks.full_match(pattern, text))


def _immutable(what: str) -> Rule:
    message = f"{what} cannot be changed: create a new cluster instead"
    return Rule("self == oldSelf", message, forbidden=True, allows=_is_same)


def _kept(name: str) -> str:
    """CEL: the optional field is as it was, or not there as it was not."""
    return f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"


def _is_same(old: object, new: object) -> bool:
    return bool(old == new)


_IS_NETWORK = "isCIDR(self) && cidr(self).ip().family() == 4"

LABEL_NAME = _matches(checks.LABEL, "use lower case letters, digits and '-', with a letter or digit at both ends")
POOL_NAME = Rule(
    "self != 'cp'", "'cp' names the control-plane machines: choose another name", holds=lambda name: name != "cp"
)
IMAGE_NAME = _matches(
    "[a-z0-9]([-a-z0-9._]*[a-z0-9])?", "use lower case letters, digits, '-', '.' and '_', such as v1.37.2"
)
OBJECT_NAME = _matches(checks.SUBDOMAIN, "write the object's name: lower case letters, digits, '-' and '.'")
ADDON_RULES = (
    Rule(
        "has(self.configMapRef) != has(self.secretRef)",
        "name exactly one of configMapRef and secretRef",
        holds=lambda addon: (addon.config_map_ref is None) != (addon.secret_ref is None),
    ),
)
DNS_DOMAIN = _matches(checks.SUBDOMAIN, "write a DNS domain in lower case, such as cluster.local")
VERSION = _matches(checks.VERSION, "write the version as v1.MINOR.PATCH, such as v1.37.2")
SNAPSHOT_NAME = _matches(checks.SNAPSHOT, "write a snapshot's name without ending, such as 20261127T030000Z-0a1b2c3d")
SCHEDULE = _matches(cron.PATTERN, "write five cron fields (numbers, UTC), such as 0 3 * * *")
QUANTITY = _matches(checks.QUANTITY, "write a whole number and Mi, Gi or Ti, such as 2560Mi or 4Gi")

_MINOR, _OLD_MINOR = "int(self.split('.')[1])", "int(oldSelf.split('.')[1])"
VERSION_UPGRADES = (
    Rule(
        # One step back takes back an upgrade that has not begun; whether it has, only the controller knows (machines).
        f"{_MINOR} >= {_OLD_MINOR} - 1",
        "Kubernetes cannot go back to an older version: at most an upgrade that has not begun is taken back",
        forbidden=True,
        allows=lambda old, new: checks.parse_version(new)[0] >= checks.parse_version(old)[0] - 1,
    ),
    Rule(
        f"{_MINOR} <= {_OLD_MINOR} + 1",
        "upgrade one minor version at a time",
        forbidden=True,
        allows=lambda old, new: checks.parse_version(new)[0] <= checks.parse_version(old)[0] + 1,
    ),
)

MEMORY_RANGE = Rule(
    "!isQuantity(self) || quantity(self).compareTo(quantity('16Ti')) <= 0",
    "no machine has more than 16Ti of memory: name less",
    holds=lambda text: checks.is_quantity_within(text, least_mib=0, most_mib=16 << 20),
)
DISK_RANGE = Rule(
    "!isQuantity(self) || (quantity(self).compareTo(quantity('4Gi')) >= 0"
    " && quantity(self).compareTo(quantity('64Ti')) <= 0)",
    "a node needs a disk of at least 4Gi (and at most 64Ti)",
    holds=lambda text: checks.is_quantity_within(text, least_mib=4 << 10, most_mib=64 << 20),
)

CIDR_RULES = (
    Rule(
        f"{_IS_NETWORK} && cidr(self) == cidr(self).masked()",
        "write an IPv4 network without host bits, such as 10.244.0.0/16",
        holds=checks.is_network,
    ),
    Rule(
        f"!({_IS_NETWORK}) || !(cidr(self).ip().isLoopback() || cidr(self).ip().isLinkLocalUnicast()"
        " || cidr(self).ip() == ip('0.0.0.0') || cidr('224.0.0.0/4').containsIP(cidr(self).ip()))",
        "loopback, link-local and multicast networks cannot serve a cluster: use a private one such as 10.244.0.0/16",
        holds=checks.is_unicast,
    ),
)


def _prefix(least: int, most: int) -> Rule:
    return Rule(
        f"!({_IS_NETWORK}) || (cidr(self).prefixLength() >= {least} && cidr(self).prefixLength() <= {most})",
        f"use a network between /{least} and /{most}",
        holds=lambda text: checks.is_prefix_within(text, least=least, most=most),
    )


POD_CIDR_SIZE = _prefix(8, 24)
SERVICE_CIDR_SIZE = _prefix(12, 24)
POD_CIDR_FIXED, SERVICE_CIDR_FIXED = _immutable("podCIDR"), _immutable("serviceCIDR")
DNS_DOMAIN_FIXED, CNI_FIXED, ISOLATION_FIXED = _immutable("dnsDomain"), _immutable("cni"), _immutable("isolation")

NETWORK_RULES = (
    Rule(
        "!isCIDR(self.podCIDR) || !isCIDR(self.serviceCIDR)"
        " || !(cidr(self.podCIDR).containsIP(cidr(self.serviceCIDR).ip())"
        " || cidr(self.serviceCIDR).containsIP(cidr(self.podCIDR).ip()))",
        "podCIDR and serviceCIDR overlap: choose networks that share no address",
        holds=lambda network: checks.are_apart(network.pod_cidr, network.service_cidr),
        field=".serviceCIDR",
    ),
)
INFRASTRUCTURE_RULES = (_immutable("infrastructure"),)
ISOLATION_IS_VM = Rule(
    "self == 'VM'", "only VM works in this version: leave isolation out or set VM", holds=lambda value: value == "VM"
)
ODD_REPLICAS = Rule("self % 2 == 1", "etcd needs an odd number: use 1, 3, 5 or 7", holds=lambda count: count % 2 == 1)
SANS = Rule(
    f"isIP(self) || (self.matches(r'^(\\*\\.)?{checks.SUBDOMAIN}$') && !self.matches(r'^[0-9.]+$'))",
    "write a DNS name in lower case or an IP address",
    holds=checks.is_host,
)
ARG_NAMES = Rule(
    f"self.all(name, name.matches(r'^{checks.ARG_NAME}$'))",
    "write argument names in lower case without leading dashes, at most 63 long, such as audit-log-maxage",
    holds=lambda args: all(checks.full_match(checks.ARG_NAME, name) for name in args),
)
ARG_VALUE = Rule(
    f"!self.matches(r'{checks.CONTROL_CHARACTERS}')",
    "an argument cannot hold control characters: write it on one line",
    holds=lambda text: not checks.has_control_characters(text),
)

_KEY_CEL = (
    f"{{0}}.matches(r'^({checks.SUBDOMAIN}/)?{checks.NAME_PART}$') && {{0}}.split('/')[0].size() <= 253"
    " && {0}.split('/')[{0}.split('/').size() - 1].size() <= 63"
)
_KEY_MESSAGE = "write a key as name or dns.prefix/name: letters, digits, '-', '_' and '.', the name at most 63 long"
_VALUE_MESSAGE = "write at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends, or nothing"
LABEL_KEYS = (
    Rule(
        f"self.all(key, {_KEY_CEL.format('key')})",
        _KEY_MESSAGE,
        holds=lambda labels: all(map(checks.is_label_key, labels)),
    ),
    Rule(
        f"self.all(key, !key.matches(r'^{checks.RESERVED_NAMESPACE}$')"
        f" || key.matches(r'^{checks.OPEN_NAMESPACE}$') || key in {list(checks.OPEN_LABELS)!r})",
        "kubelet sets no labels under kubernetes.io and k8s.io but node.kubernetes.io/ and kubelet.kubernetes.io/:"
        " use a prefix of your own",
        holds=lambda labels: all(map(checks.is_kubelet_label, labels)),
    ),
)
LABEL_VALUE = Rule(f"self.matches(r'^({checks.NAME_PART})?$')", _VALUE_MESSAGE, holds=checks.is_label_value)
TAINT_KEY = Rule(_KEY_CEL.format("self"), _KEY_MESSAGE, holds=checks.is_label_key)

MAX_UNHEALTHY = _matches("[0-9]{1,3}%|[0-9]{1,4}", "write a number or a percentage as text, such as '2' or '40%'")
ROLLOUT_RULES = (
    Rule(
        "self.maxSurge > 0 || self.maxUnavailable > 0",
        "with maxSurge and maxUnavailable both 0 no machine could be replaced: allow one of either",
        holds=lambda rollout: rollout.max_surge > 0 or rollout.max_unavailable > 0,
        field=".maxSurge",
    ),
)
HEALTH_CHECK_RULES = (
    Rule(
        "self.minHealthyPeriodSeconds > self.nodeStartupTimeoutSeconds",
        "a replacement may take nodeStartupTimeoutSeconds to fail as well: make minHealthyPeriodSeconds longer",
        holds=lambda check: check.min_healthy_period_seconds > check.node_startup_timeout_seconds,
        field=".minHealthyPeriodSeconds",
    ),
)

_LIBVIRT = "self.infrastructure.kind == 'libvirt'"
_OWN = "has(self.controlPlane.machine)"
_POOLS = "(!has(self.workers) || self.workers.all(pool, {}))"
CONTROL_PLANE_MIB, WORKER_MIB, CONTROL_PLANE_CPUS = 1700, 1024, 2
_CONTROL_PLANE_MEMORY = f"kubeadm needs at least {CONTROL_PLANE_MIB}Mi for a control plane: raise memory"
_WORKER_MEMORY = f"a worker needs at least {WORKER_MIB}Mi: raise memory"
_CONTROL_PLANE_CPU_MESSAGE = f"kubeadm needs at least {CONTROL_PLANE_CPUS} cpus for a control plane: raise cpus"


def _enough(memory: str, mib: int) -> str:
    return f"!isQuantity({memory}) || quantity({memory}).compareTo(quantity('{mib}Mi')) >= 0"


def _is_libvirt(spec: Any) -> bool:  # noqa: ANN401 - either kind's spec; the models import this module
    return bool(spec.infrastructure.kind == "libvirt")


def _has_memory(machine: Any, mib: int) -> bool:  # noqa: ANN401
    return machine is None or checks.quantity_mib(machine.memory) >= mib


def _has_cpus(machine: Any) -> bool:  # noqa: ANN401
    return machine is None or machine.cpus >= CONTROL_PLANE_CPUS


def _serves_node_count(spec: Any) -> bool:  # noqa: ANN401
    capacity = checks.node_capacity(spec.network.pod_cidr)
    nodes = spec.control_plane.replicas + sum(
        pool.replicas if pool.autoscaling is None else pool.autoscaling.max for pool in spec.workers
    )
    return capacity is None or nodes <= capacity


AUTOSCALING_RULES = (
    Rule(
        "self.min <= self.max",
        "min is above max: give the fewest machines as min, the most as max",
        holds=lambda scaling: scaling.min <= scaling.max,
        field=".min",
    ),
)
WORKER_POOL_RULES = (
    Rule(
        "!has(self.autoscaling) || (self.replicas >= self.autoscaling.min && self.replicas <= self.autoscaling.max)",
        "replicas (1 if it is not set) is what an autoscaled pool begins with: write a number from min to max",
        holds=lambda pool: pool.autoscaling is None or pool.autoscaling.min <= pool.replicas <= pool.autoscaling.max,
        field=".replicas",
    ),
    Rule(
        "!has(self.failureDomains) || self.failureDomains.size() == 0 || !has(self.labels)"
        f" || !('{names.LABEL_ZONE}' in self.labels)",
        f"{names.LABEL_ZONE} says in which of failureDomains a node is: take the label away",
        holds=lambda pool: not pool.failure_domains or names.LABEL_ZONE not in pool.labels,
        field=".labels",
    ),
)
CLUSTER_SPEC_RULES = (
    *CLAIM_RULES,
    Rule(
        "!has(oldSelf.nesting) || !oldSelf.nesting.enabled || (has(self.nesting) && self.nesting.enabled)",
        "nesting cannot be switched off again: its clusters would lose their machines; delete the cluster instead",
        forbidden=True,
        field=".nesting",
        allows=lambda old, new: new.nests or not old.nests,
    ),
    Rule(
        _kept("claim"),
        "a claim cannot be added, changed or taken away: create a new cluster instead",
        forbidden=True,
        allows=lambda old, new: old.claim == new.claim,
    ),
    Rule(
        _kept("restoreFrom"),
        "what a cluster begins with cannot be changed: create a new cluster instead",
        forbidden=True,
        field=".restoreFrom",
        allows=lambda old, new: old.restore_from == new.restore_from,
    ),
    Rule(
        f"{_OWN} || self.machine.cpus >= {CONTROL_PLANE_CPUS}",
        _CONTROL_PLANE_CPU_MESSAGE,
        holds=lambda spec: spec.control_plane.machine is not None or _has_cpus(spec.machine),
        field=".machine.cpus",
    ),
    Rule(
        f"!{_OWN} || self.controlPlane.machine.cpus >= {CONTROL_PLANE_CPUS}",
        _CONTROL_PLANE_CPU_MESSAGE,
        holds=lambda spec: _has_cpus(spec.control_plane.machine),
        field=".controlPlane.machine.cpus",
    ),
    Rule(
        f"!({_LIBVIRT}) || {_OWN} || {_enough('self.machine.memory', CONTROL_PLANE_MIB)}",
        _CONTROL_PLANE_MEMORY,
        holds=lambda spec: (
            not _is_libvirt(spec)
            or spec.control_plane.machine is not None
            or _has_memory(spec.machine, CONTROL_PLANE_MIB)
        ),
        field=".machine.memory",
    ),
    Rule(
        f"!({_LIBVIRT}) || !{_OWN} || {_enough('self.controlPlane.machine.memory', CONTROL_PLANE_MIB)}",
        _CONTROL_PLANE_MEMORY,
        holds=lambda spec: not _is_libvirt(spec) or _has_memory(spec.control_plane.machine, CONTROL_PLANE_MIB),
        field=".controlPlane.machine.memory",
    ),
    Rule(
        f"!({_LIBVIRT}) || {_POOLS.format('has(pool.machine)')} || {_enough('self.machine.memory', WORKER_MIB)}",
        _WORKER_MEMORY,
        holds=lambda spec: (
            not _is_libvirt(spec)
            or all(pool.machine is not None for pool in spec.workers)
            or _has_memory(spec.machine, WORKER_MIB)
        ),
        field=".machine.memory",
    ),
    Rule(
        f"!({_LIBVIRT}) || " + _POOLS.format(f"!has(pool.machine) || {_enough('pool.machine.memory', WORKER_MIB)}"),
        _WORKER_MEMORY,
        holds=lambda spec: not _is_libvirt(spec) or all(_has_memory(pool.machine, WORKER_MIB) for pool in spec.workers),
        field=".workers",
    ),
    Rule(
        f"!isCIDR(self.network.podCIDR) || !(cidr(self.network.podCIDR).prefixLength() in {list(range(8, 25))})"
        " || self.controlPlane.replicas + (has(self.workers) ?"
        " self.workers.map(pool, has(pool.autoscaling) ? pool.autoscaling.max : pool.replicas).sum() : 0)"
        f" <= {[1 << (24 - size) for size in range(8, 25)]}[cidr(self.network.podCIDR).prefixLength() - 8]",
        "podCIDR is too small: each node takes a /24 of it, so choose a larger network or fewer machines",
        holds=_serves_node_count,
        field=".network.podCIDR",
    ),
)

_NAME_CEL = f"self.metadata.name.matches(r'^{checks.LABEL}$')"
# `<cluster>-<pool>-<ordinal>` is a node's name and label: 63 at most, and ordinals have up to three digits.
_NODE_NAME_ROOM = 63 - len("--999")
CLUSTER_RULES = (
    Rule(
        f"{_NAME_CEL} && self.metadata.name.size() <= 40",
        "name the cluster with at most 40 lower case letters, digits and '-', a letter or digit at both ends",
        holds=lambda cluster: (
            checks.full_match(checks.LABEL, cluster.metadata.name) and len(cluster.metadata.name) <= 40  # noqa: PLR2004
        ),
        field=".metadata.name",
    ),
    Rule(
        "!has(self.spec.workers) || self.spec.workers.all(pool,"
        f" self.metadata.name.size() + pool.name.size() <= {_NODE_NAME_ROOM})",
        f"the names of the cluster and of each pool have at most {_NODE_NAME_ROOM} characters together: shorten one",
        holds=lambda cluster: all(
            len(cluster.metadata.name) + len(pool.name) <= _NODE_NAME_ROOM for pool in cluster.spec.workers
        ),
        field=".spec.workers",
    ),
)
CLAIM_PATH = _matches(
    r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[a-z0-9]([-a-z0-9.]*[a-z0-9])?)+",
    "name the cluster that asks as namespace/name, one pair a level",
)


def _is_same_machine(old: Any, new: Any) -> bool:  # noqa: ANN401 - a machine's spec; the models import this module
    fields = (re.sub("([A-Z])", r"_\1", name).lower() for name in MACHINE_FIXED)
    return all(getattr(old, name) == getattr(new, name) for name in fields)


def _role_memory(role: str, mib: int, message: str) -> Rule:
    return Rule(
        f"!({_LIBVIRT}) || self.role != '{role}' || {_enough('self.machine.memory', mib)}",
        message,
        holds=lambda spec: not _is_libvirt(spec) or spec.role != role or _has_memory(spec.machine, mib),
        field=".machine.memory",
    )


# All of a machine's spec but labels and taints, which its node takes on without a new VM.
MACHINE_FIXED = (
    "clusterName", "role", "ordinal", "pool", "version", "machine", "infrastructure", "failureDomain", "kubeadm",
    "bootstrap",
)  # fmt: skip
MACHINE_SPEC_RULES = (
    Rule(
        " && ".join(map(_kept, MACHINE_FIXED)),
        "a machine cannot be changed: delete it, and its cluster makes another",
        forbidden=True,
        allows=_is_same_machine,
    ),
    Rule(
        "(self.role == 'worker') == has(self.pool)",
        "name the pool of a worker, and none of a control plane",
        holds=lambda spec: (spec.role == "worker") == (spec.pool is not None),
        field=".pool",
    ),
    Rule(
        f"self.role != 'control-plane' || self.machine.cpus >= {CONTROL_PLANE_CPUS}",
        _CONTROL_PLANE_CPU_MESSAGE,
        holds=lambda spec: spec.role != "control-plane" or _has_cpus(spec.machine),
        field=".machine.cpus",
    ),
    _role_memory("control-plane", CONTROL_PLANE_MIB, _CONTROL_PLANE_MEMORY),
    _role_memory("worker", WORKER_MIB, _WORKER_MEMORY),
)
MACHINE_RULES = (
    Rule(
        f"{_NAME_CEL} && self.metadata.name.size() <= 63",
        "name the machine with at most 63 lower case letters, digits and '-': it becomes the node's name",
        holds=lambda machine: (
            checks.full_match(checks.LABEL, machine.metadata.name) and len(machine.metadata.name) <= 63  # noqa: PLR2004
        ),
        field=".metadata.name",
    ),
)
