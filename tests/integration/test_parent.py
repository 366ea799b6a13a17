"""The embedded parent: real programs, two at once, restart with the same identity, failed starts explained."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from capn.dev import processes
from capn.dev.parent import Parent
from capn.errors import NotFoundError, TerminalError
from tests.conftest import Kubectl


def test_the_shared_parent_serves_and_collects_garbage(kubectl: Kubectl, namespace: str) -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner", "namespace": namespace}}
    kubectl.apply(owner)
    uid = kubectl.json("get", "configmap", "owner", "-n", namespace)["metadata"]["uid"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    owned = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "owned", "namespace": namespace, "ownerReferences": [reference]},
    }
    kubectl.apply(owned)
    kubectl("delete", "configmap", "owner", "-n", namespace)
    kubectl("wait", "--for=delete", "configmap/owned", "-n", namespace, "--timeout=30s")


def test_keys_and_kubeconfigs_are_private(parent: Parent) -> None:
    private = [*parent.layout.pki.glob("*.key"), *parent.layout.pki.glob("*.kubeconfig"), parent.kubeconfig]
    assert len(private) > 10
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}


def test_the_api_server_refuses_clients_without_a_certificate(parent: Parent, kubectl: Kubectl, tmp_path: Path) -> None:
    anonymous = Kubectl(kubectl.binary, tmp_path / "kubeconfig")
    anonymous.kubeconfig.write_text("")
    authority = f"--certificate-authority={parent.layout.certificate('ca')}"
    answer = anonymous.run("get", "secrets", "-A", f"--server={parent.server}", authority, "--token=wrong")
    assert "Unauthorized" in answer.stderr or "must be logged in" in answer.stderr


def test_requests_are_in_the_audit_log(parent: Parent, kubectl: Kubectl, namespace: str) -> None:
    kubectl("create", "configmap", "traced", "-n", namespace)
    lines = [json.loads(line) for line in parent.audit_log.read_text().splitlines()]
    traced = [line for line in lines if line.get("objectRef", {}).get("namespace") == namespace]
    assert ("create", "capn-admin") in {(line["verb"], line["user"]["username"]) for line in traced}
    assert all("requestObject" not in line for line in traced)


async def test_two_parents_start_at_once_and_come_back_with_the_same_identity(
    binaries: Mapping[str, Path], tmp_path: Path
) -> None:
    first, second = (Parent(tmp_path / name, binaries, dies_with_us=True) for name in ("one", "two"))
    try:
        await asyncio.gather(first.up(lambda _: None), second.up(lambda _: None))
        assert first.server != second.server
        Kubectl(binaries["kubectl"], first.kubeconfig)("create", "namespace", "only-in-one")
        other = Kubectl(binaries["kubectl"], second.kubeconfig).run("get", "namespace", "only-in-one")
        assert "NotFound" in other.stderr
        authority = first.layout.certificate("ca").read_bytes()
        assert len(await first.down()) == 4
        assert not processes.find_owned(first.directory)
        await first.up(lambda _: None)
        assert first.layout.certificate("ca").read_bytes() == authority
        Kubectl(binaries["kubectl"], first.kubeconfig)("get", "namespace", "only-in-one")
    finally:
        await first.down()
        await second.remove()
    assert not processes.find_owned(tmp_path)
    assert not second.directory.exists()


async def test_a_failed_start_says_why_and_leaves_nothing(binaries: Mapping[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "kube-apiserver"
    broken.write_text("#!/bin/sh\necho 'Error: unknown flag: --nonsense' >&2\nexit 1\n")
    broken.chmod(0o755)
    parent = Parent(tmp_path / "parent", {**binaries, "kube-apiserver": broken}, dies_with_us=True)
    with pytest.raises(TerminalError, match=r"while starting, kube-apiserver ended .*\n.*unknown flag: --nonsense"):
        await parent.up(lambda _: None)
    assert not processes.find_owned(tmp_path)


async def test_missing_binaries_are_named_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="capn parts build etcd kube-apiserver"):
        await Parent(tmp_path).up(lambda _: None)


async def test_start_is_idempotent_and_repairs_a_killed_program(binaries: Mapping[str, Path], tmp_path: Path) -> None:
    async with Parent.start(tmp_path, binaries, lambda _: None) as parent:
        before = processes.read_record(parent.layout.run, "etcd")
        await parent.up(lambda _: None)
        assert processes.read_record(parent.layout.run, "etcd") == before
        assert await processes.kill(parent.layout.run, "kube-scheduler")
        assert len(parent.running()) == 3
        await parent.up(lambda _: None)
        assert len(parent.running()) == 4
    assert not processes.find_owned(tmp_path)
