"""kubeadm's own record in a child, the ConfigMap `kubeadm-config`: which version the next control plane joins with.

A control plane that joins takes the names of its container images from there, so it must say the version of the node
image before the first one of that version boots. Role: pure. Inputs: the ConfigMap as the child has it (untrusted);
outputs: the version, or a merge patch that holds the revision that it was computed from. Must not: change what else
people have put there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from capn.build.companions import find_companions
from capn.build.yaml_text import build_yaml
from capn.errors import CapnError

Json = Mapping[str, Any]
NAME, NAMESPACE = "kubeadm-config", "kube-system"
_KEY = "ClusterConfiguration"
_LIMIT = 64 << 10
_MAX_DEPTH = 16
# As kubeadm writes it. It is read in every reconcile, so not by way of YAML.
_VERSION = re.compile(r"^kubernetesVersion: (v1\.(?:0|[1-9][0-9]{0,2})\.(?:0|[1-9][0-9]{0,2}))$", re.MULTILINE)


def read_version(config_map: Json) -> str | None:
    """The version that kubeadm has recorded; None when there is none that could be one."""
    text = _text(config_map)
    found = None if text is None else _VERSION.search(text)
    return None if found is None else found[1]


def build_version_patch(config_map: Json, version: str) -> dict[str, Any]:
    """The merge patch that makes it `version`. CapnError when the record cannot be read.

    Image tags of etcd and CoreDNS follow only where somebody has pinned them: kubeadm knows its own.
    """
    document = _read(config_map)
    if document is None:
        message = f"ConfigMap {NAME} in {NAMESPACE} of the child holds no {_KEY} that can be read: restore it"
        raise CapnError(message, reason="ChildAnswerInvalid")
    changed = {**document, "kubernetesVersion": version}
    if (companions := find_companions(version)) is not None:
        _pin(changed, ("etcd", "local"), companions.etcd)
        _pin(changed, ("dns",), companions.coredns)
    meta = config_map["metadata"]
    guard = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
    return {"metadata": guard, "data": {_KEY: build_yaml(changed)}}


def _read(config_map: Json) -> dict[str, Any] | None:
    text = _text(config_map)
    try:
        if text is None or not _is_plain(text):
            return None
        document = yaml.load(text, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _text(config_map: Json) -> str | None:
    text = (config_map.get("data") or {}).get(_KEY)
    return text if isinstance(text, str) and len(text) <= _LIMIT else None


def _is_plain(text: str) -> bool:
    """Whether it has no anchors (exponential expansion) and no deep nesting (recursion)."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            return False
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            return False
    return True


def _pin(document: dict[str, Any], path: tuple[str, ...], tag: str) -> None:
    """Set `imageTag` at the path where there is one; the parts on the way are copied."""
    for key in path:
        inner = document.get(key)
        if not isinstance(inner, dict):
            return
        document[key] = dict(inner)
        document = document[key]
    if document.get("imageTag"):
        document["imageTag"] = tag
