"""A small S3 in this process: objects in memory, every signature checked by an implementation of its own.

A double: what real stores do beyond this (versions, multipart, policies) is not here.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote

from aiohttp import web

ACCESS, SECRET, REGION = "AKIDEXAMPLE", "wJalr/secret+KEY", "eu-test-1"
_AUTH = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, SignedHeaders=([^,]+),"
    r" Signature=([0-9a-f]{64})"
)


@dataclass
class S3Double:
    """`objects` by bucket and key. `fails` answers every request with this status; `page` objects a list."""

    objects: dict[str, bytes] = field(default_factory=dict)
    buckets: tuple[str, ...] = ("backups",)
    fails: int = 0
    page: int = 2
    endpoint: str = ""
    requests: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[S3Double]:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{tail:.*}", self._serve)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        self.endpoint = f"http://{host}:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append(f"{request.method} {request.path}")
        if self.fails:
            return _error(self.fails, "InternalError" if self.fails >= 500 else "Refused")
        if not _is_signed(request, body):
            return _error(403, "SignatureDoesNotMatch")
        bucket, _, key = request.path.lstrip("/").partition("/")
        if bucket not in self.buckets:
            return _error(404, "NoSuchBucket")
        return self._answer(request, key, body)

    def _answer(self, request: web.Request, key: str, body: bytes) -> web.Response:
        if not key:
            return self._list(dict(request.query))
        if request.method == "PUT":
            self.objects[key] = body
            return web.Response()
        if request.method == "DELETE":
            self.objects.pop(key, None)
            return web.Response(status=204)
        return web.Response(body=self.objects[key]) if key in self.objects else _error(404, "NoSuchKey")

    def _list(self, query: dict[str, str]) -> web.Response:
        prefix, after = query["prefix"], query.get("continuation-token", "")
        keys = sorted(key for key in self.objects if key.startswith(prefix) and "/" not in key[len(prefix) :])
        left = [key for key in keys if key > after]
        shown = left[: self.page]
        more = f"<NextContinuationToken>{shown[-1]}</NextContinuationToken>" if len(left) > len(shown) else ""
        found = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in shown)
        return web.Response(text=f"<ListBucketResult>{found}{more}</ListBucketResult>", content_type="application/xml")


def _is_signed(request: web.Request, body: bytes) -> bool:
    found = _AUTH.fullmatch(request.headers.get("Authorization", ""))
    if found is None or found[1] != ACCESS or found[3] != REGION:
        return False
    digest = hashlib.sha256(body).hexdigest()
    if request.headers.get("x-amz-content-sha256") != digest or not request.headers["x-amz-date"].startswith(found[2]):
        return False
    query = sorted(
        f"{quote(key, safe='-_.~')}={quote(value, safe='-_.~')}"
        for key, value in parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True)
    )
    lines = [request.method, request.rel_url.raw_path, "&".join(query)]
    lines += [f"{name}:{request.headers[name].strip()}" for name in found[4].split(";")]
    canonical = "\n".join([*lines, "", found[4], digest])
    scope = f"{found[2]}/{REGION}/s3/aws4_request"
    text = "\n".join(
        ["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()]
    )
    key = f"AWS4{SECRET}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), "sha256").digest()
    return hmac.compare_digest(hmac.new(key, text.encode(), "sha256").hexdigest(), found[5])


def _error(status: int, code: str) -> web.Response:
    return web.Response(status=status, text=f"<Error><Code>{code}</Code><Message>why</Message></Error>")
