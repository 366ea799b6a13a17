from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from capn.errors import NotFoundError, TerminalError
from capn.parts.process import run
from tests.unit.parts.fakes import write_program


async def test_the_last_lines_and_the_status_are_kept(tmp_path: Path) -> None:
    program = write_program(tmp_path / "p", 'for n in 1 2 3 4; do echo "$WORD $n"; done; echo bad >&2; exit 3')
    finished = await run([program], env={"WORD": "line"}, tail_lines=3)
    assert finished.status == 3
    assert finished.tail == ("line 3", "line 4", "bad")
    with pytest.raises(
        TerminalError, match=r"making it: .*/p ended with status 3:\n  line 3\n  line 4\n  bad"
    ) as caught:
        finished.require_success("making it", reason="Bad")
    assert caught.value.reason == "Bad"


async def test_success_returns_itself(tmp_path: Path) -> None:
    finished = await run([write_program(tmp_path / "p", "exit 0")])
    assert finished.require_success("x", reason="Bad") is finished


async def test_a_missing_program_and_a_missing_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="capn-no-such-program is not installed"):
        await run(["capn-no-such-program"])
    with pytest.raises(NotFoundError, match=r"/nowhere.* does not exist"):
        await run(["true"], cwd=tmp_path / "nowhere")


async def test_an_endless_line_neither_fails_nor_fills_the_memory(tmp_path: Path) -> None:
    program = write_program(tmp_path / "p", "head -c 5000000 /dev/zero; echo; echo end")
    finished = await run([program])
    assert finished.status == 0
    assert finished.tail[-1] == "end"
    assert sum(map(len, finished.tail)) < 2_000_000


async def test_cancelling_ends_the_program_and_its_children(tmp_path: Path) -> None:
    program = write_program(tmp_path / "p", f"sleep 60 & echo $! > {tmp_path}/child; wait")
    task = asyncio.create_task(run([program]))
    child = None
    for _ in range(500):
        await asyncio.sleep(0.02)
        if (child := _read_number(tmp_path / "child")) is not None:
            break
    assert child is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(600):
        if not _runs(child):
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"the child {child} still runs")


def _read_number(path: Path) -> int | None:
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text else None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
