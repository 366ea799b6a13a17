"""Where a cluster's upgrade is, seen from its machines and kubeadm's record alone, and which version is due to whom.

Role: pure. There is no memory of an upgrade but what exists: machines with their versions, and the version in the
child's `kubeadm-config`, which is written when all is prepared and so says whether control planes may go to the new
one. Must not: decide whether the version is allowed (`capn.build.upgrade_rules`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from capn.api.machine import NestedMachine
from capn.build.upgrade_rules import has_joined
from capn.build.version_skew import parse_version


class Stage(StrEnum):
    """What an upgrade is at; the values are reasons of the condition Upgraded."""

    STARTING = "UpgradeStarting"
    CONTROL_PLANES = "UpgradingControlPlane"
    WORKERS = "UpgradingWorkers"
    ADDONS = "UpgradingAddons"


@dataclass(frozen=True, slots=True)
class UpgradeState:
    """`planes` and `workers`: versions of the machines that there are; `joined`: of the control planes that have.

    `recorded`: kubeadm's, None if unreadable.
    """

    version: str
    recorded: str | None
    planes: tuple[str, ...]
    workers: tuple[str, ...]
    joined: tuple[str, ...]

    @property
    def is_settled(self) -> bool:
        """Whether every machine, and kubeadm's record, is of the wanted version."""
        return {*self.planes, *self.workers, self.recorded or self.version} <= {self.version}

    @property
    def has_begun(self) -> bool:
        """Whether control planes of the wanted version may join."""
        return self.recorded == self.version

    @property
    def is_due(self) -> bool:
        """Whether control planes have to go to the wanted version and may not yet; not so where all are back at it."""
        return not self.has_begun and set(self.planes) != {self.version}

    @property
    def is_half_way(self) -> bool:
        """Whether control planes of another version have joined, on the way to one that is not wanted any more."""
        return not self.has_begun and len(set(self.joined)) > 1

    @property
    def stage(self) -> Stage:
        """What is being done."""
        if not self.has_begun:
            return Stage.STARTING
        if set(self.planes) != {self.version}:
            return Stage.CONTROL_PLANES
        return Stage.WORKERS if set(self.workers) - {self.version} else Stage.ADDONS

    def describe(self) -> str:
        """How far it is, in numbers."""
        match self.stage:
            case Stage.STARTING:
                return f"control planes go from {compute_oldest(self.planes) or 'nothing'} to {self.version}"
            case Stage.CONTROL_PLANES:
                return f"{self._count(self.planes)} of {len(self.planes)} control planes are of {self.version}"
            case Stage.WORKERS:
                return f"{self._count(self.workers)} of {len(self.workers)} workers are of {self.version}"
            case Stage.ADDONS:
                return f"all machines are of {self.version}; kube-proxy and CoreDNS follow"

    def _count(self, versions: Sequence[str]) -> int:
        return sum(found == self.version for found in versions)


def read_state(
    version: str, recorded: str | None, control_planes: Sequence[NestedMachine], workers: Sequence[NestedMachine]
) -> UpgradeState:
    """The state of a cluster; machines that are being deleted have nodes still, so they count."""
    return UpgradeState(
        version=version,
        recorded=recorded,
        planes=tuple(machine.spec.version for machine in control_planes),
        workers=tuple(machine.spec.version for machine in workers),
        joined=tuple(machine.spec.version for machine in control_planes if has_joined(machine)),
    )


def compute_oldest(versions: Sequence[str]) -> str | None:
    """The oldest of some versions; None of none."""
    return min(versions, key=parse_version, default=None)


def compute_plane_version(state: UpgradeState) -> str:
    """The version that control planes are made of now: the wanted one once all is prepared for it.

    Until then the newest that has joined, so that nobody goes back when the version is changed in mid-upgrade.
    """
    if state.has_begun:
        return state.version
    return max(state.joined, key=parse_version, default=None) or compute_oldest(state.planes) or state.version
