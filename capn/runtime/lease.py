"""Leader election by a Lease, safe when it is lost.

Role: one active controller. A lease is taken when nobody holds it, or when it has not changed for its whole duration by
OUR clock (clocks of others are not trusted). A holder counts its right to write from the START of its last renewal, and
that right ends before anybody else's can begin. Writes are optimistic (resourceVersion), so of two takers one wins.
Must not: trust times in the Lease, or go on leading when it is unsure.
"""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from capn.api.resources import LEASE
from capn.errors import CapnError, ConflictError
from capn.kube.client import KubeClient
from capn.runtime.clock import boot_seconds, utc_now
from capn.runtime.guard import LeaseLostError
from capn.runtime.metrics import Metrics

_log = structlog.get_logger(__name__)
_NEVER = float("-inf")
# A process that is told to end has little time left.
_RELEASE_S = 2.0


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Others wait for `duration_s`; a holder that could not renew for `renew_s` stops; `retry_s` is the pace of both.

    `stop_s` bounds the wait for cancelled work.
    """

    duration_s: float = 15.0
    renew_s: float = 10.0
    retry_s: float = 2.0
    stop_s: float = 20.0

    @classmethod
    def of(cls, duration_s: float) -> LeaseTimes:
        """The usual proportions (client-go's 15, 10 and 2 s) for another duration."""
        return cls(duration_s=duration_s, renew_s=duration_s * 2 / 3, retry_s=duration_s * 2 / 15)


@dataclass(frozen=True, slots=True)
class Timekeeper:
    """Clocks of the election; tests bring their own."""

    clock: Callable[[], float] = boot_seconds
    now: Callable[[], datetime] = utc_now
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(frozen=True, slots=True)
class _Observed:
    """What the Lease said, and since when (our clock) it says so."""

    record: tuple[Any, ...]
    since: float


def build_identity() -> str:
    """A name that no other process has, also not this one after a restart.

    Who knows that its predecessor of the same name has ended (a container of a pod) needs none: it leads at once.
    """
    return f"{socket.gethostname()}_{uuid.uuid4().hex[:12]}"


class LeaderElector:
    """Holds the Lease `namespace`/`name` while `run`'s body runs."""

    def __init__(  # noqa: PLR0913 - the rest is for tests
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str = "capn",
        identity: str | None = None,
        times: LeaseTimes | None = None,
        keeper: Timekeeper | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.identity = identity or build_identity()
        self._client = client
        self._namespace, self._name = namespace, name
        self._times = times or LeaseTimes()
        self._keeper = keeper or Timekeeper()
        self._metrics = metrics
        self._observed: _Observed | None = None
        self._revision: str | None = None  # of the Lease as we wrote it last
        self._deadline = _NEVER

    def remaining_s(self) -> float:
        """Seconds for which we may still write; not positive when we do not lead."""
        return self._deadline - self._keeper.clock()

    def valid(self) -> bool:
        """True while we may write."""
        return self.remaining_s() > 0

    async def run(self, body: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, run `body` under it, give it back.

        The lease lost: `body` is cancelled and awaited, then LeaseLostError. Cancelled or ended: `body` is awaited
        first, under the lease, then the lease is released. Errors of `body` are raised as they are.
        """
        await self._acquire()
        work = asyncio.ensure_future(body())
        hold = asyncio.create_task(self._hold(), name="lease")
        try:
            await asyncio.wait({work, hold}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost = hold.done()
            await self._stop(work)
            hold.cancel()
            await asyncio.gather(hold, return_exceptions=True)
            self._set_deadline(_NEVER)
            if not lost:
                await self._release()
        if work.done() and not work.cancelled() and (error := work.exception()) is not None:
            raise error
        if lost:
            hold.result()  # a bug in renewing shows as itself
            raise LeaseLostError(f"the lease {self._namespace}/{self._name} is lost; another controller may be active")

    async def _acquire(self) -> None:
        _log.info("waiting for the lease", lease=f"{self._namespace}/{self._name}", identity=self.identity)
        while not await self._try():
            await self._keeper.sleep(self._times.retry_s)
        _log.info("leading", lease=f"{self._namespace}/{self._name}", identity=self.identity)

    async def _hold(self) -> None:
        """Renew until the deadline passes or somebody else holds the lease; then return."""
        while self.valid():
            await self._keeper.sleep(min(self._times.retry_s, max(self.remaining_s(), 0.0)))
            await self._try()
        _log.error("lease lost", lease=f"{self._namespace}/{self._name}")

    async def _try(self) -> bool:
        """One attempt to take or renew; True when we hold the lease until the new deadline."""
        started = self._keeper.clock()
        try:
            async with asyncio.timeout(self._limit_s()):
                held = await self._write_lease()
        except (CapnError, TimeoutError) as error:
            _log.warning("lease not renewed", error=str(error) or "timed out")
            self._revision = None
            return False
        if held:
            self._set_deadline(started + self._times.renew_s)
        return held

    def _limit_s(self) -> float:
        """No attempt may outlive the deadline: the work must be stopped before others can take over."""
        longest = self._times.renew_s / 2
        return min(longest, self.remaining_s()) if self.valid() else longest

    async def _write_lease(self) -> bool:
        if self._revision is not None:  # ours, as far as we know: no need to read it
            try:
                return await self._patch({"renewTime": self._timestamp()}, self._revision)
            except ConflictError:
                self._revision = None
        live = await self._client.get(LEASE, self._name, self._namespace)
        if live is None:
            return await self._create()
        spec = live.get("spec") or {}
        ours = spec.get("holderIdentity") == self.identity
        if not ours and self.valid():
            self._set_deadline(_NEVER)  # taken from us, whatever our clock says
        if not ours and not self._is_free(spec):
            return False
        return await self._patch(self._claim(spec, ours=ours), live["metadata"]["resourceVersion"])

    def _is_free(self, spec: dict[str, Any]) -> bool:
        record = tuple(spec.get(field) for field in ("holderIdentity", "renewTime", "acquireTime", "leaseTransitions"))
        now = self._keeper.clock()
        if self._observed is None or self._observed.record != record:
            self._observed = _Observed(record, now)
        if not spec.get("holderIdentity"):
            return True
        stated = spec.get("leaseDurationSeconds")
        duration_s = max(self._times.duration_s, float(stated) if isinstance(stated, int) else 0.0)
        return now - self._observed.since > duration_s

    def _claim(self, spec: dict[str, Any], *, ours: bool) -> dict[str, Any]:
        now = self._timestamp()
        claim = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(self._times.duration_s),
            "renewTime": now,
        }
        if not ours:
            claim |= {"acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        return claim

    async def _create(self) -> bool:
        spec = self._claim({}, ours=False) | {"leaseTransitions": 0}
        meta = {"name": self._name, "namespace": self._namespace}
        try:
            made = await self._client.create(LEASE, {"metadata": meta, "spec": spec})
        except ConflictError:
            return False
        self._revision = made["metadata"]["resourceVersion"]
        return True

    async def _patch(self, spec: dict[str, Any], revision: str) -> bool:
        patch = {"metadata": {"resourceVersion": revision}, "spec": spec}
        answer = await self._client.merge_patch(LEASE, self._name, self._namespace, patch)
        self._revision = answer["metadata"]["resourceVersion"] if answer else None
        return answer is not None

    async def _release(self) -> None:
        if self._revision is None:
            return
        spec = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": self._timestamp()}
        try:
            async with asyncio.timeout(min(self._times.retry_s, _RELEASE_S)):
                await self._patch(spec, self._revision)
        except (CapnError, TimeoutError) as error:
            _log.warning("lease not released; others wait for it to expire", error=str(error) or "timed out")
        self._revision = None

    async def _stop(self, work: asyncio.Future[None]) -> None:
        work.cancel()
        _, pending = await asyncio.wait({work}, timeout=self._times.stop_s)
        if pending:
            _log.error("the work did not stop in time", limit_s=self._times.stop_s)

    def _set_deadline(self, deadline: float) -> None:
        self._deadline = deadline
        if self._metrics:
            self._metrics.leader.labels(self._name).set(1 if deadline > _NEVER else 0)

    def _timestamp(self) -> str:
        return self._keeper.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
