"""Clusters in clusters with real machines, in order; each test goes on where the one before ended.

A child that nests -> `kubectl apply` in it makes a grandchild -> a pod runs there -> who reaches what is tried -> the
child's control plane is killed and heals, nothing is made twice -> the root deletes all of it while the child is dead.

`make e2e-recursive`: two emulated machines, a quarter of an hour on two CPUs; CI has no time for it.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from capn import names
from capn.build.nesting import claims_namespace
from capn.dev import processes
from capn.dev.child import POD_NAME, build_pod
from capn.dev.environment import CONTROLLER, Environment, samples_dir
from capn.dev.evidence import describe_object
from capn.dev.state import DevState
from tests.conftest import REPO, Kubectl
from tests.e2e.lab import BOOT_LIMIT_S, LOOK_EVERY_S, build_marks, condition

NAME = "levels"

pytestmark = build_marks("CAPN_E2E_RECURSIVE", "make e2e-recursive", boots=4)


@dataclass
class Levels:
    """The environment, and kubectl for each level."""

    home: Path
    binary: Path

    @property
    def environment(self) -> Environment:
        return Environment(DevState(NAME, self.home / "capn" / NAME))

    @property
    def root(self) -> Kubectl:
        return Kubectl(self.binary, self.environment.parent().kubeconfig)

    def capn(self, *args: str, timeout_s: float = 600) -> str:
        env = {**os.environ, "XDG_STATE_HOME": str(self.home)}
        argv = [sys.executable, "-m", "capn", *args]
        done = subprocess.run(argv, cwd=REPO, env=env, capture_output=True, text=True, check=False, timeout=timeout_s)
        assert done.returncode == 0, f"capn {' '.join(args)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def below(self, level: Kubectl, cluster: str) -> Kubectl:
        """kubectl for a cluster of that level, by the kubeconfig that capn made there."""
        path = self.home / f"{cluster}.kubeconfig"
        self.capn("kubeconfig", cluster, "--kubeconfig", str(level.kubeconfig), "--write", str(path))
        return Kubectl(self.binary, path)

    @property
    def child(self) -> Kubectl:
        return Kubectl(self.binary, self.home / "child.kubeconfig")

    @property
    def grandchild(self) -> Kubectl:
        return Kubectl(self.binary, self.home / "grandchild.kubeconfig")

    @property
    def get_nodes(self) -> tuple[str, ...]:
        return (str(self.binary), "get", "nodes", "--request-timeout=60s")

    def virsh(self, *args: str) -> str:
        argv = ["virsh", "--quiet", "--connect", self.environment.hypervisor().uri, *args]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"virsh {' '.join(args)}: {done.stderr}"
        return done.stdout

    def domains(self) -> dict[str, str]:
        """UUID by name."""
        return {name: self.virsh("domuuid", name).strip() for name in self.virsh("list", "--all", "--name").split()}

    def domain_of(self, part: str) -> str:
        [found] = [name for name in self.domains() if part in name]
        return found

    def wait_for(self, what: str, check: Callable[[], object], *, limit_s: float) -> None:
        """As `Story.wait_for`: an emulated API server is at times too busy for an answer, which is no answer."""
        started, trouble = time.monotonic(), ""
        while True:
            try:
                if check():
                    break
                trouble = ""
            except (AssertionError, subprocess.TimeoutExpired) as error:
                trouble = f"the last look failed: {error}\n"
            waited = time.monotonic() - started
            assert waited < limit_s, f"not within {limit_s:.0f} s: {what}\n{trouble}{self.evidence()}"
            time.sleep(LOOK_EVERY_S)
        self.say(f"{what}: after {time.monotonic() - started:.0f} s")

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201

    def evidence(self) -> str:
        lines: list[str] = []
        for level in (self.root, self.child):
            shown = level.run("get", "nestedclusters,nestedmachines", "-A", "-o", "json")
            items = json.loads(shown.stdout)["items"] if shown.returncode == 0 else []
            lines += [f"=== {level.kubeconfig.name}: {shown.stderr}"]
            lines += [line for item in items for line in describe_object(item)]
        logs = self.child.run("logs", "-n", names.SYSTEM_NAMESPACE, f"deployment/{names.CONTROLLER}", "--tail=30")
        log = processes.read_tail(self.environment.state.controller, CONTROLLER, lines=40)
        return "\n".join([*lines, "=== capn in the child", logs.stdout + logs.stderr, "=== capn in the root", log])

    def is_ready(self, level: Kubectl, name: str) -> bool:
        return bool(condition(level.json("get", "nestedcluster", name), "Ready")["status"] == "True")


@pytest.fixture(scope="module")
def levels(binaries: dict[str, Path]) -> Iterator[Levels]:
    with tempfile.TemporaryDirectory(prefix="capn-", ignore_cleanup_errors=True) as name:
        found = Levels(Path(name), binaries["kubectl"])
        try:
            found.capn("dev", "up", "--name", NAME, "--nesting")
            yield found
            said = found.capn("demo", "--clean", "--name", NAME, timeout_s=900)
            assert "no domain, volume, network, process, mount or file is left" in said
        finally:
            found.environment.hypervisor().purge()
            for record in processes.find_owned(found.home):
                os.kill(record.pid, signal.SIGKILL)


def sample(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((samples_dir() / "recursive" / f"{name}.yaml").read_text())
    return found


def test_a_child_that_nests_becomes_ready(levels: Levels) -> None:
    levels.root.apply(sample("child"))
    levels.wait_for("child is Ready", lambda: levels.is_ready(levels.root, "child"), limit_s=2 * BOOT_LIMIT_S)
    found = levels.root.json("get", "nestedcluster", "child")
    assert condition(found, "NestingReady")["reason"] == "ControllerRuns"
    levels.below(levels.root, "child")


def test_an_apply_in_the_child_makes_a_grandchild(levels: Levels) -> None:
    levels.wait_for("the child takes it", lambda: levels.child.apply(sample("grandchild")), limit_s=BOOT_LIMIT_S)
    levels.wait_for(
        "grandchild is Ready", lambda: levels.is_ready(levels.child, "grandchild"), limit_s=2 * BOOT_LIMIT_S
    )
    assert len(levels.domains()) == 2  # both at the one hypervisor
    levels.wait_for(
        "the grandchild's kubeconfig is there", lambda: levels.below(levels.child, "grandchild"), limit_s=60
    )


def test_a_pod_runs_in_the_grandchild(levels: Levels) -> None:
    pod = build_pod()
    pod["spec"]["hostNetwork"] = True  # what the machine reaches is tried from here
    levels.wait_for("the grandchild takes a pod", lambda: levels.grandchild.apply(pod), limit_s=BOOT_LIMIT_S)

    def runs() -> bool:
        return bool(condition(levels.grandchild.json("get", "pod", POD_NAME), "Ready")["status"] == "True")

    levels.wait_for("the pod runs", runs, limit_s=BOOT_LIMIT_S)
    levels.wait_for("the child takes a pod", lambda: levels.child.apply(pod), limit_s=BOOT_LIMIT_S)


def test_the_command_line_sees_and_reaches_every_level(levels: Levels) -> None:
    root = str(levels.root.kubeconfig)
    levels.wait_for("the root knows", lambda: _ready_below(levels), limit_s=60)
    [child] = json.loads(levels.capn("tree", "--kubeconfig", root, "-o", "json"))["clusters"]
    [grandchild] = child["clusters"]
    assert (grandchild["path"], grandchild["depth"]) == ("default/child/default/grandchild", 2)
    assert [machine["name"] for machine in grandchild["machines"]] == ["grandchild-cp-0"]
    assert "grandchild-cp-0" in levels.capn("exec", "child/grandchild", "--kubeconfig", root, "--", *levels.get_nodes)
    assert "child-cp-0" in levels.capn("exec", "child", "--kubeconfig", root, "--", *levels.get_nodes)
    links = json.loads(levels.capn("explain", "child/grandchild", "--kubeconfig", root, "-o", "json"))["links"]
    assert {link["verdict"] for link in links} == {"ok"}
    assert {"cluster", "claim", "VM", "cloud-init stage", "kubeadm phase", "node", "CNI"} <= {
        link["link"] for link in links
    }


def _ready_below(levels: Levels) -> bool:
    nested = levels.root.json("get", "nestedcluster", "child")["status"]["nested"]
    return bool(nested == {"clusters": 1, "readyClusters": 1, "machines": 1, "readyMachines": 1, "depth": 1})


def reach(kubectl: Kubectl, host: str, port: int) -> bool:
    """Whether the machine that the pod runs on gets a TCP connection."""
    # busybox's small nc has no -z, and its status does not tell a timeout from a connection: what it runs then does.
    program = ("nc", "-w", "5", host, str(port), "-e", "sh", "-c", "echo connected >&2")
    done = kubectl.run("exec", POD_NAME, "--", *program, timeout_s=120)
    assert "nc:" in done.stderr or "connected" in done.stderr or not done.stderr, done.stderr
    return "connected" in done.stderr


def test_machines_reach_what_they_need_and_no_other_levels_machines(levels: Levels) -> None:
    levels.wait_for(
        "the child's pod runs",
        lambda: condition(levels.child.json("get", "pod", POD_NAME), "Ready")["status"] == "True",
        limit_s=BOOT_LIMIT_S,
    )
    child = levels.root.json("get", "nestedcluster", "child")["status"]
    grandchild = levels.child.json("get", "nestedcluster", "grandchild")["status"]
    gate = child["access"]
    assert (gate["host"], gate["port"]) == (grandchild["access"]["host"], grandchild["access"]["port"])
    # The way that is there, first: else nothing that is refused would mean anything.
    assert reach(levels.child, gate["host"], gate["port"])
    assert reach(levels.grandchild, gate["host"], gate["port"])
    assert reach(levels.child, child["endpoint"]["host"], child["endpoint"]["port"])
    assert not reach(levels.grandchild, child["endpoint"]["host"], child["endpoint"]["port"])
    assert not reach(levels.child, grandchild["endpoint"]["host"], grandchild["endpoint"]["port"])
    for port in (22, 2379, 10250):
        assert not reach(levels.grandchild, child["endpoint"]["host"], port)


def test_the_childs_token_opens_nothing_else_in_the_root(levels: Levels) -> None:
    secret = levels.child.json("get", "secret", "capn-parent", "-n", names.SYSTEM_NAMESPACE)
    path = levels.home / "token.kubeconfig"

    path.write_bytes(base64.b64decode(secret["data"]["value"]))
    claimant = Kubectl(levels.binary, path)
    uid = levels.root.json("get", "nestedcluster", "child")["metadata"]["uid"]
    own = claims_namespace("child", uid)
    assert "grandchild" in claimant("get", "nestedclusters", "-n", own)
    for refused in (
        ("get", "nestedclusters", "-n", "default"),
        ("get", "secrets", "-n", "default"),
        ("get", "secrets", "-n", own),
        ("get", "nodes"),
        ("create", "namespace", "mine"),
    ):
        done = claimant.run(*refused)
        assert done.returncode != 0, refused
        assert "forbidden" in done.stderr.lower(), done.stderr


def test_a_killed_middle_level_heals_and_nothing_is_made_twice(levels: Levels) -> None:
    before = levels.domains()
    boot_id = levels.grandchild.json("get", "nodes")["items"][0]["status"]["nodeInfo"]["bootID"]
    own = claims_namespace("child", levels.root.json("get", "nestedcluster", "child")["metadata"]["uid"])
    claims = uids(levels.root, own)
    levels.virsh("destroy", levels.domain_of("-default-child-"))
    # The leaf goes on: its API answers while its owner is dead.
    assert levels.grandchild("get", "nodes").count("Ready") == 1
    levels.wait_for(
        "the root sees it",
        lambda: (
            not levels.is_ready(levels.root, "child")
            or "running" in levels.virsh("domstate", levels.domain_of("-default-child-"))
        ),
        limit_s=120,
    )
    levels.wait_for("the child answers again", lambda: levels.child("get", "nodes"), limit_s=BOOT_LIMIT_S)
    levels.wait_for("child is Ready again", lambda: levels.is_ready(levels.root, "child"), limit_s=BOOT_LIMIT_S)

    def leads() -> bool:
        done = levels.child.run("logs", "-n", names.SYSTEM_NAMESPACE, f"deployment/{names.CONTROLLER}")
        return '"leading"' in done.stdout

    levels.wait_for("capn in the child leads again", leads, limit_s=BOOT_LIMIT_S)
    levels.wait_for("grandchild is Ready", lambda: levels.is_ready(levels.child, "grandchild"), limit_s=BOOT_LIMIT_S)
    time.sleep(20)  # what it would make twice it would make in its first round
    assert levels.domains() == before
    assert uids(levels.root, own) == claims
    assert levels.grandchild.json("get", "nodes")["items"][0]["status"]["nodeInfo"]["bootID"] == boot_id


def uids(kubectl: Kubectl, namespace: str) -> set[str]:
    items = kubectl.json("get", "nestedclusters,nestedmachines", "-n", namespace)["items"]
    return {item["metadata"]["uid"] for item in items}


def test_the_root_deletes_everything_while_the_middle_is_dead(levels: Levels) -> None:
    uid = levels.root.json("get", "nestedcluster", "child")["metadata"]["uid"]
    # Paused at the hypervisor, which the root does not undo: nothing in the child can help any more.
    levels.virsh("suspend", levels.domain_of("-default-child-"))
    levels.root("delete", "nestedcluster", "child", "--timeout=300s", timeout_s=330)
    assert levels.domains() == {}
    assert set(levels.virsh("net-list", "--all", "--name").split()) <= {"default"}
    volumes = [line.split()[0] for line in levels.virsh("vol-list", "capn").splitlines() if line.strip()]
    assert [name for name in volumes if not name.startswith("capn-node-")] == []
    kinds = "nestedclusters,nestedmachines,namespaces,secrets"
    left = levels.root("get", kinds, "-A", "-o", "name").split()
    assert [name for name in left if "child" in name or claims_namespace("child", uid) in name] == []
