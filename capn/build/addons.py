"""The content of an add-on: from the text that a user wrote to manifests in the order in which they are applied.

Role: pure. Inputs: the data of a ConfigMap or Secret; outputs: manifests, digests, the inventory's text. The text is
hostile (the controller serves many users): size, depth and number are bounded, and YAML's anchors are refused. Must
not: repeat any of the content in an error; only the key and the document's number are named.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from capn import names
from capn.errors import TerminalError

REASON_INVALID = "AddonContentInvalid"
MAX_BYTES = 512 * 1024
MAX_OBJECTS = 256
_MAX_DEPTH = 64
_API_VERSION = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?v[0-9][a-z0-9]{0,30}")
_KIND = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.:]{0,251}[A-Za-z0-9])?")
# What a dump of a live object has, and apply refuses or the server decides.
_SERVER_META = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink")
_FIRST = ("Namespace", "CustomResourceDefinition")


class _Loader(yaml.CSafeLoader):
    """Dates stay text, as they are in JSON."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }


@dataclass(frozen=True, slots=True)
class ObjectId:
    """Which object of the child; the namespace is empty where the manifest names none."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The same object in whichever version of its group."""
        return self.api_version.rpartition("/")[0], self.kind, self.namespace, self.name

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class AddonContent:
    """Manifests, those that others need first, and a digest of all of them."""

    digest: str
    objects: tuple[tuple[ObjectId, dict[str, Any]], ...] = field(repr=False)


def parse_content(addon: str, data: Mapping[str, bytes]) -> AddonContent:
    """The manifests of all keys. TerminalError (AddonContentInvalid) names key and document of the first mistake."""
    if sum(map(len, data.values())) > MAX_BYTES:
        raise _invalid("all keys", f"hold more than {MAX_BYTES // 1024} KiB; make several add-ons of it")
    found: dict[tuple[str, str, str, str], tuple[ObjectId, dict[str, Any]]] = {}
    for key in sorted(data):
        for number, manifest in _read_documents(key, data[key]):
            where = f"key {key}, document {number}"
            which = _identify(where, manifest)
            if which.key in found:
                raise _invalid(where, f"{which} is there twice; remove one")
            found[which.key] = (which, _clean(addon, manifest))
    if not found:
        raise _invalid(
            "all keys", "hold no manifest; to remove what the add-on has applied, remove it from spec.addons"
        )
    if len(found) > MAX_OBJECTS:
        raise _invalid("all keys", f"hold more than {MAX_OBJECTS} objects; make several add-ons of it")
    objects = tuple(sorted(found.values(), key=lambda item: _rank(item[0])))
    return AddonContent(compute_digest([manifest for _, manifest in objects]), objects)


def compute_digest(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Sixteen hex digits that stand for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def project(manifest: Any, live: Any) -> Any:  # noqa: ANN401 - any JSON values
    """Of the live object what the manifest speaks of: the server's defaults elsewhere and its status do not matter."""
    if isinstance(manifest, dict) and isinstance(live, dict):
        return {key: project(value, live.get(key)) for key, value in manifest.items()}
    if isinstance(manifest, list) and isinstance(live, list) and len(manifest) == len(live):
        return [project(one, other) for one, other in zip(manifest, live, strict=True)]
    return live


def order_for_pruning(objects: list[ObjectId]) -> list[ObjectId]:
    """The reverse of the order in which they are applied."""
    return sorted(objects, key=_rank, reverse=True)


def _rank(which: ObjectId) -> int:
    return _FIRST.index(which.kind) if which.kind in _FIRST else len(_FIRST)


def _read_documents(key: str, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _invalid(f"key {key}", "is not UTF-8") from None
    _check_structure(key, text)
    number = 0
    try:
        for number, document in enumerate(yaml.load_all(text, Loader=_Loader), start=1):
            if document is None:
                continue
            plain = _plain(key, number, document)
            items = plain.get("items") if isinstance(plain, dict) and str(plain.get("kind")).endswith("List") else None
            for item in items if isinstance(items, list) else [plain]:
                yield number, item
    except (yaml.YAMLError, ValueError, TypeError):
        # Without the cause: YAML's errors quote the text, which may be secret.
        raise _invalid(f"key {key}, document {number + 1}", "is not YAML") from None


def _plain(key: str, number: int, document: object) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(json.dumps(document, allow_nan=False))
    except (ValueError, TypeError):
        raise _invalid(f"key {key}, document {number}", "holds what JSON cannot") from None


def _check_structure(key: str, text: str) -> None:
    """Refuse anchors (exponential expansion) and deep nesting (recursion) before anything is built."""
    depth = number = 0
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            number += isinstance(event, yaml.DocumentStartEvent)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise _invalid(f"key {key}, document {number}", "uses YAML anchors; write the values out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise _invalid(f"key {key}, document {number}", "is nested too deeply")
    except (yaml.YAMLError, ValueError):
        raise _invalid(f"key {key}, document {number or 1}", "is not YAML") from None


def _identify(where: str, manifest: object) -> ObjectId:
    if not isinstance(manifest, dict) or not isinstance(manifest.get("metadata"), dict):
        raise _invalid(where, "is not a Kubernetes object with metadata")
    meta = manifest["metadata"]
    which = (manifest.get("apiVersion"), manifest.get("kind"), meta.get("namespace") or "", meta.get("name"))
    for value, pattern, what in zip(
        which, (_API_VERSION, _KIND, _NAME, _NAME), ("apiVersion", "kind", "namespace", "name"), strict=True
    ):
        if not isinstance(value, str) or not (pattern.fullmatch(value) or (what == "namespace" and not value)):
            raise _invalid(where, f"has no usable {what}")
    return ObjectId(*map(str, which))


def _clean(addon: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest as it is applied: without what only the server writes, marked as the add-on's."""
    meta = {key: value for key, value in manifest["metadata"].items() if key not in _SERVER_META}
    annotations = meta.get("annotations") if isinstance(meta.get("annotations"), dict) else {}
    meta["annotations"] = {**(annotations or {}), names.ANNOTATION_ADDON: addon}
    cleaned = {key: value for key, value in manifest.items() if key != "status"} | {"metadata": meta}
    text = cleaned.pop("stringData", None) if (manifest["apiVersion"], manifest["kind"]) == ("v1", "Secret") else None
    if isinstance(text, dict):
        # The server keeps only `data`; what it keeps must be comparable.
        encoded = {key: base64.b64encode(str(value).encode()).decode() for key, value in text.items()}
        cleaned["data"] = {**(cleaned.get("data") or {}), **encoded}
    return cleaned


def _invalid(where: str, what: str) -> TerminalError:
    return TerminalError(f"{where}: {what}", reason=REASON_INVALID)
