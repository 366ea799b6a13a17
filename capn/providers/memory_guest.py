"""What a simulated machine does with its user-data: the same reading that a real guest does, without the work.

Role: pure. Finds the kubeadm configuration in cloud-init user-data and says what kubeadm would do. Must not: accept
what a real guest would refuse (no configuration, no token to join with).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from capn.build import kubeadm_record
from capn.errors import InvalidSpecError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_KUBEADM_GROUP = "kubeadm.k8s.io/"
_RESTORES = "CAPN_RESTORE=yes"
_HEAD = 512
# kubeadm makes a token of its own, a random one, when it is told of none or of an empty list.
_DEFAULT_TOKEN = "abcdef.0123456789abcdef"  # noqa: S105 - simulated


@dataclass(frozen=True, slots=True)
class GuestPlan:
    """What the machine will do. `token` is what it joins with or, initializing the cluster, makes in the child."""

    node_name: str
    provider_id: str
    joins: bool
    token: str = field(repr=False)
    taints: tuple[dict[str, Any], ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    restores: bool = False  # it waits for a snapshot and begins with that
    # What `kubeadm init` is told, of all control planes; a join reads it from the child.
    cluster: dict[str, Any] = field(default_factory=dict)


class GuestFailedError(Exception):
    """The bootstrap ended with an error, as kubeadm would print it."""

    def __init__(self, stage: str, tail: str) -> None:
        super().__init__(tail)
        self.stage = stage


def read_user_data(user_data: bytes) -> GuestPlan:
    """The guest's plan. InvalidSpecError when the user-data would not make a node."""
    config = yaml.load(user_data, Loader=_Loader)  # noqa: S506 - a safe loader, compiled
    files = config.get("write_files", ()) if isinstance(config, dict) else ()
    contents = [file.get("content", "") for file in files if isinstance(file, dict)]
    restores = any(isinstance(content, str) and _RESTORES in content.splitlines() for content in contents)
    for content in contents:
        if isinstance(content, str) and _KUBEADM_GROUP in content[:_HEAD]:
            return _read_kubeadm(list(yaml.load_all(content, Loader=_Loader)), restores=restores)
    raise InvalidSpecError("bootstrap data", "holds no kubeadm configuration")


def _read_kubeadm(documents: list[Any], *, restores: bool) -> GuestPlan:
    by_kind = {document["kind"]: document for document in documents if isinstance(document, dict)}
    join = by_kind.get("JoinConfiguration")
    main = join or by_kind.get("InitConfiguration")
    if main is None:
        raise InvalidSpecError("bootstrap data", "holds neither an InitConfiguration nor a JoinConfiguration")
    registration = main.get("nodeRegistration", {})
    made = main.get("bootstrapTokens") or [{"token": _DEFAULT_TOKEN}]
    arguments = _extra_args(registration)
    return GuestPlan(
        node_name=registration.get("name", ""),
        provider_id=arguments.get("provider-id", ""),
        joins=join is not None,
        token=(join["discovery"]["bootstrapToken"] if join else made[0])["token"],
        taints=tuple(registration.get("taints") or ()),
        labels=_parse_labels(arguments.get("node-labels", "")),
        restores=restores,
        cluster=by_kind.get("ClusterConfiguration", {}),
    )


def build_record(cluster: dict[str, Any]) -> dict[str, Any]:
    """Kubeadm's own record, as `kubeadm init` uploads it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": kubeadm_record.NAME, "namespace": kubeadm_record.NAMESPACE},
        "data": {"ClusterConfiguration": yaml.dump(cluster, Dumper=_Dumper)},
    }


def read_record(config_map: dict[str, Any] | None) -> dict[str, Any]:
    """Kubeadm's own record, as a join reads it; empty when there is none."""
    text = ((config_map or {}).get("data") or {}).get("ClusterConfiguration", "")
    config = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader, compiled
    return config if isinstance(config, dict) else {}


def _parse_labels(text: str) -> dict[str, str]:
    """`a=b,c=` as the kubelet reads it."""
    return {key: value for key, _, value in (entry.partition("=") for entry in text.split(",") if entry)}


def _extra_args(registration: dict[str, Any]) -> dict[str, str]:
    args = registration.get("kubeletExtraArgs", ())
    if isinstance(args, dict):
        return args
    return {arg["name"]: arg["value"] for arg in args}


def build_node_status(address: str, version: str) -> dict[str, Any]:
    """What a kubelet says of its node when all is well."""
    return {
        "addresses": [{"type": "InternalIP", "address": address}],
        "nodeInfo": {"kubeletVersion": version},
        "conditions": [
            {"type": "NetworkUnavailable", "status": "False", "reason": "FlannelIsUp"},
            {"type": "Ready", "status": "True", "reason": "KubeletReady"},
        ],
    }
