"""Background processes: found by pid and start time, stopped with all that they started, never mistaken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from capn.dev import processes
from capn.errors import NotFoundError, TerminalError

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
FAMILY = "import subprocess, time; subprocess.Popen(['sleep', '60']); print('up', flush=True); time.sleep(60)"


def _wait_for(text: str, directory: Path, name: str = "one") -> None:
    deadline = time.monotonic() + 20
    while text not in processes.read_tail(directory, name):
        assert time.monotonic() < deadline, processes.read_tail(directory, name)
        time.sleep(0.02)


async def test_spawn_find_stop(tmp_path: Path) -> None:
    record = processes.spawn(["sleep", "60"], name="one", directory=tmp_path)
    assert processes.find(tmp_path, "one") == record
    assert os.getsid(record.pid) == record.pid
    assert await processes.stop(tmp_path, "one")
    assert processes.find(tmp_path, "one") is None
    assert not processes.find_owned(tmp_path)
    assert not await processes.stop(tmp_path, "one")


async def test_a_second_one_of_the_same_name_is_refused(tmp_path: Path) -> None:
    record = processes.spawn(["sleep", "60"], name="one", directory=tmp_path)
    with pytest.raises(TerminalError, match=f"one runs already .pid {record.pid}."):
        processes.spawn(["sleep", "60"], name="one", directory=tmp_path)
    await processes.stop(tmp_path, "one")


async def test_stop_kills_what_ignores_sigterm_and_what_it_started(tmp_path: Path) -> None:
    processes.spawn([sys.executable, "-c", STUBBORN], name="one", directory=tmp_path)
    processes.spawn([sys.executable, "-c", FAMILY], name="two", directory=tmp_path)
    _wait_for("up", tmp_path)
    _wait_for("up", tmp_path, "two")
    assert len(processes.find_owned(tmp_path)) == 3
    assert await processes.stop(tmp_path, "one", grace_s=0.2)
    assert await processes.stop(tmp_path, "two")
    assert not processes.find_owned(tmp_path)


async def test_children_of_a_crashed_process_are_stopped_too(tmp_path: Path) -> None:
    processes.spawn([sys.executable, "-c", FAMILY], name="one", directory=tmp_path)
    _wait_for("up", tmp_path)
    assert await processes.kill(tmp_path, "one")
    assert processes.find(tmp_path, "one") is None
    assert [record.name for record in processes.find_owned(tmp_path)] == ["sleep"]
    assert await processes.stop(tmp_path, "one")
    assert not processes.find_owned(tmp_path)


async def test_a_reused_pid_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:  # noqa: ASYNC220 - ends at once
        started = processes.read_start(stranger.pid)
        assert started is not None
        (tmp_path / "one.pid").write_text(json.dumps({"pid": stranger.pid, "started": started - 1}))
        assert processes.find(tmp_path, "one") is None
        assert not await processes.kill(tmp_path, "one")
        assert not await processes.stop(tmp_path, "one")
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("content", ["", "{}", "[]", "nonsense", '{"pid": "x", "started": 1}'])
async def test_a_damaged_pid_file_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "one.pid").write_text(content)
    assert processes.find(tmp_path, "one") is None
    assert not await processes.stop(tmp_path, "one")
    assert not (tmp_path / "one.pid").exists()


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no-such-program"):
        processes.spawn([tmp_path / "no-such-program"], name="one", directory=tmp_path)


def test_a_zombie_does_not_count_as_running(tmp_path: Path) -> None:
    processes.spawn(["true"], name="one", directory=tmp_path)
    deadline = time.monotonic() + 10
    while processes.find(tmp_path, "one"):
        assert time.monotonic() < deadline
    assert processes.read_record(tmp_path, "one") is not None


def test_environments_below_the_directory_are_found_and_neighbours_are_not(tmp_path: Path) -> None:
    processes.spawn(["sleep", "60"], name="one", directory=tmp_path / "a" / "run")
    processes.spawn(["sleep", "60"], name="one", directory=tmp_path / "ab")
    try:
        assert len(processes.find_owned(tmp_path / "a")) == 1
        assert len(processes.find_owned(tmp_path)) == 2
    finally:
        for record in processes.find_owned(tmp_path):
            os.kill(record.pid, 9)


def test_a_process_can_be_tied_to_ours(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from capn.dev import processes;"
        "processes.spawn(['sleep', '60'], name='one', directory=Path(sys.argv[1]), dies_with_us=True)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    deadline = time.monotonic() + 10
    while processes.find_owned(tmp_path):
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("exit 0", "one ended with exit status 0; its log is empty"),
        ("echo words; exit 3", "one ended with exit status 3; the end of {log}:\nwords"),
        ("kill -KILL $$", "one was killed by SIGKILL; its log is empty"),
        ("kill -40 $$", "one was killed by signal 40; its log is empty"),
    ],
)
def test_an_ended_process_says_how(tmp_path: Path, code: str, said: str) -> None:
    processes.spawn(["sh", "-c", code], name="one", directory=tmp_path)
    deadline = time.monotonic() + 10
    while processes.find(tmp_path, "one"):
        assert time.monotonic() < deadline
    assert processes.describe_end(tmp_path, "one") == said.format(log=processes.log_path(tmp_path, "one"))


def test_how_another_s_process_ended_is_not_made_up(tmp_path: Path) -> None:
    (tmp_path / "one.pid").write_text(json.dumps({"pid": 2**22 + 1, "started": 1}))
    assert processes.describe_end(tmp_path, "one") == "one has ended (nobody saw how); its log is empty"
