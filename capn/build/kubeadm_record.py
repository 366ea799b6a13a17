"""kubeadm's own record in a child, the ConfigMap `kubeadm-config`: with what the next control plane joins.

A control plane that joins takes the names of its container images and the arguments of its components from there, so
it must say the version of the node image, and what the spec asks for, before the first one of that kind boots. Role:
pure. Inputs: the ConfigMap as the child has it (untrusted); outputs: the version, or a merge patch that holds the
revision that it was computed from. Must not: change what else people have put there.
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
    changed = {**_require(config_map), "kubernetesVersion": version}
    if (companions := find_companions(version)) is not None:
        _pin(changed, ("etcd", "local"), companions.etcd)
        _pin(changed, ("dns",), companions.coredns)
    return _build_patch(config_map, changed)


def build_components_patch(config_map: Json, components: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The merge patch with these arguments and certificate names; None when they are there. CapnError as above.

    What else a section has (volumes, image tags) stays. The arguments are all ours: one that is in nobody's spec goes.
    """
    document = _require(config_map)
    changed = {**document, **{name: _merge(document.get(name), section) for name, section in components.items()}}
    return None if changed == document else _build_patch(config_map, changed)


def _merge(live: object, section: Mapping[str, Any]) -> dict[str, Any]:
    """The section over the live one; lists are taken whole, those of arguments in any order."""
    merged: dict[str, Any] = dict(live) if isinstance(live, dict) else {}
    for key, wanted in section.items():
        there = merged.get(key)
        if isinstance(wanted, Mapping):
            merged[key] = _merge(there, wanted)
        elif not (isinstance(there, list) and isinstance(wanted, list) and _sort(there) == _sort(wanted)):
            merged[key] = wanted
    return merged


def _sort(entries: list[Any]) -> list[str]:
    return sorted(map(repr, entries))


def _require(config_map: Json) -> dict[str, Any]:
    document = _read(config_map)
    if document is None:
        message = f"ConfigMap {NAME} in {NAMESPACE} of the child holds no {_KEY} that can be read: restore it"
        raise CapnError(message, reason="ChildAnswerInvalid")
    return document


def _build_patch(config_map: Json, document: Mapping[str, Any]) -> dict[str, Any]:
    meta = config_map["metadata"]
    guard = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
    return {"metadata": guard, "data": {_KEY: build_yaml(document)}}


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
