"""Real etcd processes as the static pods of a simulated child: a command in a pod runs the real etcdctl here.

Only two things differ from a machine of kubeadm's: no TLS, and each member has ports of its own on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capn.api.resources import POD
from capn.build.cloudinit import read_guest_program
from capn.kube.client import ExecResult
from capn.kube.etcd import SNAPSHOT_PATH
from capn.kube.exec import ExecCall
from capn.kube.memory import MemoryKubeClient

LOCAL = "https://127.0.0.1:2379"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RealMember:
    """One etcd: its name (of its node) and where it listens."""

    name: str
    client_url: str = field(default_factory=lambda: f"http://127.0.0.1:{free_port()}")
    peer_url: str = field(default_factory=lambda: f"http://127.0.0.1:{free_port()}")
    process: asyncio.subprocess.Process | None = None


@dataclass
class RealEtcd:
    """Members as processes below `directory`, and `api`, whose pods they seem to be."""

    binaries: Mapping[str, Path]
    directory: Path
    api: MemoryKubeClient = field(default_factory=MemoryKubeClient)
    members: dict[str, RealMember] = field(default_factory=dict)

    async def start(self, *names: str, state: str = "new") -> None:
        """Start members; with state `existing`, one that was added to the others before."""
        for name in names:
            self.members.setdefault(name, RealMember(name))
        initial = ",".join(f"{member.name}={member.peer_url}" for member in self.members.values())
        for name in names:
            member = self.members[name]
            with (self.directory / f"{name}.log").open("ab") as log:
                member.process = await asyncio.create_subprocess_exec(
                    str(self.binaries["etcd"]),
                    *(f"--name={name}", f"--data-dir={self.directory / name}", "--unsafe-no-fsync"),
                    *(f"--listen-client-urls={member.client_url}", f"--advertise-client-urls={member.client_url}"),
                    *(f"--listen-peer-urls={member.peer_url}", f"--initial-advertise-peer-urls={member.peer_url}"),
                    *(f"--initial-cluster={initial}", f"--initial-cluster-state={state}"),
                    stdout=log,
                    stderr=log,
                )
            await self.api.create(POD, build_pod(name))
        self.api.exec_handler = self.exec

    async def kill(self, name: str) -> None:
        """Kill a member's process; its pod stays, as that of a node whose VM is gone."""
        process = self.members[name].process
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def exec(self, call: ExecCall) -> ExecResult:
        """Run what a pod of etcd is asked to."""
        member = self.members[call.pod.removeprefix("etcd-")]
        file = str(self.directory / f"{member.name}.snapshot")
        words = [word.replace(LOCAL, member.client_url).replace(SNAPSHOT_PATH, file) for word in call.command]
        if words[0] == "etcdctl":
            tls = [word for word in words if word.startswith(("--cacert=", "--cert=", "--key="))]
            assert len(tls) == 3
            words = [str(self.binaries["etcdctl"]), *(word for word in words[1:] if word not in tls)]
        return await run(*words)

    async def etcdctl(self, name: str, *words: str) -> ExecResult:
        """Ask one member directly."""
        return await run(str(self.binaries["etcdctl"]), f"--endpoints={self.members[name].client_url}", *words)


async def restore(binaries: Mapping[str, Path], snapshot: Path, member: RealMember, directory: Path) -> None:
    """Make a data directory of a snapshot by the very command of the guest's bootstrap.sh."""
    program = read_guest_program("bootstrap.sh")
    begin = program.index("etcdutl snapshot restore")
    command = program[begin : program.index(">>", begin)].replace("https://$address:2380", member.peer_url)
    environment = {
        "PATH": f"{binaries['etcdutl'].parent}:/usr/bin:/bin",
        "SNAPSHOT": str(snapshot),
        "ETCD_DATA": str(directory / member.name),
        "CAPN_NODE_NAME": member.name,
    }
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-euc", command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    (directory / f"{member.name}.new").rename(directory / member.name)


async def run(*words: str) -> ExecResult:
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return ExecResult(stdout, stderr, process.returncode)


def build_pod(node: str) -> dict[str, Any]:
    """The mirror pod of a node's etcd."""
    return {
        "metadata": {
            "name": f"etcd-{node}",
            "namespace": "kube-system",
            "labels": {"component": "etcd", "tier": "control-plane"},
        },
        "spec": {"nodeName": node, "containers": [{"name": "etcd"}]},
    }


@contextlib.asynccontextmanager
async def running_etcd(binaries: Mapping[str, Path], directory: Path, *names: str) -> AsyncIterator[RealEtcd]:
    """Members of one new cluster that elected a leader; killed at the end."""
    etcd = RealEtcd(binaries, directory)
    try:
        await etcd.start(*names)
        async with asyncio.timeout(60):
            while (await etcd.etcdctl(names[0], "endpoint", "health")).exit_code != 0:
                await asyncio.sleep(0.1)
        yield etcd
    finally:
        for name in etcd.members:
            await etcd.kill(name)
