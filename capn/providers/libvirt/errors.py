"""Turns libvirt's errors into capn's.

Role: tells an unreachable daemon from a refused request, and makes messages that are the same every time (libvirt puts
process ids, times and sockets into its own). Must not: pass on the endpoint's URI, which is the administrator's.
"""

from __future__ import annotations

import re

import libvirt

from capn.errors import CapnError, TerminalError, TransientError, UnreachableError

_REASON_DOWN = "HypervisorUnreachable"
_MISSING = frozenset(
    {
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_NETWORK,
        libvirt.VIR_ERR_NO_STORAGE_POOL,
        libvirt.VIR_ERR_NO_STORAGE_VOL,
    }
)
_DISCONNECTED = frozenset(
    {
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_GNUTLS_ERROR,
    }
)
_TRANSPORT_DOMAINS = frozenset({libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE})
_TRANSPORT_WORDS = ("client socket is closed", "connection closed", "end of file while reading", "keepalive")
# "2026-01-02T03:04:05.678901Z qemu-system-x86_64: " and the like at the head of QEMU's own words.
_QEMU_PREFIX = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z?\s+qemu-system-\w+:\s*")
# Which of the two libvirt says depends on whether QEMU ended before or after the monitor was connected.
_MONITOR_PREFIX = re.compile(
    r"internal error: (?:process exited while connecting to monitor|qemu unexpectedly closed the monitor): *"
)
_VARYING = re.compile(r"\b(?:pid|PID) \d+\b|\(process:\d+\)")
_MESSAGE_LIMIT = 400


def is_missing(error: libvirt.libvirtError) -> bool:
    """Whether it says that the thing does not exist."""
    return error.get_error_code() in _MISSING


def is_disconnect(error: libvirt.libvirtError) -> bool:
    """Whether the connection itself is broken, so that another one may work."""
    message = (error.get_error_message() or "").lower()
    return (
        error.get_error_code() in _DISCONNECTED
        or error.get_error_domain() in _TRANSPORT_DOMAINS
        or any(words in message for words in _TRANSPORT_WORDS)
    )


def translate(error: libvirt.libvirtError) -> CapnError:
    """Translate to the error to raise in its place."""
    if is_disconnect(error):
        return unreachable()
    message = clean_message(error)
    if "cannot allocate memory" in message.lower():
        return TerminalError(
            "the hypervisor has no memory left for this machine: free some there, or lower spec.machine.memory",
            reason="InsufficientMemory",
        )
    if "no space left on device" in message.lower():
        return TransientError("the hypervisor's storage pool is full: free space there", reason="DiskFull")
    return TransientError(f"the hypervisor refused: {message}", reason="HypervisorRefused")


def unreachable() -> UnreachableError:
    """Build the error for a hypervisor that gives no answer. The detail is in the log, for the administrator."""
    return UnreachableError(
        "the hypervisor does not answer: check that libvirtd runs there and that the endpoint's uri is right",
        reason=_REASON_DOWN,
    )


def clean_message(error: libvirt.libvirtError) -> str:
    """The last line of libvirt's message without what differs from time to time."""
    lines = [line.strip() for line in (error.get_error_message() or "").splitlines() if line.strip()]
    text = lines[-1] if lines else "no reason given"
    for varying in (_MONITOR_PREFIX, _QEMU_PREFIX, _VARYING):
        text = varying.sub("", text)
    return text[:_MESSAGE_LIMIT]
