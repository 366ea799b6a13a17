"""Predicates over single values: the Python half of every admission rule.

Role: pure functions that say of a value what the CEL expression beside them in `capn.api.crd_rules` says in the API
server, so that pydantic and the API server accept the same objects. Inputs are strings or dicts, outputs booleans.
Must not: raise on strange text, do I/O or import the models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, ip_address

# RE2 (the API server) and re agree on these patterns as long as `fullmatch` is used: re's `$` would let a newline pass.
LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = rf"{LABEL}(\.{LABEL})*"
NAME_PART = "[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
VERSION = r"v1\.(0|[1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,2})"
QUANTITY = "[1-9][0-9]{0,9}(Mi|Gi|Ti)"
ARG_NAME = "[a-z][-a-z0-9]{0,62}"
SNAPSHOT = "[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}"
CONTROL_CHARACTERS = r"[\x00-\x1f\x7f]"

_OCTET = "(0|[1-9][0-9]{0,2})"
_CIDR = rf"{_OCTET}(\.{_OCTET}){{3}}/(0|[1-9][0-9]?)"
_MIB = {"Mi": 1, "Gi": 1024, "Ti": 1024 * 1024}

# k8s.io/kubelet pkg/apis/well_known_labels.go and cmd/kubelet/app/options: what `kubelet --node-labels` takes.
RESERVED_NAMESPACE = r"(.*\.)?(kubernetes|k8s)\.io/.*"
OPEN_NAMESPACE = r"(.*\.)?(kubelet|node)\.kubernetes\.io/.*"
OPEN_LABELS = (
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
)


def quantity_mib(quantity: str) -> int:
    """MiB of a quantity such as 512Mi, 4Gi or 1Ti."""
    return int(quantity[:-2]) * _MIB[quantity[-2:]]


def parse_version(version: str) -> tuple[int, int]:
    """Minor and patch of a version in the form v1.MINOR.PATCH."""
    _major, minor, patch = version.split(".")
    return int(minor), int(patch)


def full_match(pattern: str, text: str) -> bool:
    """True when all of `text` is the pattern."""
    return re.fullmatch(pattern, text) is not None


def is_quantity_within(text: str, *, least_mib: int, most_mib: int) -> bool:
    """True for a quantity between the bounds; other text is the pattern rule's business."""
    return not full_match(QUANTITY, text) or least_mib <= quantity_mib(text) <= most_mib


@lru_cache(maxsize=256)  # a reconciler validates the same few networks again and again
def parse_cidr(text: str) -> IPv4Network | None:
    """The IPv4 network, or None when it is malformed or has host bits set."""
    if not full_match(_CIDR, text):
        return None
    try:
        return IPv4Network(text)
    except ValueError:
        return None


def is_network(text: str) -> bool:
    """True for an IPv4 network in CIDR notation without host bits."""
    return parse_cidr(text) is not None


def is_prefix_within(text: str, *, least: int, most: int) -> bool:
    """True when the prefix length is between the bounds; malformed text is another rule's business."""
    network = parse_cidr(text)
    return network is None or least <= network.prefixlen <= most


def is_unicast(text: str) -> bool:
    """True unless the network begins with a loopback, link-local, multicast or unspecified address."""
    network = parse_cidr(text)
    if network is None:
        return True
    first = network.network_address
    special = first.is_loopback or first.is_link_local or first.is_multicast or first.is_unspecified
    return not special


def are_apart(one: str, other: str) -> bool:
    """True when the networks share no address; malformed text is another rule's business."""
    left, right = parse_cidr(one), parse_cidr(other)
    return left is None or right is None or not left.overlaps(right)


def node_capacity(pod_cidr: str) -> int | None:
    """How many nodes the pod network serves, a /24 each; None when it is malformed or of a refused size."""
    network = parse_cidr(pod_cidr)
    if network is None or not 8 <= network.prefixlen <= 24:  # noqa: PLR2004 - the sizes that admission allows
        return None
    return 1 << (24 - network.prefixlen)


def is_address(text: str) -> bool:
    """True for an IP address as CEL's isIP has it: no zone, no IPv4-mapped IPv6 address."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return "%" not in text and not (isinstance(address, IPv6Address) and address.ipv4_mapped is not None)


def is_host(text: str) -> bool:
    """True for an IP address or a DNS name (a leading `*.` allowed) that is not merely digits and dots."""
    return is_address(text) or (full_match(rf"(\*\.)?{SUBDOMAIN}", text) and not full_match(r"[0-9.]+", text))


def is_label_key(key: str) -> bool:
    """True for a label or taint key: [prefix/]name, prefix a DNS subdomain of at most 253, name of at most 63."""
    prefix, slash, name = key.rpartition("/")
    if slash and not (len(prefix) <= 253 and full_match(SUBDOMAIN, prefix)):  # noqa: PLR2004 - length of a DNS name
        return False
    return len(name) <= 63 and full_match(NAME_PART, name)  # noqa: PLR2004 - length of a label


def is_label_value(value: str) -> bool:
    """True for a label's value, empty included (its length is the schema's business)."""
    return value == "" or full_match(NAME_PART, value)


def is_kubelet_label(key: str) -> bool:
    """True when kubelet may set this label on its own node."""
    return not full_match(RESERVED_NAMESPACE, key) or key in OPEN_LABELS or full_match(OPEN_NAMESPACE, key)


def are_distinct(values: Iterable[object]) -> bool:
    """True when nothing occurs twice."""
    listed = list(values)
    return len(set(listed)) == len(listed)


def has_control_characters(text: str) -> bool:
    """True when a control character such as a line break is in the text."""
    return re.search(CONTROL_CHARACTERS, text) is not None
