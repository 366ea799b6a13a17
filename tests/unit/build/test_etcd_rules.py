"""A quorum is never at risk: every cluster of one to seven members, every set of dead ones, every change."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest

from capn.build.etcd_members import Member
from capn.build.etcd_rules import has_quorum, list_ill, quorum, why_alarmed, why_not_add, why_not_remove


def build(voters: int, learners: int = 0) -> list[Member]:
    return [Member(n + 1, f"cp-{n}", is_learner=n >= voters) for n in range(voters + learners)]


def cases(*, learners: int = 0) -> Iterator[tuple[list[Member], frozenset[int]]]:
    for voters in range(1, 8 - learners):
        members = build(voters, learners)
        ids = [member.id for member in members]
        for count in range(len(ids) + 1):
            for healthy in combinations(ids, count):
                yield members, frozenset(healthy)


def lives(members: list[Member], healthy: frozenset[int]) -> bool:
    """Said apart from the code under test: more than half of the voters live."""
    voters = [member.id for member in members if not member.is_learner]
    return 2 * sum(voter in healthy for voter in voters) > len(voters)


def test_quorums() -> None:
    assert [quorum(build(n)) for n in range(1, 8)] == [1, 2, 2, 3, 3, 4, 4]
    assert quorum(build(3, learners=1)) == 2
    for learners in (0, 1):
        for members, healthy in cases(learners=learners):
            assert has_quorum(members, healthy) == lives(members, healthy)
    assert not has_quorum([], frozenset())


def test_a_removal_is_allowed_exactly_when_the_rest_lives() -> None:
    for members, healthy in cases():
        for target in members:
            rest = [member for member in members if member is not target]
            safe = lives(members, healthy) and bool(rest) and lives(rest, healthy)
            assert (why_not_remove(members, healthy, target.id) is None) == safe


def test_a_removal_waits_for_a_learner_but_the_learner_itself_may_go() -> None:
    for members, healthy in cases(learners=1):
        for target in members:
            expected = target.is_learner and lives(members, healthy)
            assert (why_not_remove(members, healthy, target.id) is None) == expected


def test_a_removed_member_is_no_obstacle() -> None:
    assert why_not_remove(build(3), frozenset(), 99) is None


def test_an_addition_bears_the_loss_of_the_new_member() -> None:
    for members, healthy in cases():
        grown = [*members, Member(99, "new")]
        safe = lives(members, healthy) and (lives(grown, healthy) or len(members) == 1)
        assert (why_not_add(members, healthy) is None) == safe


def test_one_learner_at_a_time() -> None:
    for members, healthy in cases(learners=1):
        assert "is a learner: it is promoted or removed first" in (why_not_add(members, healthy) or "")


def test_the_ill_are_those_without_a_vote_or_an_answer() -> None:
    assert list_ill(build(3), {1, 2, 3}) == []
    assert list_ill(build(3), {1, 3}) == ["cp-1"]
    assert list_ill(build(2, learners=1), {1, 2, 3}) == ["cp-2"]
    assert list_ill([*build(1), Member(9, "")], {1}) == ["(never started)"]


def test_an_alarm_is_told_with_the_name_of_its_member() -> None:
    assert why_alarmed(build(3), set()) is None
    assert (why_alarmed(build(3), {3, 2}) or "").startswith("etcd has an alarm of cp-1, cp-2: ")
    assert (why_alarmed(build(3), {3, 99, 98}) or "").startswith("etcd has an alarm of a member that is gone, cp-2: ")


@pytest.mark.parametrize(
    ("voters", "healthy", "text"),
    [
        (3, {1}, "etcd has no quorum: 1 of 3 voters are healthy, 2 are needed"),
        (1, {1}, "etcd member cp-0 is the only one that has the data"),
        (
            3,
            {1, 2},
            "without etcd member cp-0, 1 of 2 voters are healthy, which is no quorum: replace or remove cp-2 first",
        ),
    ],
)
def test_it_says_why(voters: int, healthy: set[int], text: str) -> None:
    assert why_not_remove(build(voters), healthy, 1) == text


def test_an_addition_says_whom_to_remove() -> None:
    text = "2 of 3 etcd voters are healthy, which would be no quorum of 4: replace or remove cp-2 first"
    assert why_not_add(build(3), {1, 2}) == text


def test_three_become_five_and_three_again() -> None:
    """The way of a scaling, step by step, with everybody alive."""
    members, count = build(1), 1
    while count < 5:
        alive = {member.id for member in members}
        assert why_not_add(members, alive) is None
        members = [*members, Member(count + 1, f"cp-{count}")]
        count += 1
    while count > 3:
        alive = {member.id for member in members}
        assert why_not_remove(members, alive, members[-1].id) is None
        members.pop()
        count -= 1
