"""What etcdctl says, as recorded from etcd 3.7.0, and what a hostile child could say instead."""

from __future__ import annotations

import json
from typing import Any

import pytest

from capn.build.etcd_members import list_endpoints, parse_health, parse_members
from capn.errors import ApiStatusError

# Three members, a fourth that was added as a learner and never started.
MEMBER_LIST = (
    b'{"header":{"cluster_id":17495100640981928781,"member_id":7616583982444832909,"raft_term":2},"members":['
    b'{"ID":7059799375513725458,"name":"n3","peerURLs":["http://127.0.0.1:23380"],"clientURLs":["http://127.0.0.1:23379"]},'
    b'{"ID":7616583982444832909,"name":"n1","peerURLs":["http://127.0.0.1:21380"],"clientURLs":["http://127.0.0.1:21379"]},'
    b'{"ID":11417610130673999598,"name":"n2","peerURLs":["http://127.0.0.1:22380"],"clientURLs":["http://127.0.0.1:22379"]},'
    b'{"ID":18446744073709551615,"peerURLs":["http://127.0.0.1:24380"],"isLearner":true}]}'
)
STATUS = (
    b'[{"Endpoint":"http://127.0.0.1:21379","Status":{"header":{"cluster_id":17495100640981928781,"member_id":'
    b'7616583982444832909,"revision":41,"raft_term":2},"version":"3.7.0","dbSize":36864,"leader":11417610130673999598,'
    b'"raftIndex":11,"raftTerm":2,"raftAppliedIndex":10,"dbSizeInUse":24576,"storageVersion":"3.7.0","dbSizeQuota":'
    b'2147483648,"downgradeInfo":{}}},'
    b'{"Endpoint":"http://127.0.0.1:22379","Status":{"header":{"cluster_id":17495100640981928781,"member_id":'
    b'11417610130673999598,"revision":1,"raft_term":2},"version":"3.7.0","dbSize":36864,"raftIndex":15,"raftTerm":2,'
    b'"raftAppliedIndex":15,"errors":["etcdserver: no leader"],"dbSizeInUse":24576,"storageVersion":"3.7.0",'
    b'"dbSizeQuota":2147483648,"downgradeInfo":{}}}]'
)


def test_members_by_name_with_exact_ids() -> None:
    members = parse_members(MEMBER_LIST)
    assert [member.name for member in members] == ["", "n1", "n2", "n3"]
    assert [member.id for member in members] == [
        18446744073709551615, 7616583982444832909, 11417610130673999598, 7059799375513725458,
    ]  # fmt: skip
    assert members[0].hex_id == "ffffffffffffffff"
    assert [member.is_learner for member in members] == [True, False, False, False]
    assert members[1].peer_urls == ("http://127.0.0.1:21380",)
    assert list_endpoints(members) == tuple(f"http://127.0.0.1:2{n}379" for n in (1, 2, 3))


def test_health_by_member() -> None:
    health = parse_health(STATUS)
    first, second = health[7616583982444832909], health[11417610130673999598]
    assert (first.leader, first.revision, first.raft_index, first.raft_applied) == (11417610130673999598, 41, 11, 10)
    assert (first.db_bytes, first.version, first.errors, first.is_healthy) == (36864, "3.7.0", (), True)
    assert (second.leader, second.errors, second.is_healthy) == (0, (), False)


def test_an_alarm_makes_a_member_unhealthy() -> None:
    said = json.loads(STATUS)
    said[0]["Status"]["errors"] = ["memberID:7616583982444832909 alarm:NOSPACE \x1b[31m" + "x" * 500]
    found = parse_health(json.dumps(said).encode())[7616583982444832909]
    assert not found.is_healthy
    assert len(found.errors[0]) == 128
    assert "\x1b" not in found.errors[0]


@pytest.mark.parametrize(
    ("error", "errors", "alarmed"),
    [
        ("memberID:7616583982444832909 alarm:NOSPACE ", 1, (7616583982444832909,)),
        ("memberID:7616583982444832909  alarm:CORRUPT", 1, (7616583982444832909,)),
        ("memberID:11417610130673999598 alarm:NOSPACE ", 0, (11417610130673999598,)),
        ("memberID:11417610130673999598  alarm:CORRUPT", 0, (11417610130673999598,)),
        ("memberID:76165839824448329090 alarm:NOSPACE", 1, ()),  # no ID
        ("alarm:CORRUPT ", 1, ()),  # etcd does not know whose data is wrong: it may be anybody's
        ("something else, memberID:1", 1, ()),
    ],
)
def test_an_alarm_counts_against_the_member_that_it_names(error: str, errors: int, alarmed: tuple[int, ...]) -> None:
    said = json.loads(STATUS)
    said[0]["Status"]["errors"] = [error]
    found = parse_health(json.dumps(said).encode())[7616583982444832909]
    assert (len(found.errors), found.is_healthy, found.alarmed) == (errors, not errors, alarmed)


def test_a_members_own_alarm_is_found_behind_those_of_all_others() -> None:
    said = json.loads(STATUS)
    own = 7616583982444832909
    said[0]["Status"]["errors"] = [f"memberID:{n} alarm:NOSPACE" for n in (*range(1, 32), own)]
    found = parse_health(json.dumps(said).encode())[own]
    assert (len(found.errors), len(found.alarmed)) == (1, 32)


def test_nobody_answered() -> None:
    assert parse_health(b"\n") == {}


def member(**changes: Any) -> dict[str, Any]:
    return {
        "ID": 1,
        "name": "n",
        "peerURLs": ["https://10.0.0.1:2380"],
        "clientURLs": ["https://[fd00::1]:2379"],
        **changes,
    }


def test_an_ipv6_member_is_fine() -> None:
    [found] = parse_members(json.dumps({"members": [member()]}).encode())
    assert found.client_urls == ("https://[fd00::1]:2379",)


@pytest.mark.parametrize(
    "members",
    [
        [],
        [member(), member()],
        [member(ID=n) for n in range(1, 40)],
        [member(ID=0)],
        [member(ID=-1)],
        [member(ID=1 << 64)],
        [member(ID=1.5)],
        [member(ID="1")],
        [member(name="x" * 300)],
        [member(name="a\nb")],
        [member(clientURLs=["https://a:1,https://b:1"])],
        [member(clientURLs=["--help"])],
        [member(clientURLs=["https://a:1"] * 9)],
        "nonsense",
    ],
)
def test_odd_members_are_refused(members: Any) -> None:
    with pytest.raises(ApiStatusError, match="etcdctl member list: ") as caught:
        parse_members(json.dumps({"members": members}).encode())
    assert caught.value.reason == "BadAnswer"


@pytest.mark.parametrize(
    "output", [b"", b"{}", b"[" * 100_000, b"\xff", b'[{"Status": {}}]', b"[" + b"{}," * 9 + b"{}]"]
)
def test_nonsense_is_refused(output: bytes) -> None:
    with pytest.raises(ApiStatusError):
        parse_members(output)
    if output:
        with pytest.raises(ApiStatusError):
            parse_health(output)


def test_too_many_endpoints_are_refused() -> None:
    with pytest.raises(ApiStatusError, match="300 endpoints"):
        parse_health(json.dumps([{"Status": {"header": {"member_id": 1}}}] * 300).encode())
