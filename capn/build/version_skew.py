"""Which Kubernetes version workers may have, seen from their control plane.

Role: pure. Kubernetes' version skew policy (kubernetes.io/releases/version-skew-policy): a kubelet is never newer than
the API servers that it talks to, and at most three minors older. Must not: decide when control planes change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from capn.api.machine import NestedMachine

MAX_MINORS_BEHIND = 3


def parse_version(version: str) -> tuple[int, ...]:
    """`v1.37.2` as (1, 37, 2)."""
    return tuple(int(part) for part in version.removeprefix("v").split("."))


def have_version(control_planes: Sequence[NestedMachine], version: str) -> bool:
    """Whether there are control planes and all of them are of this version: only then may workers go to it."""
    return bool(control_planes) and all(machine.spec.version == version for machine in control_planes)


def compute_worker_version(control_planes: Sequence[NestedMachine], wanted: str) -> str:
    """The version that workers have now: the wanted one, or, until every control plane has it, their oldest."""
    if not control_planes or have_version(control_planes, wanted):
        return wanted
    return min((machine.spec.version for machine in control_planes), key=parse_version)


def find_skew(workers: Iterable[NestedMachine], control_plane: str) -> str | None:
    """What the skew policy has against control planes of this version, by the first worker that it concerns."""
    minor = parse_version(control_plane)[1]
    for machine in workers:
        kubelet = machine.spec.version
        if parse_version(kubelet) > parse_version(control_plane):
            return (
                f"{machine.metadata.name} runs {kubelet}, and a kubelet may not be newer than its control plane"
                " (Kubernetes' version skew policy)"
            )
        if minor - parse_version(kubelet)[1] > MAX_MINORS_BEHIND:
            return (
                f"{machine.metadata.name} runs {kubelet}, and a kubelet may be at most {MAX_MINORS_BEHIND} minors older"
                " than its control plane (Kubernetes' version skew policy): set it back until the workers are rolled"
            )
    return None
