"""Schedules: what they mean, and that admission's pattern lets through what has a meaning."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capn.api.cron import PATTERN, find_next, parse_schedule

START = datetime(2026, 11, 26, 20, 34, 18, tzinfo=UTC)  # a Thursday


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("* * * * *", "2026-11-26 20:35"),
        ("34 20 * * *", "2026-11-27 20:34"),
        ("0 3 * * *", "2026-11-27 03:00"),
        ("*/20 * * * *", "2026-11-26 20:40"),
        ("5/20 * * * *", "2026-11-26 20:45"),
        ("0 22-2 * * *", "2026-11-26 22:00"),
        ("0 23-1/2 27 * *", "2026-11-27 01:00"),
        ("0 0 1 * *", "2026-12-01 00:00"),
        ("0 0 1 1,7 *", "2027-01-01 00:00"),
        ("0 0 * * 0", "2026-11-29 00:00"),
        ("0 0 * * 7", "2026-11-29 00:00"),
        ("0 0 * * 5-7", "2026-11-27 00:00"),
        ("0 0 13 * 5", "2026-11-27 00:00"),  # either day is enough
        ("0 0 13 * *", "2026-12-13 00:00"),
        ("0 0 29 2 *", "2028-02-29 00:00"),
        ("59 23 31 12 *", "2026-12-31 23:59"),
        ("1,3,2 9-11 * * *", "2026-11-27 09:01"),
    ],
)
def test_the_next_time(text: str, expected: str) -> None:
    assert re.fullmatch(PATTERN, text)
    found = find_next(parse_schedule(text), START)
    assert found is not None
    assert f"{found:%Y-%m-%d %H:%M}" == expected
    assert found.tzinfo is UTC


def test_a_day_that_never_comes() -> None:
    assert find_next(parse_schedule("0 0 30 2 *"), START) is None


def test_other_time_zones_are_understood() -> None:
    there = START.astimezone(timezone(timedelta(hours=-8)))
    assert find_next(parse_schedule("0 21 * * *"), there) == datetime(2026, 11, 26, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 13 *", "* * * * 8",
     "@daily", "* * * * MON", "*/0 * * * *", "-1 * * * *", "1- * * * *", ", * * * *", "* *  * * *", "* * * * *\n"],
)  # fmt: skip
def test_what_is_no_schedule(text: str) -> None:
    assert not re.fullmatch(PATTERN, text)


@settings(max_examples=50)
@given(st.from_regex(PATTERN, fullmatch=True), st.integers(0, 1 << 31))
def test_whatever_the_pattern_allows_has_a_meaning(text: str, moment: int) -> None:
    after = datetime.fromtimestamp(moment, UTC)
    found = find_next(parse_schedule(text), after)
    if found is not None:
        assert found > after
        assert found - after < timedelta(days=8 * 366 + 2)
