"""Which pod is asked, what is run in it, and what is told when none answers. Real answers: tests/integration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from capn.api.resources import POD
from capn.build.etcd_members import Member
from capn.errors import ApiStatusError, UnreachableError
from capn.kube.client import ExecResult
from capn.kube.errors import CommandFailedError
from capn.kube.etcd import EtcdClient, MembershipRefusedError, NoQuorumError
from capn.kube.exec import ExecCall
from capn.kube.memory import MemoryKubeClient
from tests.harness.real_etcd import build_pod

LIST = ExecResult(b'{"members":[{"ID":1,"name":"a"}]}', b"", 0)
Answer = ExecResult | Exception


def failed(said: str) -> ExecResult:
    return ExecResult(b"", f"Error: {said}\n".encode(), 1)


class Child:
    """A child whose pods of etcd answer as told, by node."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.api = MemoryKubeClient()
        self.calls: list[ExecCall] = []
        self.answers = answers

        async def handle(call: ExecCall) -> ExecResult:
            self.calls.append(call)
            answer = self.answers[call.pod.removeprefix("etcd-")]
            if isinstance(answer, Exception):
                raise answer
            return answer

        self.api.exec_handler = handle

    async def client(self, *, ready: Callable[[str], bool] = lambda _: True) -> EtcdClient:
        for node in self.answers:
            pod = build_pod(node)
            await self.api.create(POD, pod)
            conditions = [{"type": "Ready", "status": "True" if ready(node) else "False"}]
            await self.api.apply(POD, {**pod, "status": {"conditions": conditions}}, subresource="status")
        return EtcdClient(self.api)

    def asked(self) -> list[str]:
        return [call.pod for call in self.calls]


async def test_what_is_run() -> None:
    child = Child({"a": LIST})
    await (await child.client()).members()
    [call] = child.calls
    assert (call.pod, call.namespace, call.container, call.stdin) == ("etcd-a", "kube-system", "etcd", None)
    pki = "/etc/kubernetes/pki/etcd"
    assert list(call.command) == [
        *("etcdctl", "--endpoints=https://127.0.0.1:2379", f"--cacert={pki}/ca.crt", f"--cert={pki}/server.crt"),
        *(f"--key={pki}/server.key", "--dial-timeout=5s", "--command-timeout=5s", "member", "list", "-w", "json"),
    ]


async def test_the_next_pod_is_asked_when_one_cannot() -> None:
    dead = ApiStatusError(500, "error dialing backend")
    child = Child({"a": dead, "b": UnreachableError("silent"), "c": failed("connection refused"), "d": LIST})
    assert [member.name for member in await (await child.client()).members()] == ["a"]
    assert child.asked() == ["etcd-a", "etcd-b", "etcd-c", "etcd-d"]


async def test_those_that_say_they_are_ready_come_first() -> None:
    child = Child({"a": LIST, "b": LIST})
    await (await child.client(ready=lambda node: node == "b")).members()
    assert child.asked() == ["etcd-b"]


async def test_a_pod_of_another_name_is_not_asked() -> None:
    child = Child({})
    for name in ("etcd-", "etcd-A", "not-etcd-a", "etcd-a_b"):
        await child.api.create(POD, {**build_pod("x"), "metadata": {**build_pod("x")["metadata"], "name": name}})
    with pytest.raises(UnreachableError, match="the child has no pod of etcd"):
        await EtcdClient(child.api).members()


@pytest.mark.parametrize(
    ("answers", "expected", "text"),
    [
        ({}, UnreachableError, "the child has no pod of etcd"),
        ({"a": ApiStatusError(500, "no host")}, UnreachableError, "no pod of etcd can be asked: no host"),
        ({"a": failed("Error while dialing: connection refused")}, UnreachableError, "pod etcd-a does not answer"),
        ({"a": failed("etcdserver: no leader")}, NoQuorumError, "no quorum"),
        ({"a": UnreachableError("silent"), "b": failed("context deadline exceeded")}, NoQuorumError, "no quorum"),
        (
            {"a": failed("etcdserver: unhealthy cluster"), "b": LIST},
            MembershipRefusedError,
            "all of them are connected",
        ),
        ({"a": failed("odd \x1b"), "b": LIST}, CommandFailedError, "in pod etcd-a: .* exit code 1: Error: odd"),
        ({"a": ExecResult(b"nonsense", b"", 0), "b": LIST}, ApiStatusError, "not what etcdctl says"),
    ],
)
async def test_what_is_told(answers: Any, expected: type[Exception], text: str) -> None:
    with pytest.raises(expected, match=text):
        await (await Child(answers).client()).members()


async def test_a_removal_that_was_made_before_is_fine() -> None:
    member = Member(1 << 63, "a")
    child = Child({"a": failed("etcdserver: member not found")})
    await (await child.client()).remove_member(member.id)
    assert child.calls
    assert all("8000000000000000" in call.command for call in child.calls)


@pytest.mark.parametrize("said", ["no leader endpoint given at [https://10.0.0.2:2379]", "etcdserver: not leader"])
async def test_leadership_that_has_moved_is_fine_and_only_the_leader_is_asked(said: str) -> None:
    leader, heir = (Member(n, "", client_urls=(f"https://10.0.0.{n}:2379",)) for n in (2, 3))
    child = Child({"a": failed(said), "b": failed(said)})
    await (await child.client()).move_leader(leader, heir)
    [call] = child.calls
    assert "--endpoints=https://10.0.0.2:2379" in call.command
    assert call.command[-2:] == ("move-leader", "3")


async def test_a_leadership_that_cannot_move_is_told() -> None:
    leader, heir = (Member(n, "", client_urls=(f"https://10.0.0.{n}:2379",)) for n in (2, 3))
    with pytest.raises(CommandFailedError, match="bad leader transferee"):
        await (await Child({"a": failed("etcdserver: bad leader transferee")}).client()).move_leader(leader, heir)


async def test_nobody_is_asked_for_members_that_never_started() -> None:
    child = Child({"a": LIST})
    assert await (await child.client()).health([Member(1, "")]) == {}
    assert child.calls == []


async def test_health_of_strangers_is_left_out() -> None:
    said = b'[{"Status":{"header":{"member_id":1},"leader":1}},{"Status":{"header":{"member_id":2},"leader":1}}]'
    child = Child({"a": ExecResult(said, b"one failed", 1)})
    found = await (await child.client()).health([Member(1, "a", client_urls=("https://10.0.0.1:2379",))])
    assert list(found) == [1]
    assert "--endpoints=https://10.0.0.1:2379" in child.calls[0].command
