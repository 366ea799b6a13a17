from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from capn.errors import NotFoundError, TerminalError
from capn.parts.ensure import ensure_parts, find_parts, part_path
from capn.parts.locks import file_lock
from capn.parts.source import PreferredSource
from tests.unit.parts.fakes import TOOL, FakeSource


async def ensure(source: FakeSource, cache: Path, lines: list[str] | None = None) -> dict[str, Path]:
    report = lines.append if lines is not None else lambda _: None
    return await ensure_parts([TOOL], source=source, cache=cache, report=report)


async def test_a_missing_part_is_made_and_a_second_call_makes_nothing(tmp_path: Path) -> None:
    source, lines = FakeSource(), list[str]()
    assert find_parts([TOOL], source=source, cache=tmp_path) == {}
    first = await ensure(source, tmp_path, lines)
    assert first == {"tool": tmp_path / "parts/tool/v1.2.3-aaaaaaaaaaaa/tool"}
    assert os.access(first["tool"], os.X_OK)
    assert lines[0] == "[1/1] tool v1.2.3: started"
    assert lines[1].startswith("[1/1] tool v1.2.3: done in 0 s")
    assert await ensure(source, tmp_path, lines) == first == find_parts([TOOL], source=source, cache=tmp_path)
    assert source.fetched == ["tool"]
    assert len(lines) == 2


async def test_other_inputs_make_another_part(tmp_path: Path) -> None:
    old = await ensure(FakeSource(), tmp_path)
    new = await ensure(FakeSource(digest_text="b" * 64), tmp_path)
    assert old["tool"] != new["tool"]
    assert old["tool"].is_file()


async def test_two_at_the_same_time_make_it_once(tmp_path: Path) -> None:
    source, lines = FakeSource(delay_s=0.3), list[str]()
    results = await asyncio.gather(ensure(source, tmp_path, lines), ensure(source, tmp_path, lines))
    assert results[0] == results[1]
    assert source.fetched == ["tool"]
    assert "[1/1] tool v1.2.3: waiting for another capn that makes it" in lines


async def test_a_failure_leaves_nothing_and_the_next_call_tries_again(tmp_path: Path) -> None:
    with pytest.raises(TerminalError, match="boom"):
        await ensure(FakeSource(failure="boom"), tmp_path)
    assert list((tmp_path / "parts/tool").iterdir()) == []
    assert (await ensure(FakeSource(), tmp_path))["tool"].is_file()


async def test_a_source_that_leaves_no_executable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="left no executable"):
        await ensure(FakeSource(executable=False), tmp_path)
    assert find_parts([TOOL], source=FakeSource(), cache=tmp_path) == {}


async def test_cancelling_leaves_nothing(tmp_path: Path) -> None:
    task = asyncio.create_task(ensure(FakeSource(delay_s=30), tmp_path))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / "parts/tool").iterdir()) == []


async def test_a_part_that_the_source_lacks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"tool v1\.2\.3: the chosen source does not have it"):
        await ensure(FakeSource(supported=False), tmp_path)


@pytest.mark.parametrize("supported", [True, False])
async def test_the_preferred_source_is_used_where_it_can(tmp_path: Path, supported: bool) -> None:  # noqa: FBT001
    first, other = FakeSource("b" * 64, supported=supported), FakeSource("c" * 64)
    source = PreferredSource(first, other)
    paths = await ensure_parts([TOOL], source=source, cache=tmp_path, report=lambda _: None)
    assert (first.fetched, other.fetched) == ((["tool"], []) if supported else ([], ["tool"]))
    assert paths["tool"] == part_path(TOOL, source=first if supported else other, cache=tmp_path)


async def test_a_lock_is_free_again_after_its_holder_failed(tmp_path: Path) -> None:
    waits: list[str] = []
    with pytest.raises(TerminalError):
        async with file_lock(tmp_path / "x.lock", on_wait=lambda: waits.append("w")):
            raise TerminalError("x")
    async with file_lock(tmp_path / "x.lock", on_wait=lambda: waits.append("w")):
        assert waits == []
