"""What is written into kubeadm's record of a child: from the spec, and from where the cluster is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from capn.api.cluster import Access, Endpoint
from capn.api.resources import CONFIG_MAP
from capn.build.kubeadm_record import NAME, NAMESPACE
from capn.controllers.cluster.components import record_components
from capn.errors import TransientError
from capn.kube.memory import MemoryKubeClient
from tests.harness.scenario import Recorded
from tests.unit.build.samples import make_cluster

GATE = "demo.gate.capn.dev"
VERSION = "v1.37.2"
TEXT = f"dns: {{}}\nkubernetesVersion: {VERSION}\n"


async def make_scope(*, keeps_addresses: bool = False, access: bool = False, endpoint: bool = True) -> Any:
    child = MemoryKubeClient()
    config = {"metadata": {"name": NAME, "namespace": NAMESPACE}, "data": {"ClusterConfiguration": TEXT}}
    cluster = make_cluster(controlPlane={"etcd": {"extraArgs": {"quota": "1"}}})
    found = Access(host="198.18.0.1", port=8443, server_name=GATE) if access else None
    host = Endpoint(host="10.89.0.10", port=6443) if endpoint else None
    status = cluster.status.model_copy(update={"access": found, "endpoint": host})
    return SimpleNamespace(
        cluster=cluster.model_copy(update={"status": status}),
        kubeadm_config=await child.create(CONFIG_MAP, config),
        provider=SimpleNamespace(keeps_addresses=keeps_addresses),
        deps=SimpleNamespace(recorder=Recorded()),
        require_child=lambda: SimpleNamespace(client=child),
    )


async def record_of(scope: Any) -> dict[str, Any]:
    child = scope.require_child().client
    assert await child.get(CONFIG_MAP, NAME, NAMESPACE) == scope.kubeadm_config
    found: dict[str, Any] = yaml.safe_load(scope.kubeadm_config["data"]["ClusterConfiguration"])
    return found


@pytest.mark.parametrize("given", [False, True])
async def test_it_is_for_the_place_where_the_cluster_is(*, given: bool) -> None:
    scope = await make_scope(keeps_addresses=given, access=given)
    await record_components(scope, VERSION)
    record = await record_of(scope)
    assert record["dns"] == {}
    assert {"name": "quota", "value": "1"} in record["etcd"]["local"]["extraArgs"]
    assert ("listen-peer-urls" in str(record["etcd"])) is given
    assert (GATE in record["apiServer"]["certSANs"]) is given


async def test_it_is_written_and_told_once() -> None:
    scope = await make_scope()
    await record_components(scope, VERSION)
    await record_components(scope, VERSION)
    assert scope.require_child().client.writes == 2  # the second is this: the first made it
    assert [line[2] for line in scope.deps.recorder.lines] == ["ArgumentsRecorded"]


async def test_it_says_the_version_of_the_one_that_is_made_next() -> None:
    scope = await make_scope()
    await record_components(scope, "v1.36.3")
    record = await record_of(scope)
    assert record["kubernetesVersion"] == "v1.36.3"
    assert {"name": "quota", "value": "1"} in record["etcd"]["local"]["extraArgs"]
    await record_components(scope, VERSION)
    assert (await record_of(scope)) == record | {"kubernetesVersion": VERSION}
    assert [line[2] for line in scope.deps.recorder.lines] == ["ArgumentsRecorded"]


@pytest.mark.parametrize("lost", ["kubeadm_config", "endpoint"])
async def test_it_waits_for_what_it_needs(lost: str) -> None:
    scope = await make_scope(endpoint=lost != "endpoint")
    if lost == "kubeadm_config":
        scope.kubeadm_config = None
    with pytest.raises(TransientError):
        await record_components(scope, VERSION)
    assert scope.require_child().client.writes == 1
