"""What etcd says of its members: from `etcdctl -w json` to values that can be trusted in shape.

Role: pure. Input is the output of a program in the child, whose administrators own it, so everything is bounded and
checked; member IDs are unsigned 64-bit numbers and stay exact. Must not: run anything, or decide (`etcd_rules` does).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

import msgspec

from capn.errors import ApiStatusError

T = TypeVar("T")

MAX_MEMBERS = 32
_MAX_NAME = 253
_MAX_URLS = 8
_MAX_ID = (1 << 64) - 1
# What ends up as a word of a command line again. No comma: that would make two of it.
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]{1,259}")
_NO_LEADER = "no leader"
# Two kinds of alarm: no space, corrupt. Go's protobuf writes one space or two, by chance.
_ALARM = re.compile(r"memberID:([0-9]{1,20}) +alarm:")
_MAX_ALARMS = MAX_MEMBERS * 2


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the cluster. A member that was added and never started has no name and no client URLs."""

    id: int
    name: str
    peer_urls: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False

    @property
    def hex_id(self) -> str:
        """The ID as etcdctl takes it."""
        return f"{self.id:x}"


@dataclass(frozen=True, slots=True)
class MemberHealth:
    """What a member that answered says of itself. `leader` is 0 while it knows none.

    Every member tells of the alarms of all: `errors` are its own, and those that name nobody; `alarmed` whom they name.
    """

    id: int
    leader: int
    db_bytes: int
    revision: int
    raft_index: int
    raft_applied: int
    version: str
    is_learner: bool = False
    errors: tuple[str, ...] = ()
    alarmed: tuple[int, ...] = ()

    @property
    def is_healthy(self) -> bool:
        """Whether it takes part: it knows a leader and has no alarm (no space, corrupt) of its own."""
        return self.leader != 0 and not self.errors


class _Member(msgspec.Struct):
    # msgspec reads integers exactly, also above 2**53.
    id: int = msgspec.field(name="ID")
    name: str = ""
    peer_urls: list[str] = msgspec.field(name="peerURLs", default_factory=list)
    client_urls: list[str] = msgspec.field(name="clientURLs", default_factory=list)
    is_learner: bool = msgspec.field(name="isLearner", default=False)


class _MemberList(msgspec.Struct):
    members: list[_Member]


class _Header(msgspec.Struct):
    member_id: int
    revision: int = 0


class _Status(msgspec.Struct):
    header: _Header
    version: str = ""
    db_size: int = msgspec.field(name="dbSize", default=0)
    leader: int = 0
    raft_index: int = msgspec.field(name="raftIndex", default=0)
    raft_applied: int = msgspec.field(name="raftAppliedIndex", default=0)
    errors: list[str] = msgspec.field(default_factory=list)
    is_learner: bool = msgspec.field(name="isLearner", default=False)


class _Endpoint(msgspec.Struct):
    status: _Status = msgspec.field(name="Status")


_MEMBERS = msgspec.json.Decoder(_MemberList)
_ENDPOINTS = msgspec.json.Decoder(list[_Endpoint])


def parse_members(output: bytes) -> tuple[Member, ...]:
    """The members that `etcdctl member list -w json` tells, by name. ApiStatusError (reason BadAnswer) for nonsense."""
    found = _decode(_MEMBERS, output, "member list").members
    members = tuple(sorted((_member(raw) for raw in found), key=lambda member: (member.name, member.id)))
    if not members or len(members) > MAX_MEMBERS or len({member.id for member in members}) != len(members):
        raise _bad("member list", f"{len(members)} members, not 1 to {MAX_MEMBERS} with IDs of their own")
    return members


def parse_health(output: bytes) -> dict[int, MemberHealth]:
    """By member ID, what `etcdctl endpoint status -w json` tells; a member that did not answer is missing."""
    if not output.strip():
        return {}
    found = _decode(_ENDPOINTS, output, "endpoint status")
    if len(found) > MAX_MEMBERS * _MAX_URLS:
        raise _bad("endpoint status", f"{len(found)} endpoints")
    return {endpoint.status.header.member_id: _health(endpoint.status) for endpoint in found}


def list_endpoints(members: Sequence[Member]) -> tuple[str, ...]:
    """One client URL for each member that has any."""
    return tuple(member.client_urls[0] for member in members if member.client_urls)


def _member(raw: _Member) -> Member:
    urls = (*raw.peer_urls, *raw.client_urls)
    fine = len(raw.name) <= _MAX_NAME and raw.name.isprintable() and 0 < raw.id <= _MAX_ID
    if not fine or max(len(raw.peer_urls), len(raw.client_urls)) > _MAX_URLS:
        raise _bad("member list", "a member with an odd name, ID or number of URLs")
    if not all(_URL.fullmatch(url) for url in urls):
        raise _bad("member list", "a member with an odd URL")
    return Member(raw.id, raw.name, tuple(raw.peer_urls), tuple(raw.client_urls), raw.is_learner)


def _health(raw: _Status) -> MemberHealth:
    own = raw.header.member_id
    # That it has no leader is told by `leader`; the rest are alarms, those of the whole cluster.
    named = [(_named(error), _clean(error)) for error in raw.errors[:_MAX_ALARMS] if _NO_LEADER not in error]
    return MemberHealth(
        id=own,
        leader=raw.leader,
        db_bytes=raw.db_size,
        revision=raw.header.revision,
        raft_index=raw.raft_index,
        raft_applied=raw.raft_applied,
        version=_clean(raw.version),
        is_learner=raw.is_learner,
        errors=tuple(text for member, text in named if member in {own, None}),
        alarmed=tuple(member for member, _ in named if member is not None),
    )


def _named(alarm: str) -> int | None:
    """The member that an alarm is of. None when it names none, as for data that differ nobody knows where."""
    found = _ALARM.match(alarm)
    member = int(found[1]) if found else 0
    return member if 0 < member <= _MAX_ID else None


def _clean(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text[:128])


def _decode(decoder: msgspec.json.Decoder[T], output: bytes, what: str) -> T:
    try:
        return decoder.decode(output)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _bad(what, str(error)) from error


def _bad(what: str, why: str) -> ApiStatusError:
    message = f"etcdctl {what}: the answer is not what etcdctl says: {why}"
    return ApiStatusError(HTTPStatus.BAD_GATEWAY, message, reason="BadAnswer")
