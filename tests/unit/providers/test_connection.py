"""The shared libvirt connection, on libvirt's own test driver: no daemon needed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import libvirt
import pytest

from capn.errors import NotFoundError, TransientError, UnreachableError
from capn.providers.libvirt import connection as connection_module
from capn.providers.libvirt.connection import LibvirtConnection, Session
from capn.providers.libvirt.errors import clean_message, translate


@pytest.fixture
async def connection() -> AsyncIterator[LibvirtConnection]:
    connection = LibvirtConnection("test:///default")
    yield connection
    await connection.close()


async def test_calls_run_in_threads_and_leave_the_loop_free(connection: LibvirtConnection) -> None:
    assert await connection.run(lambda session: session.conn.getType()) == "TEST"

    def work(_session: Session) -> str:
        time.sleep(0.2)
        return threading.current_thread().name

    names = await asyncio.gather(*(connection.run(work) for _ in range(4)))
    assert len(set(names)) > 1
    assert threading.current_thread().name not in names


async def test_a_call_whose_caller_is_gone_does_not_write(connection: LibvirtConnection) -> None:
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    writes: list[str] = []

    def work(session: Session) -> None:
        try:
            session.checkpoint()
            writes.append("first")
            began.set()
            go_on.wait(30)
            session.checkpoint()
            writes.append("second")
        finally:
            ended.set()

    call = asyncio.create_task(connection.run(work))
    await asyncio.to_thread(began.wait, 30)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    go_on.set()
    await asyncio.to_thread(ended.wait, 30)
    assert writes == ["first"]


async def test_a_call_that_takes_too_long_is_abandoned(connection: LibvirtConnection) -> None:
    go_on = threading.Event()
    with pytest.raises(UnreachableError) as caught:
        await connection.run(lambda _session: go_on.wait(30), timeout_s=0.2)
    assert caught.value.reason == "HypervisorUnreachable"
    go_on.set()


async def test_calls_of_one_key_come_one_after_the_other(connection: LibvirtConnection) -> None:
    running, most = 0, 0
    guard = threading.Lock()

    def work(_session: Session) -> None:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with guard:
            running -= 1

    await asyncio.gather(*(connection.run(work, key="one") for _ in range(4)))
    assert most == 1
    await asyncio.gather(*(connection.run(work, key=str(number)) for number in range(4)))
    assert most > 1
    assert connection._locks._locks == {}


async def test_a_broken_connection_is_replaced_once(connection: LibvirtConnection) -> None:
    seen: list[object] = []

    def work(session: Session) -> int:
        seen.append(session.conn)
        if len(seen) == 1:
            session.conn.close()
            raise _broken()
        return len(session.conn.listAllDomains())

    assert await connection.run(work) == 1
    assert len(seen) == 2

    def always_broken(_session: Session) -> None:
        raise _broken()

    with pytest.raises(UnreachableError):
        await connection.run(always_broken)


async def test_errors_of_ours_pass_as_they_are(connection: LibvirtConnection) -> None:
    def work(_session: Session) -> None:
        raise NotFoundError("there is none")

    with pytest.raises(NotFoundError, match="there is none"):
        await connection.run(work)


async def test_a_refusal_of_libvirt_is_transient_with_its_words(connection: LibvirtConnection) -> None:
    with pytest.raises(TransientError, match="the hypervisor refused: missing name") as caught:
        await connection.run(lambda session: session.conn.defineXML("<domain/>"))
    assert not isinstance(caught.value, UnreachableError)


async def test_a_closed_connection_takes_no_more_calls(connection: LibvirtConnection) -> None:
    await connection.run(lambda session: session.conn.getType())
    await connection.close()
    with pytest.raises(UnreachableError):
        await connection.run(lambda session: session.conn.getType())
    connection.run_detached(lambda: None)


class _Error(libvirt.libvirtError):  # type: ignore[misc]
    """An error with given code, origin and text."""

    def __init__(self, code: int, text: str, domain: int = libvirt.VIR_FROM_QEMU) -> None:
        super().__init__(text)
        self.err = (code, domain, text, 2, "", "", "", 0, 0)


def _broken() -> _Error:
    return _Error(libvirt.VIR_ERR_RPC, "client socket is closed", libvirt.VIR_FROM_RPC)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("internal error: qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory", "InsufficientMemory"),
        ("Failed to write: No space left on device", "DiskFull"),
        ("End of file while reading data: Input/output error", "HypervisorUnreachable"),
        ("something else", "HypervisorRefused"),
    ],
)
def test_errors_get_the_reason_that_people_can_act_on(text: str, reason: str) -> None:
    assert translate(_Error(libvirt.VIR_ERR_INTERNAL_ERROR, text)).reason == reason


def test_messages_are_the_same_every_time() -> None:
    texts = [
        f"internal error: process exited\n{stamp}Z qemu-system-x86_64: bad kernel (process:{pid})"
        for stamp, pid in (("2026-11-23T13:00:00.123456", 17), ("2026-11-24T01:02:03.5", 4711))
    ]
    messages = {clean_message(_Error(libvirt.VIR_ERR_INTERNAL_ERROR, text)).strip() for text in texts}
    assert messages == {"bad kernel"}


def test_one_failure_of_qemu_is_one_message_whenever_libvirt_noticed() -> None:
    """Which words libvirt chooses is a race; a condition whose message changes each time would be written each time."""
    heads = ("process exited while connecting to monitor", "qemu unexpectedly closed the monitor")
    texts = [f"internal error: {head}: qemu: linux kernel too old" for head in heads]
    messages = {clean_message(_Error(libvirt.VIR_ERR_INTERNAL_ERROR, text)) for text in texts}
    assert messages == {"qemu: linux kernel too old"}


async def test_a_host_that_holds_attempts_up_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[str] = []

    def hang(uri: str) -> libvirt.virConnect:
        attempts.append(uri)
        time.sleep(0.2)
        raise libvirt.libvirtError("no route to host")

    monkeypatch.setattr(libvirt, "open", hang)
    monkeypatch.setattr(connection_module, "_SLOW_S", 0.1)
    slow = LibvirtConnection("qemu+tls://off.example/system")
    for _again in range(3):
        with pytest.raises(UnreachableError):
            await slow.run(lambda session: session.conn.getType())
    assert len(attempts) == 1
    slow._rests_until = 0.0  # it has rested
    with pytest.raises(UnreachableError):
        await slow.run(lambda session: session.conn.getType())
    assert len(attempts) == 2
    await slow.close()


async def test_a_host_that_refuses_at_once_is_asked_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real, attempts = libvirt.open, list[str]()

    def refuse_once(_uri: str) -> libvirt.virConnect:
        attempts.append("")
        if len(attempts) == 1:
            raise libvirt.libvirtError("connection refused")
        return real("test:///default")

    monkeypatch.setattr(libvirt, "open", refuse_once)
    restarting = LibvirtConnection("qemu:///system")
    with pytest.raises(UnreachableError):
        await restarting.run(lambda session: session.conn.getType())
    assert await restarting.run(lambda session: session.conn.getType()) == "TEST"
    await restarting.close()
