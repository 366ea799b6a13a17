"""A child's stacked etcd, asked and changed by `etcdctl` in its own static pods: no route to the nodes is needed.

Role: from the pods that kubeadm makes (`etcd-<node>` in kube-system) to members, their health and changes of both. Any
member can answer, so pods are tried in turn until one does. Inputs are hostile: `capn.build.etcd_members` reads them.
Must not: decide whether a change is safe (`capn.build.etcd_rules`), or change anything twice.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from capn.api.resources import POD
from capn.build.etcd_members import Member, MemberHealth, list_endpoints, parse_health, parse_members
from capn.build.static_pods import NAMESPACE, SELECTOR
from capn.errors import ApiStatusError, CapnError, NotFoundError, TransientError, UnreachableError
from capn.kube.client import ExecResult, KubeClient
from capn.kube.errors import CommandFailedError

ETCD_NAMESPACE = NAMESPACE
ETCD_CONTAINER = "etcd"
ETCD_SELECTOR = f"component=etcd,{SELECTOR}"
SNAPSHOT_PATH = "/capn-snapshot.db"
_PKI = "/etc/kubernetes/pki/etcd"
# etcd itself cannot run without these; kubeadm signs the server's certificate for clients too.
_TLS = (f"--cacert={_PKI}/ca.crt", f"--cert={_PKI}/server.crt", f"--key={_PKI}/server.key")
_LOCAL = "https://127.0.0.1:2379"
_ANSWER_BYTES = 1 << 20
_COMMAND_S = 5  # etcdctl's own limit for one question; a dead endpoint costs that much
_SLACK_S = 10.0
_SNAPSHOT_S = 300.0
_MAX_PODS = 16
# etcd answers, but cannot agree on anything; etcdctl reports a dial that failed otherwise.
_NO_QUORUM = ("no leader", "request timed out", "context deadline exceeded", "leader changed")
# Who was asked to hand on the leadership has none: an answer, though it reads like one without a quorum.
_NOT_LEADING = ("no leader endpoint given", "etcdserver: not leader")
_NOT_RUNNING = ("connection refused", "Error while dialing", "connection reset")
_POD_NAME = re.compile(r"etcd-[a-z0-9][a-z0-9.-]{0,247}")


class NoQuorumError(TransientError):
    """etcd's members that live are too few to agree on anything."""

    default_reason = "EtcdNoQuorum"


class MembershipRefusedError(TransientError):
    """etcd itself holds a change of membership back, such as just after a member came or went."""

    default_reason = "EtcdRefused"


@dataclass(frozen=True, slots=True)
class EtcdClient:
    """etcd of one child, through its API. Every call raises UnreachableError when no pod of etcd can be asked."""

    client: KubeClient

    async def members(self) -> tuple[Member, ...]:
        """The members as a quorum knows them. NoQuorumError when there is none."""
        return parse_members((await self._ask("member", "list", "-w", "json")).stdout)

    async def health(self, members: Sequence[Member]) -> dict[int, MemberHealth]:
        """By ID, those members that answer; who is missing does not. Each dead one costs a few seconds."""
        endpoints = list_endpoints(members)
        if not endpoints:
            return {}
        words = ("endpoint", "status", "-w", "json")
        # It fails when any endpoint does, with the answers of the others on its output.
        result = await self._ask(*words, endpoints=endpoints, may_fail=True)
        return {key: found for key, found in parse_health(result.stdout).items() if key in {m.id for m in members}}

    async def move_leader(self, leader: Member, to: Member) -> None:
        """Make `to` the leader instead of `leader`; it must have a vote. Nothing happens when `leader` leads no more.

        Only the leader is asked: of several endpoints, etcdctl gives up at the first that does not answer.
        """
        try:
            await self._ask("move-leader", to.hex_id, endpoints=leader.client_urls[:1])
        except CommandFailedError as error:
            if not any(text.encode() in error.stderr for text in _NOT_LEADING):
                raise

    async def remove_member(self, member_id: int) -> None:
        """Remove a member for good; gone already is fine. `etcd_rules.why_not_remove` is asked before."""
        try:
            await self._ask("member", "remove", f"{member_id:x}", "-w", "json")
        except CommandFailedError as error:
            if b"member not found" not in error.stderr:
                raise

    async def snapshot(self) -> AsyncGenerator[bytes, None]:
        """A snapshot of the data, as it comes; also of a member without quorum. To be closed by the caller.

        The file lies in the container's own layer meanwhile, under one fixed name, so that nothing piles up; it is
        removed at the end. `cat` and `rm` are in capn's node images; the official image of etcd has neither.
        """
        pod, _ = await self._try_pods(
            _etcdctl(("snapshot", "save", SNAPSHOT_PATH), timeout_s=int(_SNAPSHOT_S)), timeout_s=_SNAPSHOT_S + _SLACK_S
        )
        stream = self.client.exec_stream(
            pod, ETCD_NAMESPACE, container=ETCD_CONTAINER, command=("cat", SNAPSHOT_PATH), silence_s=_SLACK_S * 3
        )
        try:
            async with aclosing(stream):
                async for piece in stream:
                    yield piece
        finally:
            with contextlib.suppress(CapnError):  # the next snapshot overwrites it
                await self._exec(pod, ("rm", "-f", SNAPSHOT_PATH), timeout_s=_SLACK_S)

    async def touch(self, node: str, path: str) -> None:
        """Make an empty file where this node's etcd keeps its data. CommandFailedError when that can't be done."""
        result = await self._exec(f"etcd-{node}", ("touch", path), timeout_s=_SLACK_S)
        if result.exit_code != 0:
            raise CommandFailedError(f"touch {path}", exit_code=result.exit_code, stderr=result.stderr)

    async def _ask(self, *words: str, endpoints: Sequence[str] = (_LOCAL,), may_fail: bool = False) -> ExecResult:
        command = _etcdctl(words, endpoints=endpoints)
        timeout_s = _COMMAND_S * (len(endpoints) + 1) + _SLACK_S
        return (await self._try_pods(command, timeout_s=timeout_s, may_fail=may_fail))[1]

    async def _try_pods(
        self, command: Sequence[str], *, timeout_s: float, may_fail: bool = False
    ) -> tuple[str, ExecResult]:
        """The first pod whose etcd answers, and what it said."""
        met: list[CapnError] = []
        for pod in await self._pods():
            try:
                result = await self._exec(pod, command, timeout_s=timeout_s)
            except (UnreachableError, ApiStatusError, NotFoundError) as error:
                met.append(error)  # its node is dead, or its container does not run
                continue
            if result.exit_code == 0 or (may_fail and result.stdout.strip()):
                return pod, result
            failure = _explain(pod, result)
            if not isinstance(failure, UnreachableError | NoQuorumError):
                raise failure  # an answer: the others would say the same
            met.append(failure)
        raise _choose(met)

    async def _exec(self, pod: str, command: Sequence[str], *, timeout_s: float) -> ExecResult:
        return await self.client.exec(
            pod,
            ETCD_NAMESPACE,
            container=ETCD_CONTAINER,
            command=command,
            limit_bytes=_ANSWER_BYTES,
            timeout_s=timeout_s,
        )

    async def _pods(self) -> list[str]:
        """The pods of etcd, those that say they are ready first (a dead node's pod says so for a while too)."""
        found = await self.client.list(POD, namespace=ETCD_NAMESPACE, label_selector=ETCD_SELECTOR)
        ranked = []
        for pod in found.items:
            name = str((pod.get("metadata") or {}).get("name"))
            if _POD_NAME.fullmatch(name):
                conditions = (pod.get("status") or {}).get("conditions") or ()
                ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
                ranked.append((not ready, name))
        return [name for _, name in sorted(ranked)[:_MAX_PODS]]


def _etcdctl(
    words: Sequence[str], *, endpoints: Sequence[str] = (_LOCAL,), timeout_s: int = _COMMAND_S
) -> tuple[str, ...]:
    return (
        "etcdctl",
        f"--endpoints={','.join(endpoints)}",
        *_TLS,
        f"--dial-timeout={_COMMAND_S}s",
        f"--command-timeout={timeout_s}s",
        *words,
    )


def _explain(pod: str, result: ExecResult) -> CapnError:
    """The error of an etcdctl that failed."""
    said = result.stderr.decode("utf-8", "replace")
    if any(text in said for text in _NOT_RUNNING):
        return UnreachableError(f"etcd in pod {pod} does not answer", reason="EtcdUnreachable")
    if "unhealthy cluster" in said or "re-configuration failed" in said:
        return MembershipRefusedError("etcd refuses a change of its members until all of them are connected")
    if any(text in said for text in _NO_QUORUM) and not any(text in said for text in _NOT_LEADING):
        return NoQuorumError("etcd has no quorum: too few of its members live")
    return CommandFailedError(f"etcdctl in pod {pod}", exit_code=result.exit_code, stderr=result.stderr)


def _choose(met: Sequence[CapnError]) -> CapnError:
    """What is told of the pods that all failed: one that answered knows most."""
    for error in met:
        if isinstance(error, NoQuorumError):
            return error
    if met and isinstance(met[0], UnreachableError):
        return met[0]
    if met:
        return UnreachableError(f"no pod of etcd can be asked: {met[0]}", reason="EtcdUnreachable")
    return UnreachableError("the child has no pod of etcd", reason="EtcdUnreachable")
