"""Compact objects for informers: decoded by msgspec, what reconcilers rarely touch kept as raw JSON.

Role: the hot path of list and watch. An `Object` has metadata as typed fields; spec, status and data stay the bytes
that the server sent (a copy, so that the answer's buffer is freed) and are decoded only on `to_dict`. Dropped to save
memory: `managedFields` and top-level fields that are not listed here. Must not: do I/O; objects are never mutated.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Literal, Protocol

import msgspec

from capn.api.resources import Resource

Key = tuple[str, str]
"""(namespace, name); the namespace is empty for cluster-scoped objects."""


class OwnerReference(msgspec.Struct, rename="camel", frozen=True, omit_defaults=True):
    """metav1.OwnerReference."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False
    block_owner_deletion: bool = False


class Meta(msgspec.Struct, rename="camel", frozen=True, omit_defaults=True):
    """metav1.ObjectMeta, the fields that anybody reads."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[OwnerReference, ...] = ()


class Object(msgspec.Struct, rename="camel", frozen=True, omit_defaults=True):
    """One object of any kind. Never mutate what `to_dict` gives for longer than your own use of it."""

    metadata: Meta
    api_version: str = ""
    kind: str = ""
    type: str | msgspec.UnsetType = msgspec.UNSET
    spec: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    status: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    binary_data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return self.metadata.namespace, self.metadata.name

    @property
    def revision(self) -> int:
        """The resourceVersion as a number, so that two states of one object can be ordered; 0 when it has none."""
        return parse_revision(self.metadata.resource_version)

    @property
    def controller_uid(self) -> str | None:
        """UID of the owner that controls this object."""
        return next((owner.uid for owner in self.metadata.owner_references if owner.controller), None)

    def to_dict(self) -> dict[str, Any]:
        """The object as JSON-shaped dict, a fresh one each time."""
        decoded: dict[str, Any] = _DICT.decode(_ENCODER.encode(self))
        return decoded


class ObjectEvent(msgspec.Struct, frozen=True):
    """One change in a watch; a BOOKMARK has only a resourceVersion."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Object


class CompactList(msgspec.Struct, frozen=True):
    """One consistent list of compact objects."""

    items: list[Object]
    resource_version: str


class CompactReader(Protocol):
    """What a client offers beside `KubeClient` when it can decode straight into `Object`."""

    async def list_compact(
        self, resource: Resource, *, namespace: str | None = None, label_selector: str | None = None
    ) -> CompactList:
        """As `KubeClient.list`."""
        ...

    def watch_compact(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str | None = None,
        timeout_s: float = 300.0,
    ) -> AsyncGenerator[ObjectEvent, None]:
        """As `KubeClient.watch`."""
        ...


class ListMeta(msgspec.Struct, rename="camel"):
    """metav1.ListMeta; `cursor` is the token of the next chunk."""

    resource_version: str = ""
    cursor: str | None = msgspec.field(default=None, name="continue")


class RawList(msgspec.Struct):
    """A list answer whose items are not decoded yet."""

    metadata: ListMeta
    items: list[msgspec.Raw] | None = None


class RawEvent(msgspec.Struct):
    """A watch line whose object is not decoded yet."""

    type: str
    object: msgspec.Raw


_ENCODER = msgspec.json.Encoder()
_DICT = msgspec.json.Decoder(dict[str, Any])
_OBJECT = msgspec.json.Decoder(Object)


def parse_revision(resource_version: str) -> int:
    """A resourceVersion as a number. Kubernetes promises since 1.35 that those of one kind can be compared so."""
    return int(resource_version) if resource_version.isascii() and resource_version.isdigit() else 0


def decode_object(data: bytes | msgspec.Raw, resource: Resource | None = None) -> Object:
    """An `Object` from JSON. `resource` fills apiVersion and kind, which items of a list lack. msgspec.MsgspecError."""
    decoded = _OBJECT.decode(data)
    fixes: dict[str, Any] = {
        name: value.copy()
        for name in ("spec", "status", "data", "binary_data")
        if isinstance(value := getattr(decoded, name), msgspec.Raw)
    }
    if resource is not None:
        # One shared string a kind instead of one an object.
        fixes |= {"kind": resource.kind, "api_version": resource.api_version}
    return msgspec.structs.replace(decoded, **fixes) if fixes else decoded


def encode(obj: Mapping[str, Any]) -> bytes:
    """JSON of a dict."""
    return _ENCODER.encode(obj)


def decode_dict(data: bytes | msgspec.Raw) -> dict[str, Any]:
    """A dict from JSON. msgspec.MsgspecError when it is no JSON object."""
    decoded: dict[str, Any] = _DICT.decode(data)
    return decoded


def compact(obj: Mapping[str, Any], resource: Resource | None = None) -> Object:
    """The `Object` of a dict as a client returns it."""
    return decode_object(_ENCODER.encode(obj), resource)
