from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from capn.dev.kubectl import Kubectl
from capn.dev.kubevirt import KubeVirt
from capn.dev.kubevirt_objects import build_kubevirt, build_operator, describe_pods
from capn.errors import TerminalError
from capn.parts.source import Report
from tests.unit.parts.fakes import write_program

GENERATOR = """case "$1" in
-type=kv) printf -- '---\\nkind: CustomResourceDefinition\\nmetadata: {name: kubevirts.kubevirt.io}\\n' ;;
-type=priorityclass) echo 'kind: PriorityClass' ;;
*) printf -- '---\\nkind: ServiceAccount\\n---\\nkind: ClusterRole\\n' ;;
esac"""
PENDING = {"metadata": {"name": "virt-api-1"}, "status": {"phase": "Pending"}}


class Node:
    def __init__(self) -> None:
        self.imported: list[Path] = []

    async def import_images(self, archive: Path, report: Report) -> None:  # noqa: ARG002
        self.imported.append(archive)


def write_kubectl(work: Path, *answers: dict[str, Any]) -> Kubectl:
    """A kubectl that keeps what is applied and gives the KubeVirt object's `answers` in turn, the last one for ever."""
    for number, answer in enumerate(answers):
        (work / f"answer-{number}").write_text(json.dumps(answer))
    (work / "pods").write_text(json.dumps({"items": [PENDING]}))
    script = f"""cd {work}; echo "$@" >> calls
case "$*" in
*" apply "*) cat >> applied; echo >> applied ;;
*" get pods "*) cat pods ;;
*" get kubevirt "*) n=$(cat n 2>/dev/null || echo 0); cat answer-$n; [ ! -e answer-$((n+1)) ] || echo $((n+1)) > n ;;
esac"""
    return Kubectl(write_program(work / "kubectl", script), work / "kubeconfig")


def answer(phase: str, *conditions: tuple[str, str, str]) -> dict[str, Any]:
    listed = [{"type": kind, "status": status, "message": message} for kind, status, message in conditions]
    return {"status": {"phase": phase, "conditions": listed}}


def kubevirt(work: Path, *answers: dict[str, Any]) -> KubeVirt:
    generator = write_program(work / "generator", GENERATOR)
    return KubeVirt(write_kubectl(work, *answers), {"kubevirt-resource-generator": generator}, work / "images.tar")


async def test_it_is_installed_in_order_and_awaited(tmp_path: Path) -> None:
    deploying = answer("Deploying", ("Available", "False", "Deploying version v1.7.0"))
    one = kubevirt(tmp_path, {"metadata": {}}, deploying, answer("Deployed", ("Available", "True", "")))
    node, lines = Node(), list[str]()
    await one.install(node, lines.append)
    assert node.imported == [tmp_path / "images.tar"]
    first, second = (json.loads(line)["items"] for line in (tmp_path / "applied").read_text().splitlines())
    kinds = [item["kind"] for item in first]
    assert kinds[:2] == ["Namespace", "CustomResourceDefinition"]
    assert kinds[-1] == "Deployment"
    assert {"PriorityClass", "ServiceAccount", "ClusterRole"} < set(kinds)
    assert [item["kind"] for item in second] == ["KubeVirt"]
    assert lines == [
        "the operator has not said anything yet; virt-api-1: Pending",
        "Deploying version v1.7.0; virt-api-1: Pending",
    ]


async def test_why_it_does_not_come_up_is_said(tmp_path: Path) -> None:
    one = kubevirt(tmp_path, answer("Deploying", ("Synchronized", "False", "no permission to create X")))
    with pytest.raises(TerminalError, match=r"KubeVirt Available: .*no permission to create X\nvirt-api-1: Pending"):
        await one.wait_available(lambda _: None, limit_s=0)


async def test_a_generator_that_fails_is_quoted(tmp_path: Path) -> None:
    one = kubevirt(tmp_path)
    write_program(tmp_path / "generator", "echo 'unknown resource type' >&2; exit 2")
    with pytest.raises(TerminalError, match=r"generator -type=kv -namespace=kubevirt: unknown resource type"):
        await one.install(Node(), lambda _: None)


def test_the_operator_knows_its_own_image_and_version() -> None:
    spec = build_operator("capn.dev/kubevirt/virt-operator:v1.7.0", "v1.7.0")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    assert env == {"VIRT_OPERATOR_IMAGE": container["image"], "KUBEVIRT_VERSION": "v1.7.0"}
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_nothing_is_ever_pulled() -> None:
    spec = build_kubevirt(emulate=True)["spec"]
    assert spec["imagePullPolicy"] == spec["configuration"]["imagePullPolicy"] == "IfNotPresent"
    assert spec["configuration"]["developerConfiguration"]["useEmulation"] is True


def test_pods_are_described_by_what_holds_them() -> None:
    def pod(name: str, **status: Any) -> dict[str, Any]:
        return {"metadata": {"name": name}, "status": status}

    ready = {"name": "c", "ready": True, "state": {"running": {}}}
    waiting = {"name": "c", "state": {"waiting": {"reason": "ErrImageNeverPull", "message": "not present "}}}
    starting = {"name": "c", "state": {"waiting": {"reason": "ContainerCreating"}}}
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}
    assert describe_pods(
        [
            pod("a", phase="Running", containerStatuses=[ready]),
            pod("b", phase="Pending", containerStatuses=[waiting]),
            pod("c", phase="Pending", containerStatuses=[starting]),
            pod("d", phase="Pending", conditions=[unscheduled]),
        ]
    ) == [
        "b: Pending (c ErrImageNeverPull: not present)",
        "c: Pending",
        "d: Pending (PodScheduled: 0/1 nodes are available)",
    ]
