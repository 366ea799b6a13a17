"""Reads the consoles of machines that are bootstrapping and keeps each guest's last word.

Role: one task a watched machine turns the console's bytes into `Report`s; a report that differs from the last one wakes
the machine's reconciler. Inputs: a provider's console stream; output: `latest`. Must not: write anything, or trust what
a guest prints (`capn.build.report` cleans and caps it).
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from capn.build.report import Report, ReportParser, ReportState
from capn.errors import CapnError, NotFoundError
from capn.providers.base import MachineRef, Provider

log = structlog.get_logger(__name__)

# A console that ends at once (VM starting, daemon restarting) is opened again at this pace.
REOPEN_S = 2.0
# kubeadm runs through some stages within a second; one status write tells of the last.
STAGE_DELAY_S = 1.0
# A guest that changes only its log's end (it may be hostile) is not written down more often than this.
TAIL_DELAY_S = 10.0
# capn's guests try kubeadm three times; a guest that tells of more (it may be hostile) is not listened to.
MAX_RETRIES = 5


@dataclass
class _Console:
    """One console that is read. `retry`: the last attempt that failed and is made again, until it was asked for."""

    task: asyncio.Task[None]
    since: float
    latest: Report | None = None
    retry: Report | None = None
    retries: int = 0


class ConsoleWatch:
    """The consoles being read, by the machine's UID."""

    def __init__(self, wake: Callable[[MachineRef, float], None], *, reopen_s: float = REOPEN_S) -> None:
        """`wake(machine, delay_s)`: a stage may wait for the next one a moment, an end may not."""
        self._wake = wake
        self._reopen_s = reopen_s
        self._consoles: dict[str, _Console] = {}

    def watch(self, provider: Provider, ref: MachineRef) -> None:
        """Begin to read the machine's console, unless that is being done."""
        if ref.uid in self._consoles:
            return
        task = asyncio.create_task(
            self._follow(provider, ref),
            name=f"console/{ref.name}",
            context=contextvars.Context(),  # its log lines are not the reconcile's that happened to begin it
        )
        self._consoles[ref.uid] = _Console(task, since=time.monotonic())

    def latest(self, uid: str) -> Report | None:
        """The guest's last word, or None when it has said nothing yet."""
        console = self._consoles.get(uid)
        return None if console is None else console.latest

    def take_retry(self, uid: str) -> Report | None:
        """What ended an attempt that the guest makes again: each is given once, and only the last of several."""
        console = self._consoles.get(uid)
        if console is None:
            return None
        taken, console.retry = console.retry, None
        return taken

    def listened_s(self, uid: str) -> float:
        """For how long the console has been read; 0 when it is not."""
        console = self._consoles.get(uid)
        return 0.0 if console is None else time.monotonic() - console.since

    def forget(self, uid: str) -> None:
        """Stop reading and drop what was said."""
        if console := self._consoles.pop(uid, None):
            console.task.cancel()

    async def close(self) -> None:
        """Stop all readers."""
        tasks = [console.task for console in self._consoles.values()]
        for uid in list(self._consoles):
            self.forget(uid)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, provider: Provider, ref: MachineRef) -> None:
        while True:
            try:
                await self._read(provider, ref)
            except NotFoundError:
                log.debug("console: no VM yet", machine=ref.name)
            except CapnError as error:
                log.info("console broke off; opening it again", machine=ref.name, error=str(error))
            except Exception:
                # A reader must outlive any surprise in one stream: the machine would look silent for ever.
                log.exception("console reader failed; opening it again", machine=ref.name)
            await asyncio.sleep(self._reopen_s)

    async def _read(self, provider: Provider, ref: MachineRef) -> None:
        parser = ReportParser()
        async for chunk in provider.console(ref):
            for report in parser.feed(chunk):
                self._note(ref, report)

    def _note(self, ref: MachineRef, report: Report) -> None:
        console = self._consoles.get(ref.uid)
        if console is None:
            return  # forgotten meanwhile
        before, console.latest = console.latest, report
        new_tail = before is None or before.tail != report.tail
        if report.state is ReportState.RUNNING and report.tail and new_tail and console.retries < MAX_RETRIES:
            console.retry = report
            console.retries += 1
        if before is None or (before.stage, before.state) != (report.stage, report.state):
            where = {"namespace": ref.cluster.namespace, "machine": ref.name}
            log.info("guest", **where, stage=report.stage, state=str(report.state))
            ends = report.state is not ReportState.RUNNING and (before is None or before.state is not report.state)
            self._wake(ref, 0.0 if ends else STAGE_DELAY_S)
        elif new_tail:
            self._wake(ref, TAIL_DELAY_S)
