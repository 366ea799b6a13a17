"""Which resource serves a kind, as an API server itself tells.

Role: apiVersion and kind -> `Resource`, through `/api/v1` and `/apis/<group>/<version>`, remembered for as long as the
connection. The answers are a child's and so hostile: what is no name is left out. Must not: remember that a kind is
missing, since its CRD may come.
"""

from __future__ import annotations

import json
import re
from http import HTTPStatus

from capn.api.resources import Resource
from capn.errors import ApiStatusError
from capn.kube.client import KubeClient

_PLURAL = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_API_VERSION = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?v[0-9][a-z0-9]{0,30}")


class Discovery:
    """The kinds of one API server."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._known: dict[tuple[str, str], Resource] = {}

    async def find(self, api_version: str, kind: str) -> Resource | None:
        """The resource, or None when the server does not serve the kind (now). ApiStatusError on other answers."""
        if (api_version, kind) not in self._known:
            self._known.update(await self._read(api_version))
        return self._known.get((api_version, kind))

    def forget(self, api_version: str, kind: str) -> None:
        """Ask again next time: the server no longer answers where the kind was."""
        self._known.pop((api_version, kind), None)

    async def _read(self, api_version: str) -> dict[tuple[str, str], Resource]:
        if not _API_VERSION.fullmatch(api_version):
            return {}
        group, _, version = api_version.rpartition("/")
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        status, body = await self._client.get_raw(path)
        if status == HTTPStatus.NOT_FOUND:
            return {}
        if status != HTTPStatus.OK:
            raise ApiStatusError(status, f"the child does not tell what it serves under {path}", reason="NoDiscovery")
        try:
            listed = json.loads(body)["resources"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ApiStatusError(
                HTTPStatus.BAD_GATEWAY, f"the child's {path} is not what an API server sends", reason="NoDiscovery"
            ) from None
        found = {}
        for entry in listed if isinstance(listed, list) else ():
            plural, kind = (entry.get("name"), entry.get("kind")) if isinstance(entry, dict) else (None, None)
            if isinstance(plural, str) and isinstance(kind, str) and _PLURAL.fullmatch(plural):
                found[api_version, kind] = Resource(group, version, plural, kind, entry.get("namespaced") is True)
        return found
