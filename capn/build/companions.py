"""What each minor of Kubernetes brings with it: the versions of CoreDNS and etcd that its kubeadm names.

Role: data for the upgrade of a cluster. Source: kubeadm's `cmd/kubeadm/app/constants/constants.go` (CoreDNSVersion and
DefaultEtcdVersion) of that minor; a unit test compares them with what node images are built from. Must not: name a
registry, which is whatever the child's objects name already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from capn.build.version_skew import parse_version


@dataclass(frozen=True, slots=True)
class Companions:
    """Tags of the container images of CoreDNS and of etcd."""

    coredns: str
    etcd: str


COMPANIONS: Mapping[int, Companions] = {
    36: Companions(coredns="v1.14.2", etcd="3.6.8-0"),
    37: Companions(coredns="v1.14.6", etcd="3.7.0-0"),
}


def find_companions(version: str) -> Companions | None:
    """Those of the version's minor; None when this release of capn does not know it."""
    return COMPANIONS.get(parse_version(version)[1])


def list_minors() -> str:
    """The minors that are known, for people."""
    return ", ".join(f"1.{minor}" for minor in sorted(COMPANIONS))
