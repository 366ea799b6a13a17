"""The parent's node: pods, their network from both sides, supervision, two at once, and nothing left on the host."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from capn.dev import processes
from capn.dev.link import Link
from capn.dev.node import Node
from capn.dev.node_parent import running_node
from capn.dev.parent import Parent
from capn.dev.waiting import wait_until
from capn.errors import NotFoundError, TerminalError
from capn.image.images import TOOLBOX_IMAGE
from tests.conftest import Kubectl

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="a node needs root"),
]
_SERVE = "echo started; echo hello > /www/index.html; exec httpd -f -p 8080 -h /www"


@dataclass(frozen=True)
class Cluster:
    """A parent with its node."""

    parent: Parent
    node: Node
    kubectl: Kubectl

    def service(self) -> str:
        return str(self.kubectl.json("get", "service", "web")["spec"]["clusterIP"])

    def inside(self, *command: str) -> str:
        return self.kubectl("exec", "web", "--", *command)


def host_traces() -> set[str]:
    """What a node might leave on the host; what others have there meanwhile may go, so sets are compared."""
    links = {f"link {path.name}" for path in Path("/sys/class/net").iterdir()}
    groups = {f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob("**/capn-*")}
    listed = set()
    for command in ("ip route show table all", "nft --stateless list ruleset"):  # counters count others' packets
        said = subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout
        listed |= {f"{command}: {line}" for line in said.splitlines()}
    mounts = {f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines()}
    kernel = ("net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")
    values = {f"{name} {Path('/proc/sys', name).read_text()}" for name in kernel}
    places = ("/etc", "/opt", "/var", "/var/lib", "/run", "/srv")
    files = {f"file {path}" for place in places for path in Path(place).glob("*")}
    return links | groups | listed | mounts | values | files


def web() -> list[dict[str, Any]]:
    container = {"name": "web", "image": TOOLBOX_IMAGE, "command": ["sh", "-c", _SERVE]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
    }
    other = {**pod, "metadata": {"name": "other"}}
    ports = [{"port": 80, "targetPort": 8080}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": ports},
    }
    return [pod, other, service]


@pytest.fixture(scope="module")
def cluster(binaries: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for all the tests here, with the pods `web` and `other` and the Service `web`."""
    before = host_traces()
    entered = running_node(tmp_path_factory.mktemp("node") / "one", binaries, print)
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:  # one: its end closes the generator
        parent, node = runner.run(entered.__aenter__())
        try:
            kubectl = Kubectl(binaries["kubectl"], parent.kubeconfig)
            kubectl.apply(*web())
            kubectl("wait", "--for=condition=Ready", "pod/web", "pod/other", "--timeout=60s")
            rollout = ("rollout", "status", "deployment/coredns", "-n", "kube-system", "--timeout=60s")
            kubectl(*rollout, timeout_s=70)
            yield Cluster(parent, node, kubectl)
        finally:
            runner.run(entered.__aexit__(None, None, None))
    assert node.leaks() == []
    assert host_traces() <= before


def fetch(address: str) -> str:
    """What it serves; kube-proxy may take a moment for a new Service."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def look_up(cluster: Cluster, name: str) -> str:
    """What DNS says in a pod; kube-proxy may take a moment for CoreDNS."""
    deadline = time.monotonic() + 20
    while True:
        done = cluster.kubectl.run("exec", "web", "--", "nslookup", name)
        if done.returncode == 0 or time.monotonic() > deadline:
            return done.stdout + done.stderr
        time.sleep(0.5)


def test_logs_exec_and_proxy_work_through_the_api_server(cluster: Cluster) -> None:
    assert cluster.kubectl("logs", "web") == "started\n"
    assert cluster.inside("cat", "/www/index.html") == "hello\n"
    assert cluster.kubectl("get", "--raw", "/api/v1/namespaces/default/services/web:80/proxy/") == "hello\n"


def test_a_pod_reaches_the_api_server_and_names(cluster: Cluster) -> None:
    address = str(cluster.node.link.block.services[1])
    assert address in look_up(cluster, "kubernetes.default.svc.cluster.local")
    refused = cluster.kubectl.run("exec", "web", "--", "wget", "-qO-", f"http://{address}:443/")
    assert "400 Bad Request" in refused.stderr  # plain HTTP to a TLS port: an answer
    assert cluster.service() in look_up(cluster, "web.default.svc.cluster.local")


def test_the_host_reaches_pods_and_services(cluster: Cluster) -> None:
    assert fetch(cluster.service()) == "hello\n"
    pod = cluster.kubectl.json("get", "pod", "web")["status"]["podIP"]
    assert fetch(f"{pod}:8080") == "hello\n"


def test_pods_reach_each_other_and_themselves_through_a_service(cluster: Cluster) -> None:
    url = f"http://{cluster.service()}/"
    assert cluster.kubectl("exec", "other", "--", "wget", "-qO-", url) == "hello\n"
    assert cluster.inside("wget", "-qO-", url) == "hello\n"
    pod = cluster.kubectl.json("get", "pod", "web")["status"]["podIP"]
    assert cluster.kubectl("exec", "other", "--", "wget", "-qO-", f"http://{pod}:8080/") == "hello\n"


def test_a_pod_of_the_host_sees_a_machine_of_its_own(cluster: Cluster) -> None:
    """What KubeVirt's handler needs: /proc/1, the mounts and /run of the node are not the host's."""
    overrides = {
        "spec": {
            "hostPID": True,
            "hostNetwork": True,
            "containers": [
                {
                    "name": "probe",
                    "image": TOOLBOX_IMAGE,
                    "command": ["sh", "-c", "hostname; cat /proc/1/cmdline; ls /proc/1/root/var/run/capn; ip link"],
                    "securityContext": {"privileged": True},
                }
            ],
        }
    }
    options = ("--restart=Never", f"--image={TOOLBOX_IMAGE}", f"--overrides={json.dumps(overrides)}")
    cluster.kubectl("run", "probe", *options)
    cluster.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/probe", "--timeout=60s")
    said = cluster.kubectl("logs", "probe")
    assert said.startswith(cluster.node.name)
    assert "node_init.py" in said
    assert "cni0" in said
    assert cluster.node.link.name not in said


@pytest.mark.parametrize("program", ["kubelet", "containerd"])
async def test_a_killed_program_comes_back_and_pods_stay(cluster: Cluster, program: str) -> None:
    def pids() -> set[int]:
        return {r.pid for r in processes.find_owned(cluster.node.directory) if r.name == program}

    before = pids()
    assert len(before) == 1
    restarts = cluster.kubectl.json("get", "pod", "web")["status"]["containerStatuses"][0]["restartCount"]
    os.kill(before.pop(), signal.SIGKILL)

    async def missing() -> str | None:
        done = cluster.kubectl.run("exec", "web", "--", "true")
        return None if done.returncode == 0 and pids() else done.stderr

    await wait_until(f"{program} again", missing, limit_s=60, interval_s=0.5)
    status = cluster.kubectl.json("get", "pod", "web")["status"]["containerStatuses"][0]
    assert status["restartCount"] == restarts


async def test_start_again_changes_nothing_while_it_runs(cluster: Cluster) -> None:
    pid = cluster.node.pid
    await cluster.node.start(cluster.parent, lambda _: None)
    assert cluster.node.pid == pid
    assert await cluster.node.missing_images([TOOLBOX_IMAGE, "capn.dev/none:1"]) == ["capn.dev/none:1"]


async def test_two_do_not_collide_and_images_stay_over_a_restart(
    cluster: Cluster, binaries: Mapping[str, Path], tmp_path: Path
) -> None:
    async with running_node(tmp_path / "two", binaries, print) as (parent, node):
        kubectl = Kubectl(binaries["kubectl"], parent.kubeconfig)
        assert not node.link.block.network.overlaps(cluster.node.link.block.network)
        kubectl.apply(*web())
        kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
        other = Cluster(parent, node, kubectl)
        assert fetch(other.service()) == fetch(cluster.service()) == "hello\n"
        await node.stop()
        assert node.leaks() == []
        assert fetch(cluster.service()) == "hello\n"
        lines: list[str] = []
        await node.start(parent, lines.append)
        assert not [line for line in lines if "imported" in line]
        kubectl("wait", "--for=condition=Ready", "node/node", "--timeout=10s")
    assert node.leaks() == []
    assert fetch(cluster.service()) == "hello\n"


async def test_a_program_that_fails_is_named_with_its_log(
    cluster: Cluster, binaries: Mapping[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken" / "kubelet"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'unknown flag: --nonsense'\nexit 1\n")
    broken.chmod(0o755)
    link = Link(tmp_path)
    node = Node(tmp_path / "node", link, name="bad", programs={**binaries, "kubelet": broken}, dies_with_us=True)
    with pytest.raises(TerminalError, match=r"kubelet keeps ending; the end of .*\n.*unknown flag: --nonsense"):
        await node.start(cluster.parent, lambda _: None)
    assert node.leaks() == []
    assert not node.running()


async def test_nothing_can_be_imported_without_a_node(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", Link(tmp_path), programs={"ctr": Path("ctr")})
    with pytest.raises(NotFoundError, match="capn dev up --node"):
        await node.import_images(tmp_path / "images.tar", print)
    assert not await node.stop()
    assert node.leaks() == []


async def test_what_is_missing_is_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    node = replace(cluster.node, directory=tmp_path, link=Link(tmp_path), programs={})
    with pytest.raises(NotFoundError, match="capn parts build containerd kubelet"):
        node.check_host()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(TerminalError, match=r"needs root .*: run with sudo"):
        node.check_host()
