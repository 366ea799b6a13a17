"""A bare client of the API server, for the harness and the floor: aiohttp and msgspec, nothing between.

Role: the shortest way from Python to an API server, so that what it costs can be taken off from what capn costs.
Inputs: a kubeconfig of the embedded parent; outputs: bytes. Must not: be used by capn, retry, or hide a refusal.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yaml

from capn.api.resources import Resource
from capn.errors import ApiStatusError
from capn.kube.paths import build_path, build_query

_FIRST_REFUSAL = 400
_CONNECTIONS = 128
_LINE_BYTES = 4 * 1024 * 1024
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"  # JSON is YAML
APPLY_QUERY = build_query({"fieldManager": "capn", "force": "true"})


@dataclass(frozen=True)
class Api:
    """One session with one API server."""

    session: aiohttp.ClientSession

    async def call(self, method: str, path: str, body: object = None, *, content_type: str = JSON) -> bytes:
        """The answer's body. ApiStatusError when the server refuses."""
        data = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": content_type} if body is not None else {}
        async with self.session.request(method, path, data=data, headers=headers) as answer:
            text = await answer.read()
            if answer.status >= _FIRST_REFUSAL:
                raise ApiStatusError(answer.status, f"{method} {path}: {text[:400].decode(errors='replace')}")
            return text

    async def create(self, resource: Resource, obj: dict[str, Any]) -> bytes:
        """POST."""
        return await self.call("POST", build_path(resource, namespace=obj["metadata"].get("namespace")), obj)

    async def apply(self, resource: Resource, obj: dict[str, Any], *, subresource: str | None = None) -> bytes:
        """Server-side apply."""
        meta = obj["metadata"]
        path = build_path(resource, namespace=meta.get("namespace"), name=meta["name"], subresource=subresource)
        return await self.call("PATCH", path + APPLY_QUERY, obj, content_type=APPLY_PATCH)

    async def patch(self, resource: Resource, patch: dict[str, Any]) -> bytes:
        """JSON merge patch; its metadata names the object."""
        meta = patch["metadata"]
        path = build_path(resource, namespace=meta["namespace"], name=meta["name"])
        return await self.call("PATCH", path, patch, content_type=MERGE_PATCH)

    async def watch(self, resource: Resource, *, revision: str = "0") -> AsyncIterator[bytes]:
        """Events as lines; revision "0" begins with what exists. Ends when the server ends it."""
        query = build_query({"watch": "true", "resourceVersion": revision, "timeoutSeconds": "3600"})
        timeout = aiohttp.ClientTimeout(total=None)
        async with self.session.get(build_path(resource) + query, timeout=timeout, read_bufsize=_LINE_BYTES) as answer:
            if answer.status >= _FIRST_REFUSAL:
                raise ApiStatusError(answer.status, f"watch {resource.plural}: {(await answer.text())[:400]}")
            async for line in answer.content:
                yield line


@asynccontextmanager
async def connect(kubeconfig: Path) -> AsyncIterator[Api]:
    """A session as the kubeconfig's client certificate says."""
    document = yaml.safe_load(kubeconfig.read_text())  # noqa: ASYNC240 - once, at the start
    server = document["clusters"][0]["cluster"]
    context = _build_context(server, document["users"][0]["user"])
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=context)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(server["server"], connector=connector, timeout=timeout) as session:
        yield Api(session)


def _build_context(server: dict[str, str], user: dict[str, str]) -> ssl.SSLContext:
    ca = base64.b64decode(server["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=ca)
    with tempfile.NamedTemporaryFile() as pair:  # the ssl module takes client keys from files only
        for key in ("client-certificate-data", "client-key-data"):
            pair.write(base64.b64decode(user[key]))
        pair.flush()
        context.load_cert_chain(pair.name)
    return context
