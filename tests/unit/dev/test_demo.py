"""Parts of the demo that need no machine: samples, waiting, evidence, DNS answers, state directories."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import pytest

from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE, SECRET
from capn.cli.progress import PlainProgress
from capn.dev.child import build_pod, parse_lookup, read_child_kubeconfig
from capn.dev.clean import clean
from capn.dev.demo import DemoCluster, read_samples, wait_ready
from capn.dev.environment import samples_dir
from capn.dev.evidence import describe_object, gather_evidence
from capn.dev.stages import StageTime
from capn.dev.state import DevState
from capn.dev.waiting import WaitTimeoutError, wait_until
from capn.errors import InvalidSpecError, NotFoundError, TerminalError
from capn.kube.memory import MemoryKubeClient
from tests.unit.tree.test_tree import cluster, machine

SAMPLE = DemoCluster("default", "demo", "v1.37.2")


async def stored(*objects: dict[str, Any]) -> MemoryKubeClient:
    client = MemoryKubeClient()
    for obj in objects:
        resource = NESTED_MACHINE if "clusterName" in obj["spec"] else NESTED_CLUSTER
        made = {**obj, "apiVersion": resource.api_version, "kind": resource.kind}
        meta = {key: value for key, value in obj["metadata"].items() if key in {"name", "namespace"}}
        created = await client.create(resource, {**made, "metadata": meta})
        status = {**obj["status"], "observedGeneration": created["metadata"]["generation"]}
        named = {"apiVersion": made["apiVersion"], "kind": made["kind"], "metadata": meta}
        await client.apply(resource, {**named, "status": status}, subresource="status")
    return client


def test_the_samples_hold_what_the_demo_promises() -> None:
    [sample] = read_samples(samples_dir())
    assert sample == SAMPLE


def test_samples_without_a_cluster_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("kind: ConfigMap\n")
    with pytest.raises(InvalidSpecError, match="holds no NestedCluster"):
        read_samples(tmp_path)


async def test_waits_until_ready_and_tells_stages() -> None:
    client, lines, stages = await stored(cluster(), machine()), list[str](), list[StageTime]()
    node = await wait_ready(client, SAMPLE, lines.append, stages)
    assert node.ready
    assert lines == [f"{'default/demo':<24} Ready", f"{'demo-cp-0':<24} Ready"]


async def test_names_what_is_missing_when_the_time_is_up() -> None:
    client = await stored(cluster(ready=False))
    with pytest.raises(WaitTimeoutError, match="default/demo Ready: not after 0 s; still missing: R: why"):
        await wait_ready(client, SAMPLE, lambda _: None, [], limit_s=0)


async def test_a_lasting_failure_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capn.dev.demo._FAILED_GRACE_S", 0.0)
    client = await stored(cluster(ready=False, phase="Failed", failureMessage="no image for v9; build it"))
    with pytest.raises(TerminalError, match="no image for v9; build it"):
        await wait_ready(client, SAMPLE, lambda _: None, [])


async def test_a_deleted_cluster_ends_the_wait() -> None:
    with pytest.raises(TerminalError, match="deleted meanwhile"):
        await wait_ready(MemoryKubeClient(), SAMPLE, lambda _: None, [])


async def test_evidence_has_conditions_log_tails_and_the_controllers_end(tmp_path: Path) -> None:
    failed = machine(ready=False, phase="Failed", bootstrap={"stage": "kubeadm/etcd", "logTail": "line 1\nport in use"})
    failed["status"]["conditions"].append({"type": "Stalled", "status": "False", "reason": "Fine", "message": ""})
    client = await stored(cluster(ready=False), failed)
    state = DevState("t", tmp_path)
    state.controller.mkdir()
    (state.controller / "controller.log").write_text("first\nlast words\n")
    text = "\n".join(await gather_evidence(client, state))
    for expected in ("Ready=False R: why", "| port in use", "kubeadm/etcd", "last words"):
        assert expected in text
    assert "Stalled" not in text


def test_describes_an_object_without_status() -> None:
    assert describe_object({"kind": "K", "metadata": {"namespace": "n", "name": "x"}}) == ["--- K n/x: no status"]


async def test_reads_the_childs_kubeconfig() -> None:
    client = MemoryKubeClient()
    with pytest.raises(NotFoundError, match="no kubeconfig for n/c; look at `capn tree -n n`"):
        await read_child_kubeconfig(client, namespace="n", cluster="c")
    data = {"value": base64.b64encode(b"kind: Config").decode()}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "c-kubeconfig", "namespace": "n"},
        "data": data,
    }
    await client.create(SECRET, secret)
    assert await read_child_kubeconfig(client, namespace="n", cluster="c") == b"kind: Config"


def test_the_demos_pod_pulls_nothing() -> None:
    [container] = build_pod()["spec"]["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("capn.dev/toolbox:1", "Never")


def test_reads_the_answer_of_nslookup() -> None:
    said = "Server:\t\t10.96.0.10\nAddress:\t10.96.0.10:53\n\nName:\tkubernetes.default.svc\nAddress: 10.96.0.1\n"
    assert parse_lookup(said) == "10.96.0.1"
    with pytest.raises(TerminalError, match="gave no address"):
        parse_lookup("Server:\t\t10.96.0.10\nAddress:\t10.96.0.10:53\n\n** server can't find x: NXDOMAIN\n")


async def test_wait_until_polls_and_gives_up() -> None:
    answers = iter(["not yet", "nearly", None])

    async def check() -> str | None:
        return next(answers)

    await wait_until("it", check, limit_s=5, interval_s=0)

    async def never() -> str | None:
        return "the lot"

    with pytest.raises(WaitTimeoutError, match="it: not after 0 s; still missing: the lot"):
        await wait_until("it", never, limit_s=0, interval_s=0)


@pytest.mark.parametrize("name", ["", "UPPER", "a/b", "..", "-a", "a-", "x" * 21])
def test_names_that_are_no_directory_are_refused(name: str) -> None:
    with pytest.raises(InvalidSpecError, match="--name"):
        DevState.of(name)


def test_state_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert DevState.of("demo").directory == tmp_path / "capn" / "demo"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert DevState.of("a").directory == Path("/home/somebody/.local/state/capn/a")


async def test_cleaning_nothing_is_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await clean(DevState("t", tmp_path / "t"), PlainProgress(sys.stdout))
    assert "no domain, volume, network, process, mount or file is left" in capsys.readouterr().out
    assert not (tmp_path / "t").exists()
