"""Cron schedules of five fields, in UTC: minute, hour, day of the month, month, day of the week (0 and 7: Sunday).

Role: pure. A field is `*` or a list of numbers and ranges, each with an optional `/step`; a range may wrap around
(22-2). When both days are restricted, either is enough, as in cron. `PATTERN` is what admission checks; whatever
it lets through has a meaning here. Must not: read the clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_STEP = "(/[1-9][0-9]?)?"
_HORIZON_DAYS = 8 * 366 + 1  # 29 February comes at least once in eight years, also around 2100
_SUNDAY = 7


def _field(number: str) -> str:
    item = rf"(\*|({number})(-({number}))?){_STEP}"
    return f"{item}(,{item})*"


_NUMBERS = ("[0-5]?[0-9]", "[01]?[0-9]|2[0-3]", "0?[1-9]|[12][0-9]|3[01]", "0?[1-9]|1[0-2]", "[0-7]")
_RANGES = (range(60), range(24), range(1, 32), range(1, 13), range(8))
PATTERN = " ".join(_field(number) for number in _NUMBERS)


@dataclass(frozen=True, slots=True)
class Schedule:
    """What each field allows."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    any_day: bool
    any_weekday: bool


def parse_schedule(text: str) -> Schedule:
    """The schedule of a text that matches `PATTERN`."""
    fields = text.split(" ")
    minutes, hours, days, months, weekdays = (
        frozenset(number for item in field.split(",") for number in _expand(item, allowed))
        for field, allowed in zip(fields, _RANGES, strict=True)
    )
    return Schedule(
        minutes=minutes,
        hours=hours,
        days=days,
        months=months,
        weekdays=frozenset(day % _SUNDAY for day in weekdays),
        any_day=fields[2].startswith("*"),
        any_weekday=fields[4].startswith("*"),
    )


def find_next(schedule: Schedule, after: datetime) -> datetime | None:
    """The first time after `after` (UTC); None when there is none, such as on a 30 February."""
    start = after.astimezone(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
    midnight = start.replace(hour=0, minute=0)
    for number in range(_HORIZON_DAYS):
        day = midnight + timedelta(days=number)
        if _is_day(schedule, day):
            for hour in sorted(schedule.hours):
                for minute in sorted(schedule.minutes):
                    moment = day.replace(hour=hour, minute=minute)
                    if moment >= start:
                        return moment
    return None


def _expand(item: str, allowed: range) -> Iterator[int]:
    span, _, step = item.partition("/")
    if span == "*":
        numbers = list(allowed)
    else:
        first, _, last = span.partition("-")
        start = int(first)
        # cron: a single number with a step means from there to the end.
        end = int(last) if last else (allowed[-1] if step else start)
        numbers = (
            list(range(start, end + 1))
            if start <= end
            else [*range(start, allowed.stop), *allowed[: end + 1 - allowed.start]]
        )
    return iter(numbers[:: int(step or 1)])


def _is_day(schedule: Schedule, day: datetime) -> bool:
    if day.month not in schedule.months:
        return False
    in_month, in_week = day.day in schedule.days, day.isoweekday() % _SUNDAY in schedule.weekdays
    if schedule.any_day or schedule.any_weekday:
        return in_month and in_week
    return in_month or in_week
