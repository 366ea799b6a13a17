from __future__ import annotations

from datetime import UTC, datetime, timedelta

from capn.controllers.patience import Patience

START = datetime(2026, 1, 1, tzinfo=UTC)


def test_it_ends_after_so_much_silence_and_not_before() -> None:
    patience = Patience(timedelta(seconds=60))
    assert patience.lasts("a", START)
    assert patience.lasts("a", START + timedelta(seconds=59))
    assert not patience.lasts("a", START + timedelta(seconds=60))


def test_an_answer_renews_it_for_that_machine_alone() -> None:
    patience = Patience(timedelta(seconds=60))
    assert patience.lasts("a", START)
    assert patience.lasts("b", START)
    patience.renew("a")
    later = START + timedelta(seconds=70)
    assert patience.lasts("a", later)
    assert not patience.lasts("b", later)
