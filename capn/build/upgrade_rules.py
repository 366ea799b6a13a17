"""Which changes of a running cluster's version are refused, and by which rule.

Role: pure. Kubernetes' version skew policy (kubernetes.io/releases/version-skew-policy) and what a cluster of ours
cannot do. Inputs: what is asked for and the machines that there are; output: the first refusal, or None. What only has
to be waited for (a control plane that is not Ready, etcd) is not refused here. Must not: do I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from capn.api.cluster import NestedCluster
from capn.api.conditions import MachineCondition, is_true
from capn.api.machine import NestedMachine
from capn.build.companions import find_companions, list_minors
from capn.build.fixed_endpoint import REASON, is_known_fixed
from capn.build.version_skew import find_skew, parse_version

FIELD = "spec.version"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the version is not taken on: a reason for a condition, and the rule in words with what to do."""

    rule: str
    message: str


def find_upgrade_refusal(
    cluster: NestedCluster, control_planes: Sequence[NestedMachine], workers: Sequence[NestedMachine]
) -> Refusal | None:
    """What is against the version that the spec has now; None when all control planes have it, or may go to it."""
    wanted = cluster.spec.version
    running = {machine.spec.version for machine in control_planes}
    if not running or running == {wanted}:
        return None
    oldest = min(running, key=parse_version)
    return (
        _find_downgrade(control_planes, wanted)
        or _find_jump(oldest, wanted)
        or _find_worker_skew(workers, wanted)
        or _find_unknown(wanted)
        or _find_fixed_endpoint(cluster, oldest)
    )


def has_joined(machine: NestedMachine) -> bool:
    """Whether the machine was part of the cluster at any time: its API server may have written, its etcd has a vote."""
    bootstrapped = is_true(machine.status.conditions, MachineCondition.BOOTSTRAP_SUCCEEDED)
    return bootstrapped or machine.status.node_ref is not None


def _find_downgrade(control_planes: Sequence[NestedMachine], wanted: str) -> Refusal | None:
    newer = [
        machine
        for machine in control_planes
        if parse_version(machine.spec.version) > parse_version(wanted) and has_joined(machine)
    ]
    if not newer:
        return None
    newest = max(newer, key=lambda machine: parse_version(machine.spec.version))
    return Refusal(
        "VersionDowngrade",
        f"{newest.metadata.name} has joined with {newest.spec.version}, and control planes never go back to an older"
        " version: etcd and the API server may have written what an older one cannot read; set it to"
        f" {newest.spec.version} or newer",
    )


def _find_jump(oldest: str, wanted: str) -> Refusal | None:
    minor = parse_version(oldest)[1]
    if parse_version(wanted)[1] <= minor + 1:
        return None
    return Refusal(
        "VersionJump",
        f"control planes of {oldest} go up one minor version at a time (Kubernetes' version skew policy): set it to a"
        f" version of 1.{minor + 1} first",
    )


def _find_worker_skew(workers: Sequence[NestedMachine], wanted: str) -> Refusal | None:
    skew = find_skew(workers, wanted)
    return None if skew is None else Refusal("VersionSkew", skew)


def _find_unknown(wanted: str) -> Refusal | None:
    if find_companions(wanted) is not None:
        return None
    return Refusal(
        "VersionUnknown",
        f"this release of capn upgrades clusters to {list_minors()} and does not know the companions of {wanted}:"
        " upgrade capn first",
    )


def _find_fixed_endpoint(cluster: NestedCluster, oldest: str) -> Refusal | None:
    if not is_known_fixed(cluster):
        return None
    return Refusal(
        REASON,
        "this cluster's endpoint is the address of its first control plane's network card, so that machine cannot be"
        f" replaced and the cluster cannot be upgraded: set it back to {oldest}, or make a new cluster",
    )
