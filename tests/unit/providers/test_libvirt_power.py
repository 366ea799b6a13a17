"""Switching a domain off, on libvirt's own simulated hypervisor; the real one is in tests/contract."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import libvirt
import pytest

from capn.errors import TransientError
from capn.providers.libvirt import domains
from capn.providers.libvirt.connection import Session


@pytest.fixture
def conn() -> Iterator[libvirt.virConnect]:
    opened = libvirt.open("test:///default")
    yield opened
    opened.close()


def find(conn: libvirt.virConnect) -> libvirt.virDomain:
    handle = conn.lookupByName("test")
    if not handle.isActive():
        handle.create()
    return handle


@pytest.mark.parametrize("force", [False, True])
def test_what_runs_is_switched_off_and_stays_defined(conn: libvirt.virConnect, *, force: bool) -> None:
    handle, session = find(conn), Session(conn, threading.Event())
    for _again in range(2):
        assert domains.stop(session, handle, force=force)
        assert handle.state()[0] == libvirt.VIR_DOMAIN_SHUTOFF
    domains.ensure_running(session, handle)
    assert handle.isActive()


@pytest.mark.parametrize("force", [False, True])
def test_what_is_paused_is_switched_off_too(conn: libvirt.virConnect, *, force: bool) -> None:
    handle, session = find(conn), Session(conn, threading.Event())
    handle.suspend()
    assert domains.stop(session, handle, force=force)
    assert handle.state()[0] == libvirt.VIR_DOMAIN_SHUTOFF


class Deaf:
    """A domain whose guest does not hear the power button."""

    def __init__(self, inner: libvirt.virDomain) -> None:
        self.inner = inner
        self.pressed = 0

    def state(self) -> tuple[int, int]:
        found: tuple[int, int] = self.inner.state()
        return found

    def shutdown(self) -> None:
        self.pressed += 1

    def destroy(self) -> None:
        self.inner.destroy()


def test_a_deaf_guest_is_asked_each_time_and_loses_its_power_only_by_force(conn: libvirt.virConnect) -> None:
    deaf, session = Deaf(find(conn)), Session(conn, threading.Event())
    for times in (1, 2):
        assert not domains.stop(session, deaf, force=False)
        assert deaf.pressed == times
    assert domains.stop(session, deaf, force=True)


class Ending(Deaf):
    """A domain that ends just when it is asked."""

    def shutdown(self) -> None:
        self.inner.destroy()
        self.inner.destroy()  # says what QEMU's driver says to a shutdown: the domain is not running


def test_a_guest_that_ends_just_then_is_off_and_no_error(conn: libvirt.virConnect) -> None:
    assert domains.stop(Session(conn, threading.Event()), Ending(find(conn)), force=False)


def test_a_caller_that_has_given_up_switches_nothing_off(conn: libvirt.virConnect) -> None:
    handle, abandoned = find(conn), threading.Event()
    abandoned.set()
    with pytest.raises(TransientError):
        domains.stop(Session(conn, abandoned), handle, force=True)
    assert handle.isActive()
