"""The stacked etcd of a simulated child: who is a member, whether they are enough, and what etcdctl would say.

Role: membership as a real etcd keeps it (a member comes with its machine and goes only by removal, whatever becomes of
the machine) and the answers to commands in its pods. It has its own arithmetic of quorums, so that scenario tests find
mistakes in the rules that the controllers use. Must not: keep data, which is the child's simulated API.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from capn.build.virtual_address import LEAVING_MARK
from capn.errors import ApiStatusError
from capn.kube.client import ExecResult
from capn.kube.exec import ExecCall

if TYPE_CHECKING:
    from capn.providers.memory_world import SimulatedMachine

_CLIENT_PORT, _PEER_PORT = 2379, 2380
_LOCAL = f"https://127.0.0.1:{_CLIENT_PORT}"
_PAGE, _HASH = 512, 32
_REFUSED = "etcdserver: re-configuration failed due to not enough started members"


@dataclass(eq=False)
class SimulatedMember:
    """One member. It belongs to a machine, not to a machine's name: a new one of the same name is not it."""

    machine: SimulatedMachine
    name: str
    is_learner: bool = False

    @property
    def id(self) -> int:
        """A number that a float would not hold, as real ones."""
        return int.from_bytes(sha256(self.machine.ref.uid.encode()).digest()[:8]) | 1 << 63

    @property
    def client_url(self) -> str:
        """Where it tells clients to find it."""
        return f"https://{self.machine.address}:{_CLIENT_PORT}"

    def to_dict(self) -> dict[str, Any]:
        """As `etcdctl member list -w json` has it."""
        said: dict[str, Any] = {
            "ID": self.id,
            "name": self.name,
            "peerURLs": [f"https://{self.machine.address}:{_PEER_PORT}"],
            "clientURLs": [self.client_url],
        }
        return said | ({"isLearner": True} if self.is_learner else {})


@dataclass(eq=False)
class SimulatedEtcd:
    """`runs` says whether a machine runs. `holds_learners` keeps learners from catching up, for tests.

    `left`: machines whose guest was told to leave; it does so at once, or, with `stays`, never (for tests).
    """

    runs: Callable[[SimulatedMachine], bool]
    revision: Callable[[], int]
    members: list[SimulatedMember] = field(default_factory=list)
    holds_learners: bool = False
    alarms: list[str] = field(default_factory=list)
    snapshots: dict[str, bytes] = field(default_factory=dict)
    left: list[SimulatedMachine] = field(default_factory=list)
    stays: bool = False
    # What a snapshot holds: a word by which the world knows the state that it stands for.
    content: Callable[[], str] = lambda: "nothing"
    _wanted_leader: SimulatedMember | None = None

    def start_new(self, machine: SimulatedMachine, name: str) -> None:
        """Begin a cluster with this one member, as `kubeadm init` does; again for the same machine is nothing."""
        if not any(member.machine is machine for member in self.members):
            self.members = [SimulatedMember(machine, name)]

    def add_learner(self, machine: SimulatedMachine, name: str) -> SimulatedMember:
        """Add the machine's member, or find it, as `kubeadm join` does."""
        known = next((member for member in self.members if member.machine is machine), None)
        if known is None:
            known = SimulatedMember(machine, name, is_learner=True)
            self.members.append(known)
        return known

    def promote(self, member: SimulatedMember) -> bool:
        """Give it its vote; False while it is behind."""
        if member.is_learner and (self.holds_learners or not self.runs(member.machine)):
            return False
        member.is_learner = False
        return True

    def raise_alarm(self, name: str, kind: str = "NOSPACE") -> None:
        """Have a member raise an alarm. All members tell of it, also when this one is gone, until it is disarmed."""
        self.alarms += [f"memberID:{member.id} alarm:{kind} " for member in self.members if member.name == name]

    @property
    def has_quorum(self) -> bool:
        """Whether more than half of the voters run."""
        return self._enough([member for member in self.members if not member.is_learner])

    @property
    def leader(self) -> SimulatedMember | None:
        """The first voter that runs, or the one that was asked to lead; None without quorum."""
        if not self.has_quorum:
            return None
        able = [member for member in self.members if not member.is_learner and self.runs(member.machine)]
        return self._wanted_leader if self._wanted_leader in able else able[0]

    async def exec(self, call: ExecCall) -> ExecResult:
        """Run a command in a pod of etcd."""
        member = next((member for member in self.members if f"etcd-{member.name}" == call.pod), None)
        if member is None:
            return _fail("Error while dialing: connect: connection refused")  # removed: it does not start any more
        if not self.runs(member.machine):
            raise ApiStatusError(500, f"{call.what}: error dialing backend: no route to host", reason="InternalError")
        if member.machine in self.left:  # its kubelet has lost the API server that it asks who may do this
            raise ApiStatusError(500, f"{call.what}: Authorization error", reason="InternalError")
        program, *words = call.command
        if program == "etcdctl":
            options = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
            rest = [word for word in words if not word.startswith("--") and word not in {"-w", "json"}]
            return self._etcdctl(member, rest, options["--endpoints"].split(","))
        if program == "touch":
            return self._mark(member.machine, words[-1])
        if program == "cat":
            return ExecResult(self.snapshots[call.pod], b"", 0)
        self.snapshots.pop(call.pod, None)  # rm
        return ExecResult(b"", b"", 0)

    def _mark(self, machine: SimulatedMachine, path: str) -> ExecResult:
        """The mark beside the data by which a guest is told to leave."""
        if path != LEAVING_MARK:
            return _fail(f"no such directory: {path}")
        self.left += [] if self.stays else [machine]
        return ExecResult(b"", b"", 0)

    def _etcdctl(self, member: SimulatedMember, words: Sequence[str], endpoints: Sequence[str]) -> ExecResult:
        match tuple(words):
            case ("member", "list"):
                return _say({"members": [found.to_dict() for found in self.members]})
            case ("endpoint", "status"):
                return self._status(member, endpoints)
            case ("snapshot", "save", _):
                self.snapshots[f"etcd-{member.name}"] = self._snapshot()
                return ExecResult(b"Snapshot saved\n", b"", 0)
            case ("move-leader", hex_id):
                return self._move_leader(member, hex_id, endpoints)
            case ("member", "remove", hex_id):
                return self._remove(hex_id)
        return _fail(f"unknown command {words}")

    def _move_leader(self, asked: SimulatedMember, hex_id: str, endpoints: Sequence[str]) -> ExecResult:
        """As etcdctl does it: endpoints are asked in their order for the leader, and the first dead one ends it."""
        for url in endpoints:
            member = self._behind(url, asked)
            if member is None:
                return _fail("context deadline exceeded")
            if member is self.leader:
                break
        else:
            return _fail(f"no leader endpoint given at [{' '.join(endpoints)}]")
        target = self._find(hex_id)
        if target is None or target.is_learner:
            return _fail("etcdserver: bad leader transferee")
        self._wanted_leader = target
        return _say({})

    def _remove(self, hex_id: str) -> ExecResult:
        target = self._find(hex_id)
        if target is None:
            return _fail("etcdserver: member not found")
        rest = [member for member in self.members if member is not target]
        if not target.is_learner and not self._enough([member for member in rest if not member.is_learner]):
            return _fail(_REFUSED)
        self.members = rest
        return _say({})

    def _find(self, hex_id: str) -> SimulatedMember | None:
        return next((member for member in self.members if f"{member.id:x}" == hex_id), None)

    def _behind(self, url: str, asked: SimulatedMember) -> SimulatedMember | None:
        """Who answers at a URL, when it is asked from a member's pod."""
        member = asked if url == _LOCAL else next((m for m in self.members if m.client_url == url), None)
        return member if member is not None and self.runs(member.machine) else None

    def _status(self, asked: SimulatedMember, endpoints: Sequence[str]) -> ExecResult:
        answering = [(url, member) for url in endpoints if (member := self._behind(url, asked)) is not None]
        found = [{"Endpoint": url, "Status": self._describe(member)} for url, member in answering]
        missing = len(endpoints) - len(found)
        said = json.dumps(found).encode()
        return ExecResult(said, b"context deadline exceeded\n" if missing else b"", 1 if missing else 0)

    def _describe(self, member: SimulatedMember) -> dict[str, Any]:
        leader, revision = self.leader, self.revision()
        said = {
            "header": {"member_id": member.id, "revision": revision},
            "version": "3.7.0",
            "dbSize": _PAGE * (revision + 1),
            "raftIndex": revision,
            "raftAppliedIndex": revision,
        }
        if leader is not None:
            said["leader"] = leader.id
        if self.alarms:
            said["errors"] = list(self.alarms)
        return said | ({"isLearner": True} if member.is_learner else {})

    def _snapshot(self) -> bytes:
        """Something of the shape that etcd sends: whole pages, and their SHA-256 behind them."""
        said = f"simulated etcd at revision {self.revision()}, {self.content()}\n"
        data = said.encode().ljust(_PAGE, b"\0")
        return data + sha256(data).digest()

    def _enough(self, voters: Sequence[SimulatedMember]) -> bool:
        return 2 * sum(self.runs(member.machine) for member in voters) > len(voters)


def read_snapshot(data: bytes) -> str:
    """What is in a snapshot, as etcdutl would find it. ValueError in its words when it is not whole."""
    pages, tail = data[:-_HASH], data[-_HASH:]
    if len(pages) % _PAGE or not pages:
        raise ValueError("snapshot missing hash but --skip-hash-check=false")
    if sha256(pages).digest() != tail:
        raise ValueError(f"expected sha256 {tail.hex()}, got {sha256(pages).hexdigest()}")
    return pages.rstrip(b"\0\n").decode().partition(", ")[2]


def _say(answer: dict[str, Any]) -> ExecResult:
    return ExecResult(json.dumps(answer).encode() + b"\n", b"", 0)


def _fail(said: str) -> ExecResult:
    return ExecResult(b"", f"Error: {said}\n".encode(), 1)
