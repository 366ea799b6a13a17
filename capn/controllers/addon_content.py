"""Reads what the add-ons' ConfigMaps and Secrets hold, and keeps it in memory for a while.

Role: the one place where add-ons' content is read from the parent. RBAC grants reads by name only, so nothing tells of
a change: content is read again when the cluster's spec or annotations change, and after ten minutes. Inputs: the
client; output: parsed content. Must not: read from another namespace than the cluster's, list, write, or log content.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from capn import names
from capn.api.addons import Addon
from capn.api.meta import ObjectMeta
from capn.api.resources import CONFIG_MAP, SECRET
from capn.build.addons import REASON_INVALID, AddonContent, parse_content
from capn.errors import TerminalError
from capn.kube.client import KubeClient

KEEP = timedelta(minutes=10)
_Kept = tuple[object, datetime, AddonContent]


class AddonContents:
    """Content by the cluster's UID and the add-on's name."""

    def __init__(self, client: KubeClient, now: Callable[[], datetime]) -> None:
        self._client = client
        self._now = now
        self._kept: dict[str, dict[str, _Kept]] = {}

    async def load(self, meta: ObjectMeta, addon: Addon) -> AddonContent:
        """From memory if it is fresh, else from the API. TerminalError says what is missing or malformed."""
        kept = self._kept.setdefault(meta.uid, {})
        stamp = (meta.generation, meta.annotations.get(names.ANNOTATION_REFRESH))
        known = kept.get(addon.name)
        if known is not None and known[0] == stamp and self._now() - known[1] < KEEP:
            return known[2]
        kept.pop(addon.name, None)
        data = await self._read(meta.namespace, addon)
        content = await asyncio.to_thread(parse_content, addon.name, data)  # half a MiB of YAML takes a while
        kept[addon.name] = (stamp, self._now(), content)
        return content

    def forget(self, uid: str, addon: str | None = None) -> None:
        """Drop what is remembered of a cluster, or of one of its add-ons."""
        if addon is None:
            self._kept.pop(uid, None)
        else:
            self._kept.get(uid, {}).pop(addon, None)

    async def _read(self, namespace: str, addon: Addon) -> dict[str, bytes]:
        if addon.secret_ref is not None:
            secret = await self._get(SECRET, namespace, addon.secret_ref.name)
            if secret.get("type") != names.SECRET_TYPE_ADDON:
                # So that nobody has a Secret copied to a child that was never meant to leave.
                raise TerminalError(
                    f"Secret {addon.secret_ref.name} is not of type {names.SECRET_TYPE_ADDON}: make it anew with that",
                    reason=REASON_INVALID,
                )
            return {key: _decode(key, value) for key, value in (secret.get("data") or {}).items()}
        assert addon.config_map_ref is not None  # noqa: S101 - the model has one of the two
        config = await self._get(CONFIG_MAP, namespace, addon.config_map_ref.name)
        return {key: value.encode() for key, value in (config.get("data") or {}).items()}

    async def _get(self, resource: Any, namespace: str, name: str) -> dict[str, Any]:  # noqa: ANN401
        found = await self._client.get(resource, name, namespace)
        if found is None:
            message = f"{resource.kind} {name} is not in namespace {namespace}: make it there"
            raise TerminalError(message, reason="AddonContentMissing")
        return found


def _decode(key: str, value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise TerminalError(f"key {key}: is not base64", reason=REASON_INVALID) from None
