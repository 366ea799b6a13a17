"""When etcd's membership may be changed: its quorum is never at risk (invariant S5).

Role: pure. Inputs are the members and which of them take part now; outputs are yes, or a sentence that says why not.
A quorum is more than half of the voters, dead ones included. A change of membership is itself agreed on by a quorum, so
healthy voters must make one before the change (by the old members) and after it (by the new ones). A learner has no
vote; one that waits for its promotion goes first, or several half-made members pile up. Must not: ask anybody.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from capn.build.etcd_members import Member


def quorum(members: Sequence[Member]) -> int:
    """How many voters must live for anything to be agreed on."""
    return _majority(len(_voters(members)))


def has_quorum(members: Sequence[Member], healthy: Collection[int]) -> bool:
    """Whether the voters among `healthy` (IDs) are enough."""
    return _enough(_voters(members), healthy)


def why_not_add(members: Sequence[Member], healthy: Collection[int]) -> str | None:
    """Why no further member may be added now (as a learner first), or None when it may.

    A learner changes no quorum, but it is added to become a voter: the voters must bear that too, even when the new
    one fails at once. Only a single voter cannot, and must be able to get a second one.
    """
    if learner := _learner(members):
        return f"etcd member {_name(learner)} is a learner: it is promoted or removed first"
    voters = _voters(members)
    if not _enough(voters, healthy):
        return _lost(voters, healthy)
    if len(voters) > 1 and _count(voters, healthy) < _majority(len(voters) + 1):
        return (
            f"{_count(voters, healthy)} of {len(voters)} etcd voters are healthy, which would be no quorum of"
            f" {len(voters) + 1}: replace or remove {_dead_names(voters, healthy)} first"
        )
    return None


def why_not_remove(members: Sequence[Member], healthy: Collection[int], target: int) -> str | None:
    """Why the member `target` may not be removed now, or None when it may (also when it is no member any more)."""
    member = _find(members, target)
    if member is None:
        return None
    voters = _voters(members)
    if not _enough(voters, healthy):
        return _lost(voters, healthy)
    return None if member.is_learner else _why_keep(member, members, healthy)


def list_ill(members: Sequence[Member], healthy: Collection[int]) -> list[str]:
    """Names of the members that have no vote yet or are not well."""
    return sorted(_name(member) for member in members if member.is_learner or member.id not in healthy)


def why_alarmed(members: Sequence[Member], alarmed: Collection[int]) -> str | None:
    """Whose alarms there are (IDs), or None without any. While there is one, etcd refuses everybody's writes.

    A member that is removed leaves its alarm behind.
    """
    if not alarmed:
        return None
    found = (_find(members, member) for member in alarmed)
    whose = ", ".join(sorted({_name(member) if member else "a member that is gone" for member in found}))
    return f"etcd has an alarm of {whose}: when its cause is gone, `etcdctl alarm disarm` ends it"


def _why_keep(member: Member, members: Sequence[Member], healthy: Collection[int]) -> str | None:
    """Why the vote of `member` is needed."""
    if learner := _learner(members):
        return f"etcd member {_name(learner)} is a learner: it is promoted or removed first"
    left = [voter for voter in _voters(members) if voter.id != member.id]
    if not left:
        return f"etcd member {_name(member)} is the only one that has the data"
    if _enough(left, healthy):
        return None
    return (
        f"without etcd member {_name(member)}, {_count(left, healthy)} of {len(left)} voters are healthy, which is"
        f" no quorum: replace or remove {_dead_names(left, healthy)} first"
    )


def _majority(voters: int) -> int:
    return voters // 2 + 1


def _voters(members: Sequence[Member]) -> list[Member]:
    return [member for member in members if not member.is_learner]


def _learner(members: Sequence[Member]) -> Member | None:
    return next((member for member in members if member.is_learner), None)


def _find(members: Sequence[Member], target: int) -> Member | None:
    return next((member for member in members if member.id == target), None)


def _count(voters: Sequence[Member], healthy: Collection[int]) -> int:
    return sum(voter.id in healthy for voter in voters)


def _enough(voters: Sequence[Member], healthy: Collection[int]) -> bool:
    return bool(voters) and _count(voters, healthy) >= _majority(len(voters))


def _lost(voters: Sequence[Member], healthy: Collection[int]) -> str:
    count, needed = _count(voters, healthy), _majority(len(voters))
    return f"etcd has no quorum: {count} of {len(voters)} voters are healthy, {needed} are needed"


def _dead_names(voters: Sequence[Member], healthy: Collection[int]) -> str:
    return ", ".join(sorted(_name(voter) for voter in voters if voter.id not in healthy))


def _name(member: Member) -> str:
    return member.name or "(never started)"
