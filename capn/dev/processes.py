"""Background processes that outlive the command which started them, found again by their pid files.

Role: spawn, find, stop and list. Inputs: argv and a directory; files in it: `<name>.pid`, `<name>.log`. A pid file
holds the start time as well, and every process carries its directory in the environment, so that a reused pid is never
taken for ours. Must not: use a shell, or signal anything whose identity was not checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from capn.errors import NotFoundError, TerminalError

OWNER_VARIABLE = "CAPN_PROCESS_OWNER"
_POLL_S = 0.05
_KILL_WAIT_S = 10.0
_MARK_WAIT_S, _MARK_POLL_S = 1.0, 0.001
_STAT_STATE, _STAT_SESSION, _STAT_START = 0, 3, 19  # fields 3, 6 and 22 of proc(5) stat, counted after the name
_DEAD = ("Z", "X")


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process of ours: its pid and when it started, in clock ticks since boot (the pair is never reused).

    `ended` is its exit status, or the negative number of the signal that killed it: known once it has ended, and only
    if it was a child of a process that looked.
    """

    name: str
    pid: int
    started: int
    ended: int | None = None

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return read_start(self.pid) == self.started


def _read_stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def read_start(pid: int) -> int | None:
    """Start time of the process in clock ticks since boot; None if there is none or it is a zombie."""
    fields = _read_stat(pid)
    if fields is None or fields[_STAT_STATE] in _DEAD:
        return None
    return int(fields[_STAT_START])


def spawn(
    argv: Sequence[str | Path],
    *,
    name: str,
    directory: Path,
    env: Mapping[str, str] | None = None,
    dies_with_us: bool = False,
) -> ProcessRecord:
    """Start `argv` in a session of its own, output appended to `<directory>/<name>.log`, and write its pid file.

    `dies_with_us`: the kernel kills it when the calling process ends (tests). TerminalError when one runs already,
    NotFoundError when the program does not exist.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if running := find(directory, name):
        raise TerminalError(f"{name} runs already (pid {running.pid}); stop it first", reason="AlreadyRunning")
    prefix = ["setpriv", "--pdeathsig", "KILL", "--"] if dies_with_us else []
    words = [*prefix, *(str(word) for word in argv)]
    environment = {**os.environ, **(env or {}), OWNER_VARIABLE: str(directory)}
    try:
        with log_path(directory, name).open("ab") as log:
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                cwd=directory,
            )
    except FileNotFoundError as error:
        raise NotFoundError(f"{words[0]} is not installed or not on PATH") from error
    _wait_for_mark(child.pid, directory)
    return _remember(directory, name, child)


def _wait_for_mark(pid: int, directory: Path) -> None:
    """Popen returns when the program begins to be loaded; the kernel shows its environment, our mark, only after."""
    deadline = time.monotonic() + _MARK_WAIT_S
    while not _is_marked(pid, directory) and read_start(pid) is not None and time.monotonic() < deadline:
        time.sleep(_MARK_POLL_S)


def _is_marked(pid: int, directory: Path) -> bool:
    """Whether the process was started for `directory` or a directory below it; False as well when it cannot be read."""
    mark = f"{OWNER_VARIABLE}={directory}".encode()
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(item == mark or item.startswith(mark + b"/") for item in variables)


def _remember(directory: Path, name: str, child: subprocess.Popen[bytes]) -> ProcessRecord:
    record = ProcessRecord(name, child.pid, read_start(child.pid) or 0)
    # The handle would warn when it is collected while the process runs; _reap waits for it instead.
    child.returncode = 0
    _write_record(directory, record)
    return record


def _write_record(directory: Path, record: ProcessRecord) -> None:
    path = _pid_path(directory, record.name)
    unfinished = path.with_suffix(".pid.new")
    known = {"pid": record.pid, "started": record.started, "ended": record.ended}
    unfinished.write_text(json.dumps({key: value for key, value in known.items() if value is not None}))
    unfinished.rename(path)


def _pid_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.pid"


def log_path(directory: Path, name: str) -> Path:
    """Where the process's output goes."""
    return directory / f"{name}.log"


def read_record(directory: Path, name: str) -> ProcessRecord | None:
    """What the pid file says, whether or not the process lives; None without a readable one."""
    try:
        data = json.loads(_pid_path(directory, name).read_text())
        ended = data.get("ended")
        return ProcessRecord(name, int(data["pid"]), int(data["started"]), None if ended is None else int(ended))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def find(directory: Path, name: str) -> ProcessRecord | None:
    """The running process of that name, or None."""
    record = read_record(directory, name)
    if record is None:
        return None
    _reap(directory, record)
    return record if record.alive else None


def _reap(directory: Path, record: ProcessRecord) -> None:
    """Collect the process if it is our own child and has ended (it would stay as a zombie); note how it ended."""
    with contextlib.suppress(ChildProcessError):
        pid, status = os.waitpid(record.pid, os.WNOHANG)
        if pid:
            _write_record(directory, replace(record, ended=os.waitstatus_to_exitcode(status)))


async def stop(directory: Path, name: str, *, grace_s: float = 10.0) -> bool:
    """SIGTERM, then SIGKILL after `grace_s`, to the process and its whole session; False when there was nothing.

    The pid file goes last, so that an interrupted stop can be repeated.
    """
    record = read_record(directory, name)
    if record is None:
        _pid_path(directory, name).unlink(missing_ok=True)
        return False
    found = _members(directory, record)
    if found:
        _signal(found, signal.SIGTERM)
        if not await _wait_gone(directory, record, grace_s):
            _signal(_members(directory, record), signal.SIGKILL)
            if not await _wait_gone(directory, record, _KILL_WAIT_S):
                raise _unkillable(record)
    _pid_path(directory, name).unlink(missing_ok=True)
    return bool(found)


async def kill(directory: Path, name: str) -> bool:
    """SIGKILL to the process alone, as a crash would, and wait until it has ended; False when it does not run.

    The pid file stays. TerminalError when it does not end.
    """
    record = find(directory, name)
    if record is None:
        return False
    _signal([record], signal.SIGKILL)
    # A killed process still looks alive for a moment: who starts it again at once would take it for running.
    deadline = time.monotonic() + _KILL_WAIT_S
    while find(directory, name):
        if time.monotonic() > deadline:
            raise _unkillable(record)
        await asyncio.sleep(_POLL_S)
    return True


def _unkillable(record: ProcessRecord) -> TerminalError:
    return TerminalError(f"{record.name} (pid {record.pid}) does not end, even by SIGKILL", reason="StopFailed")


async def _wait_gone(directory: Path, record: ProcessRecord, limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while _members(directory, record):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True


def _members(directory: Path, record: ProcessRecord) -> list[ProcessRecord]:
    """The process and what it left in its session; those that aren't the process itself must carry our mark."""
    _reap(directory, record)
    left = [
        other
        for other in find_owned(directory)
        if other.pid != record.pid and (fields := _read_stat(other.pid)) and int(fields[_STAT_SESSION]) == record.pid
    ]
    return [record, *left] if record.alive else left


def _signal(records: Sequence[ProcessRecord], number: signal.Signals) -> None:
    for record in records:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(record.pid)
            try:
                if record.alive:  # checked after the pidfd is held: from here on it cannot be another process
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


def find_owned(directory: Path) -> list[ProcessRecord]:
    """Every running process that was started for `directory` or a directory below it, children included."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or not _is_marked(int(entry.name), directory):
            continue
        try:
            name = (entry / "comm").read_text().strip()
        except OSError:
            continue
        if (started := read_start(int(entry.name))) is not None:
            found.append(ProcessRecord(name, int(entry.name), started))
    return found


def read_tail(directory: Path, name: str, *, lines: int = 20) -> str:
    """The last lines of the process's log; empty without one."""
    try:
        with log_path(directory, name).open(errors="replace") as file:
            return "".join(deque(file, maxlen=lines)).rstrip()
    except OSError:
        return ""


def describe_end(directory: Path, name: str) -> str:
    """For an error: how a process that is not there any more ended, as far as is known, and the end of its log."""
    find(directory, name)
    record = read_record(directory, name)
    tail = read_tail(directory, name)
    log = f"the end of {log_path(directory, name)}:\n{tail}" if tail else "its log is empty"
    return f"{name} {_describe_status(record.ended if record else None)}; {log}"


def _describe_status(ended: int | None) -> str:
    if ended is None:
        return "has ended (nobody saw how)"
    if ended >= 0:
        return f"ended with exit status {ended}"
    try:
        return f"was killed by {signal.Signals(-ended).name}"
    except ValueError:  # real-time signals have no name
        return f"was killed by signal {-ended}"
