"""`capn plan` against a real API server: its own verdict, and what the two ways of applying take away."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from capn.api.cluster import NestedCluster
from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE
from capn.api.transitions import find_refused
from capn.build.machines import desired_machines
from capn.cli import exits
from capn.dev.parent import Parent
from capn.errors import ApiStatusError
from capn.kube.client import KubeClient
from capn.kube.http import HttpKubeClient
from capn.plan.cluster import compute_plan
from capn.plan.model import Judge, Verdict
from capn.plan.read import read_requests
from tests.conftest import Kubectl
from tests.unit.api.cases import cluster
from tests.unit.api.test_transitions import CASES

pytestmark = pytest.mark.integration
TWO_POOLS = {"version": "v1.37.2", "workers": [{"name": "a"}, {"name": "b"}]}


def manifest(namespace: str, spec: dict[str, Any], name: str = "c1") -> dict[str, Any]:
    made = cluster(spec, name)
    made["metadata"]["namespace"] = namespace
    return made


async def plan_of(client: KubeClient, wanted: dict[str, Any]) -> Any:
    [request] = await read_requests(client, [wanted])
    return compute_plan(request)


async def make(client: KubeClient, wanted: dict[str, Any]) -> dict[str, Any]:
    """The cluster with its machines, as a controller makes them."""
    made = await client.create(NESTED_CLUSTER, wanted)
    for machine in desired_machines(NestedCluster.model_validate(made)):
        del machine["metadata"]["finalizers"]
        await client.create(NESTED_MACHINE, machine)
    return made


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
async def test_the_api_server_and_the_python_half_agree_on_what_may_be_changed(
    crds: list[str],
    client: HttpKubeClient,
    namespace: str,
    case: tuple[str, dict[str, Any], dict[str, Any], str | None],
) -> None:
    assert crds
    _, old, new, field = case
    made = await client.create(NESTED_CLUSTER, manifest(namespace, old))
    after = manifest(namespace, new)
    refused = find_refused(NestedCluster.model_validate(made).spec, NestedCluster.model_validate(after).spec)
    # The whole object, as after an apply that takes away what is no longer said.
    whole = {key: None for key in made["spec"] if key not in after["spec"]} | after["spec"]
    patch = {"spec": whole}
    if field is None:
        await client.merge_patch(NESTED_CLUSTER, "c1", namespace, patch)
        assert refused == []
        return
    with pytest.raises(ApiStatusError) as caught:
        await client.merge_patch(NESTED_CLUSTER, "c1", namespace, patch)
    assert field in str(caught.value)
    assert refused[0].message in str(caught.value)


async def test_a_refusal_of_the_api_server_is_shown_with_its_field(
    crds: list[str], client: HttpKubeClient, namespace: str
) -> None:
    assert crds
    # An annotation that is no string: only the API server looks there.
    wanted = manifest(namespace, TWO_POOLS)
    wanted["metadata"]["annotations"] = {"a b": "c"}
    found = await plan_of(client, wanted)
    assert found.verdict is Verdict.REFUSED
    [refusal] = found.refusals
    assert refusal.by is Judge.API_SERVER
    assert "metadata.annotations" in refusal.message
    assert await client.get(NESTED_CLUSTER, "c1", namespace) is None


async def test_what_is_fixed_is_refused_by_both_and_nothing_is_written(
    crds: list[str], client: HttpKubeClient, namespace: str
) -> None:
    assert crds
    before = await make(client, manifest(namespace, TWO_POOLS))
    found = await plan_of(client, manifest(namespace, TWO_POOLS | {"network": {"podCIDR": "10.8.0.0/16"}}))
    assert {refusal.by for refusal in found.refusals} == {Judge.RULE, Judge.API_SERVER}
    assert all("spec.network.podCIDR" in f"{refusal.field} {refusal.message}" for refusal in found.refusals)
    after = await client.get(NESTED_CLUSTER, "c1", namespace)
    assert after is not None
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_a_pool_that_is_no_longer_said_goes_by_either_way_of_applying(
    crds: list[str], client: HttpKubeClient, namespace: str, kubectl: Kubectl
) -> None:
    assert crds
    for name, flags in (("client", ()), ("server", ("--server-side",))):
        wanted = manifest(namespace, TWO_POOLS, name)
        kubectl("apply", "--validate=false", *flags, "-f", "-", stdin=json.dumps(wanted))
        made = await client.get(NESTED_CLUSTER, name, namespace)
        assert made is not None
        for machine in desired_machines(NestedCluster.model_validate(made)):
            del machine["metadata"]["finalizers"]
            await client.create(NESTED_MACHINE, machine)
        assert (await plan_of(client, wanted)).verdict is Verdict.UNCHANGED
        smaller = manifest(namespace, {"version": "v1.37.2", "workers": [{"name": "a"}]}, name)
        found = await plan_of(client, smaller)
        changed = {change.name: str(change.action) for change in found.machines if str(change.action) != "keep"}
        assert changed == {f"{name}-b-0": "remove"}, name
        # The deed: what is planned is what an apply leaves.
        kubectl("apply", "--validate=false", *flags, "-f", "-", stdin=json.dumps(smaller))
        left = await client.get(NESTED_CLUSTER, name, namespace)
        assert left is not None
        assert [pool["name"] for pool in left["spec"]["workers"]] == ["a"]


async def test_the_command_says_it_all(
    crds: list[str], client: HttpKubeClient, namespace: str, parent: Parent, tmp_path: Path
) -> None:
    assert crds
    await make(client, manifest(namespace, TWO_POOLS))
    path = tmp_path / "c1.yaml"
    argv = [sys.executable, "-m", "capn", "plan", "-f", str(path), "--kubeconfig", str(parent.kubeconfig)]

    def run(spec: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        path.write_text(json.dumps(manifest(namespace, spec)))
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)

    same = run(TWO_POOLS)
    assert same.returncode == exits.OK, same.stdout + same.stderr
    more = run(TWO_POOLS | {"workers": [{"name": "a", "replicas": 2}, {"name": "b"}]})
    assert more.returncode == exits.CHANGES, more.stdout + more.stderr
    assert "  +   add c1-a-1" in more.stdout.splitlines()
    assert "  spec.workers[a].replicas: 1 -> 2" in more.stdout.splitlines()
    bad = run(TWO_POOLS | {"network": {"podCIDR": "10.8.0.0/16"}})
    assert bad.returncode == exits.FAILED
    assert "podCIDR cannot be changed: create a new cluster instead" in bad.stdout
