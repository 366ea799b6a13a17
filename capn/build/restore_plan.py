"""Whether a cluster is to be restored, from which snapshot, and what of the snapshot's nodes is still true.

Role: pure. Inputs: machines, names of files in a store, a snapshot's `.json`, nodes; outputs: decisions. What comes out
of a store or a child is read as hostile. Must not: conclude anything from silence; a control plane is lost only when
its VM is known not to exist any more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from capn.api import checks
from capn.api.cluster import NestedCluster
from capn.api.machine import NestedMachine
from capn.api.restore import RestoreStatus
from capn.build.health import GONE
from capn.build.snapshots import FORMAT, build_mark
from capn.build.upgrade_rules import has_joined
from capn.build.version_skew import parse_version
from capn.errors import InvalidSpecError, TerminalError

# Of a machine in the place of one whose VM is gone, that would begin an empty cluster.
_EMPTY = "ControlPlaneLost"
_LOST = GONE | {_EMPTY}
METADATA_BYTES = 64 << 10
_NAME = re.compile(checks.SNAPSHOT)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SIZE = 1 << 40
_STRANGE = "its .json is not what capn writes"
# What a kubelet gives its node besides what the machine's spec asks for, alike on all nodes of a cluster.
_OWN_LABELS = ("kubernetes.io/arch", "kubernetes.io/os", "beta.kubernetes.io/arch", "beta.kubernetes.io/os")
_KEPT_SPEC = ("podCIDR", "podCIDRs", "taints")


@dataclass(frozen=True, slots=True)
class Loss:
    """The control planes whose data is gone: a reason, and a sentence for people.

    `sure`: there can be no quorum. If not, it hangs on whether a machine that was joining had a vote already.
    """

    reason: str
    message: str
    lost: tuple[NestedMachine, ...]
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """What a snapshot's `.json` says of it. `name` is with its directory, without ending."""

    name: str
    taken: str
    version: str
    size: int
    sha256: str
    pod_cidr: str
    service_cidr: str
    dns_domain: str


def is_of(machine: NestedMachine, restore: RestoreStatus) -> bool:
    """Whether the machine was made for that restore."""
    return machine.spec.bootstrap.restore == restore.started_at


def find_loss(control_planes: Sequence[NestedMachine]) -> Loss | None:
    """Whether so many VMs are gone that etcd may have no quorum any more; None while it has, or nothing is known.

    Only members that were promoted have a vote, so a machine that is still joining is no help, and no loss.
    """
    lost = tuple(machine for machine in control_planes if machine.status.failure_reason in _LOST)
    if not lost:
        return None
    if len(control_planes) == 1:
        return Loss("ControlPlaneLost", f"{lost[0].metadata.name}, the only control plane, has lost its VM", lost)
    voters = [machine for machine in control_planes if _had_vote(machine)]
    left = sum(machine not in lost for machine in voters)
    joining_lost = sum(machine not in voters for machine in lost)
    joining = len(control_planes) - len(voters) - joining_lost
    if _is_majority(left, of=len(voters) + joining_lost):
        return None
    named = ", ".join(machine.metadata.name for machine in lost)
    message = f"{named} of {len(control_planes)} control planes have lost their VMs: etcd has no quorum"
    return Loss("QuorumLost", message, lost, sure=not _is_majority(left + joining, of=len(voters) + joining))


def _had_vote(machine: NestedMachine) -> bool:
    return has_joined(machine) or machine.status.failure_reason == _EMPTY


def _is_majority(count: int, *, of: int) -> bool:
    return 2 * count > of


def choose_snapshot(found: Iterable[str], *, uid: str | None = None, name: str | None = None) -> str | None:
    """The newest finished snapshot among a directory's files, or the one of that name; None when there is none.

    With `uid` only those of that very cluster: an earlier one of the same name had other keys.
    """
    files = set(found)
    stems = sorted(file.removesuffix(".json") for file in files if file.endswith(".json"))
    finished = [stem for stem in stems if f"{stem}.db" in files and _NAME.fullmatch(_last(stem))]
    if name is not None:
        return next((stem for stem in finished if _last(stem) == name), None)
    mine = [stem for stem in finished if uid is None or _last(stem).endswith(f"-{build_mark(uid)}")]
    return mine[-1] if mine else None


def read_facts(name: str, data: bytes) -> Facts:
    """The facts of the snapshot called `name`. TerminalError (SnapshotDamaged) when its `.json` is none of ours."""
    try:
        said = json.loads(data)
        snapshot, network = said["snapshot"], said["network"]
        facts = Facts(
            name=name,
            taken=_text(said["taken"], 32),
            version=_text(said["kubernetesVersion"], 32),
            size=snapshot["size"],
            sha256=_text(snapshot["sha256"], 64),
            pod_cidr=_text(network["podCIDR"], 64),
            service_cidr=_text(network["serviceCIDR"], 64),
            dns_domain=_text(network["dnsDomain"], 253),
        )
        datetime.fromisoformat(facts.taken)
        known = said["format"] == FORMAT and type(facts.size) is int and 0 < facts.size < _SIZE
    except (ValueError, KeyError, TypeError, RecursionError):
        raise build_damaged(name, _STRANGE) from None
    if not (known and _SHA256.fullmatch(facts.sha256) and checks.full_match(checks.VERSION, facts.version)):
        raise build_damaged(name, _STRANGE)
    return facts


def build_damaged(name: str, why: str) -> TerminalError:
    """The refusal of a snapshot that is not whole."""
    return TerminalError(
        f"the snapshot {name} cannot be restored: {why}; nothing was changed. Put it right in the store, or remove its"
        " .json there so that an older one is taken",
        reason="SnapshotDamaged",
    )


def check_fits(cluster: NestedCluster, facts: Facts) -> None:
    """InvalidSpecError when the cluster could not live with that data: another network, an unfit version."""
    network = cluster.spec.network
    for field, there, here in (
        ("podCIDR", facts.pod_cidr, network.pod_cidr),
        ("serviceCIDR", facts.service_cidr, network.service_cidr),
        ("dnsDomain", facts.dns_domain, network.dns_domain),
    ):
        if there != here:
            raise InvalidSpecError(
                f"spec.network.{field}",
                f"is {here}, and the snapshot {facts.name} is of a cluster with {there}: a cluster that begins with it"
                " must have the same",
                reason="SnapshotUnfit",
            )
    minor, wanted = parse_version(facts.version)[1], parse_version(cluster.spec.version)[1]
    if wanted not in {minor, minor + 1}:
        raise InvalidSpecError(
            "spec.version",
            f"is {cluster.spec.version}, and the snapshot {facts.name} is of {facts.version}: it can be restored into"
            f" v1.{minor} or v1.{minor + 1}",
            reason="SnapshotUnfit",
        )


@dataclass(frozen=True, slots=True)
class NodeChanges:
    """What is to be done with a restored child's nodes: whom to delete, and manifests to create after that."""

    delete: tuple[Mapping[str, Any], ...]
    create: tuple[dict[str, Any], ...]


def compute_node_changes(
    nodes: Sequence[Mapping[str, Any]], provider_ids: Mapping[str, str], joined: Collection[str]
) -> NodeChanges:
    """Bring nodes of the past in line with the machines of today, given by name; `joined`: those that were nodes.

    A kubelet registers its node once: one that finds a node of its name takes it as it is, with the provider ID of a
    machine that is gone, which cannot be changed; one whose node is not in the data waits for it for ever. So both get
    a new node object. Nodes that are no machine's of capn are left alone.
    """
    known = {_name(node): node for node in nodes}
    stale = [
        node
        for node in nodes
        if (found := _provider_id(node)).startswith("capn-") and provider_ids.get(_name(node)) != found
    ]
    like = next((node for node in nodes if provider_ids.get(_name(node)) == _provider_id(node)), None)
    like = like or next(iter(nodes), None)
    create = [build_node(known[name], name, provider_ids[name]) for name in map(_name, stale) if name in joined]
    create += [build_new_node(like, name, provider_ids[name]) for name in sorted(joined) if name not in known]
    return NodeChanges(tuple(stale), tuple(create))


def build_node(node: Mapping[str, Any], name: str, provider_id: str) -> dict[str, Any]:
    """The same node for another machine: labels, pod addresses and taints stay, since what runs there knows them."""
    meta, spec = node.get("metadata") or {}, node.get("spec") or {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": dict(meta.get("labels") or {}),
            "annotations": dict(meta.get("annotations") or {}),
        },
        "spec": {key: spec[key] for key in _KEPT_SPEC if spec.get(key)} | {"providerID": provider_id},
    }


def build_new_node(like: Mapping[str, Any] | None, name: str, provider_id: str) -> dict[str, Any]:
    """A node for a machine that the data knows nothing of; its kubelet fills in the rest."""
    there = ((like or {}).get("metadata") or {}).get("labels") or {}
    labels = {key: there[key] for key in _OWN_LABELS if key in there} | {"kubernetes.io/hostname": name}
    return build_node({"metadata": {"labels": labels}}, name, provider_id)


def _provider_id(node: Mapping[str, Any]) -> str:
    return str((node.get("spec") or {}).get("providerID") or "")


def _name(node: Mapping[str, Any]) -> str:
    return str(node["metadata"]["name"])


def _last(stem: str) -> str:
    return stem.rpartition("/")[2]


def _text(value: object, limit: int) -> str:
    if not isinstance(value, str) or len(value) > limit:
        raise TypeError
    return value
