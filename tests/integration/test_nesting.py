"""What a child may do in its parent, tried on a real API server: RBAC, admission policy, quota, and the controller.

The controller has the rights of config/rbac and config/nesting; the child's own API and the machines are simulated.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from capn import names
from capn.api.resources import CONFIG_MAP, DEPLOYMENT, NAMESPACE, NESTED_CLUSTER, NESTED_MACHINE, SECRET
from capn.build.claim_report import ClaimReport, read_report
from capn.build.nesting import claims_namespace
from capn.controllers.setup import Controllers
from capn.dev.parent import Parent
from capn.errors import ApiStatusError, CapnError, TerminalError, TransientError
from capn.kube.client import KubeClient
from capn.kube.connect import connect_kubeconfig
from capn.kube.http import HttpKubeClient, Observer
from capn.providers.base import MachineState
from capn.providers.memory import MemoryProvider
from capn.providers.parent.provider import ParentProvider
from capn.settings import MemoryEndpoint, NestingSettings, ParentEndpoint, SecretKey, Settings
from tests.conftest import REPO, Kubectl
from tests.contract.provider_rigs import VERSION, cluster_ref, cluster_request, control_plane, worker
from tests.harness.scenario import OneProvider, Recorded

pytestmark = pytest.mark.timeout(300)
_LIMIT_S = 90


@dataclass
class Nest:
    """A cluster `c1` with nesting in a real parent; `child` is what the child was given, `admin` may do everything."""

    admin: KubeClient
    namespace: str
    hypervisor: MemoryProvider
    claims: str
    kubeconfig: Path
    child: HttpKubeClient
    provider: ParentProvider

    async def tries(self, resource: Any, obj: Mapping[str, Any]) -> str:
        """What the API server says to the child's attempt to create an object; empty when it lets it."""
        try:
            await self.child.create(resource, obj)
        except CapnError as error:
            return str(error)
        return ""


@pytest.fixture
async def nest(  # noqa: PLR0913, PLR0917 - fixtures
    client: KubeClient, kubectl: Kubectl, parent: Parent, crds: list[str], namespace: str, tmp_path: Path
) -> AsyncIterator[Nest]:
    assert crds
    kubectl("apply", "-f", str(REPO / "config/default/namespace.yaml"))
    kubectl("apply", "-k", str(REPO / "config/rbac"))
    for part in ("child_role", "role", "role_binding", "policy", "policy_binding"):
        kubectl("apply", "-f", str(REPO / f"config/nesting/component/{part}.yaml"))
    token = kubectl("create", "token", "capn-controller", "-n", "capn-system", "--duration=1h").strip()
    account = await connect_kubeconfig(_kubeconfig(parent, tmp_path / "controller", token))
    hypervisor = MemoryProvider(MemoryEndpoint(versions=(VERSION,)))
    settings = Settings(endpoints={"memory": {"default": MemoryEndpoint()}})
    controllers = Controllers(
        account, OneProvider(hypervisor, settings), Recorded(), nesting=NestingSettings(server=parent.server)
    )
    runs = (controllers.clusters.run(), controllers.machines.run())
    tasks = [asyncio.create_task(run) for run in runs]
    await asyncio.gather(controllers.clusters.wait_synced(), controllers.machines.wait_synced())
    more = (controllers.cluster_controller.run(), controllers.machine_controller.run(), controllers.hold())
    tasks += [asyncio.create_task(run) for run in more]
    child: HttpKubeClient | None = None
    try:
        found = await _make(client, namespace, hypervisor)
        child = await connect_kubeconfig(base64.b64decode(found["kubeconfig"]))
        given = child

        async def connect(_told: Observer) -> KubeClient:
            return given

        provider = ParentProvider(found["endpoint"], connect)
        path = tmp_path / "child"
        path.write_bytes(base64.b64decode(found["kubeconfig"]))
        yield Nest(client, namespace, hypervisor, found["endpoint"].namespace, path, child, provider)
        await client.delete(NESTED_CLUSTER, "c1", namespace)
        async with asyncio.timeout(_LIMIT_S):
            while await client.get(NESTED_CLUSTER, "c1", namespace) is not None:
                await asyncio.sleep(0.2)
        assert await client.get(NAMESPACE, found["endpoint"].namespace) is None
        assert hypervisor.world.machines == {}
        assert hypervisor.world.clusters == {}
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for open_client in (child, account):
            if open_client is not None:
                await open_client.close()
        await hypervisor.close()


def _kubeconfig(parent: Parent, path: Path, token: str) -> Path:
    config = yaml.safe_load(parent.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path.write_text(yaml.safe_dump(config))
    return path


async def _make(client: KubeClient, namespace: str, hypervisor: MemoryProvider) -> dict[str, Any]:
    """Make the cluster; what was installed in it."""
    spec = {
        "version": VERSION,
        "infrastructure": {"kind": "memory"},
        "nesting": {"enabled": True, "budget": {"clusters": 2, "machines": 3, "cpus": 5}},
    }
    made = await client.create(NESTED_CLUSTER, {"metadata": {"name": "c1", "namespace": namespace}, "spec": spec})
    uid = made["metadata"]["uid"]
    where = {"name": names.CONTROLLER, "namespace": names.SYSTEM_NAMESPACE}
    async with asyncio.timeout(_LIMIT_S):
        while uid not in hypervisor.world.clusters:
            await asyncio.sleep(0.1)
        api = hypervisor.world.clusters[uid].api
        while await api.get(DEPLOYMENT, where["name"], where["namespace"]) is None:
            await asyncio.sleep(0.1)
        status = {"metadata": where, "status": {"availableReplicas": 1}}
        await api.as_manager("kubelet").apply(DEPLOYMENT, status, subresource="status")
        while (await client.get(NESTED_CLUSTER, "c1", namespace) or {}).get("status", {}).get("phase") != "Ready":
            await asyncio.sleep(0.1)
    secret = await api.get(SECRET, "capn-parent", names.SYSTEM_NAMESPACE)
    config = await api.get(CONFIG_MAP, "capn-settings", names.SYSTEM_NAMESPACE)
    assert secret is not None
    assert config is not None
    settings = Settings(**yaml.safe_load(config["data"]["settings.yaml"]))
    endpoint = settings.endpoints["memory"]["default"]
    assert isinstance(endpoint, ParentEndpoint)
    assert endpoint.namespace == claims_namespace("c1", uid)
    value = secret.get("data", {}).get("value") or base64.b64encode(secret["stringData"]["value"].encode()).decode()
    return {"endpoint": endpoint, "kubeconfig": value}


async def network(nest: Nest, name: str = "demo") -> None:
    async with asyncio.timeout(_LIMIT_S):
        while True:
            try:
                await nest.provider.ensure_cluster(cluster_request(cluster_ref(name)))
            except TransientError as error:
                if error.reason != "WaitingForParent":
                    raise
                await asyncio.sleep(0.1)
            else:
                return


async def running(nest: Nest, request: Any) -> None:
    async with asyncio.timeout(_LIMIT_S):
        while (await nest.provider.ensure_machine(request)).state is not MachineState.RUNNING:
            await asyncio.sleep(0.1)


async def test_a_child_claims_a_cluster_with_what_it_was_given_and_gives_it_back(nest: Nest) -> None:
    await network(nest)
    request = control_plane(cluster_ref())
    await running(nest, request)
    assert len(nest.hypervisor.world.machines) == 2
    await nest.provider.release_bootstrap_data(request.ref)
    async with asyncio.timeout(_LIMIT_S):
        while True:
            seen = await nest.provider.observe_machine(request.ref)
            if seen is not None and not seen.seed_attached:
                break
            await asyncio.sleep(0.1)
        while not await nest.provider.delete_machine(request.ref):
            await asyncio.sleep(0.1)
        while not await nest.provider.delete_cluster(request.ref.cluster):
            await asyncio.sleep(0.1)
    assert len(nest.hypervisor.world.machines) == 1
    assert len(nest.hypervisor.world.clusters) == 1


async def test_the_parent_removes_what_a_dead_child_has_left(nest: Nest) -> None:
    """The fixture's end deletes c1 and finds nothing left."""
    await network(nest)
    await running(nest, control_plane(cluster_ref()))
    assert len(nest.hypervisor.world.machines) == 2


async def test_counts_and_sizes_beyond_the_budget_are_refused_with_the_numbers(nest: Nest) -> None:
    for name in ("demo", "other"):
        await network(nest, name)
    with pytest.raises(TransientError, match=r"exceeded quota.*used: count/nestedclusters.capn.dev=2") as refused:
        await network(nest, "third")
    assert refused.value.reason == "BudgetExceeded"
    await running(nest, control_plane(cluster_ref()))
    await running(nest, worker(cluster_ref(), 0))
    big = worker(cluster_ref("other"), 1)
    await nest.provider.ensure_machine(big)
    async with asyncio.timeout(_LIMIT_S):
        while True:
            seen = await nest.provider.observe_machine(big.ref)
            assert seen is not None
            if seen.problem is not None and seen.problem.reason == "BudgetExceeded":
                break
            await asyncio.sleep(0.1)
    assert seen.problem.passes
    assert "cpus: 4 of 5 taken, 2 more asked for" in seen.problem.message
    with pytest.raises(TransientError, match=r"exceeded quota.*used: count/nestedmachines.capn.dev=3"):
        await nest.provider.ensure_machine(worker(cluster_ref("other"), 2))


CLAIM: dict[str, Any] = {
    "version": VERSION,
    "claim": {"path": "{path}/team/x"},
    "infrastructure": {"kind": "memory", "endpoint": "default"},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no claim": ({"claim": None}, "only claims are made here"),
    "another path": ({"claim": {"path": "else/where/team/x"}}, "must begin with"),
    "too deep": ({"claim": {"path": "{path}/team/x/team/y"}}, "is deeper than"),
    "another hypervisor": ({"infrastructure": {"kind": "libvirt", "endpoint": "default"}}, "must be memory/default"),
    "orphaned": ({"deletionPolicy": "Orphan"}, "a claim is not orphaned"),
}


@pytest.mark.timeout(300)
async def test_what_a_claim_may_not_say_is_refused_by_admission(nest: Nest) -> None:
    path = f"{nest.namespace}/c1"
    for what, (changes, said) in REFUSED.items():
        spec = {key: value for key, value in (CLAIM | changes).items() if value is not None}
        if "claim" in spec:
            spec["claim"] = {"path": spec["claim"]["path"].format(path=path)}
        claim = {"metadata": {"name": "x", "namespace": nest.claims}, "spec": spec}
        assert said in await nest.tries(NESTED_CLUSTER, claim), what
    good = CLAIM | {"claim": {"path": f"{path}/team/x"}}
    assert not await nest.tries(NESTED_CLUSTER, {"metadata": {"name": "x", "namespace": nest.claims}, "spec": good})
    secret = {"metadata": {"name": "x", "namespace": nest.claims}, "stringData": {"value": "x"}}
    assert "claimed-bootstrap-data" in await nest.tries(SECRET, secret)
    await network(nest)
    with pytest.raises(TerminalError, match="must begin with") as refused:
        await _elsewhere(nest).ensure_cluster(cluster_request(cluster_ref("other")))
    assert refused.value.reason == "ClaimRefused"


def _elsewhere(nest: Nest) -> ParentProvider:
    """The child's provider, lying about whose it is."""

    async def connect(_told: Observer) -> KubeClient:
        return nest.child

    endpoint = ParentEndpoint(
        kubeconfig=SecretKey(namespace="x", name="x"),
        namespace=nest.claims,
        path="some/where",
        infrastructure_kind="memory",
    )
    return ParentProvider(endpoint, connect)


async def test_a_machine_keeps_the_finalizer_that_frees_its_vm(nest: Nest) -> None:
    await network(nest)
    request = control_plane(cluster_ref())
    await running(nest, request)
    [claim] = (await nest.child.list(NESTED_MACHINE, namespace=nest.claims)).items
    patch: dict[str, Any] = {"metadata": {"finalizers": []}}
    with pytest.raises(ApiStatusError, match="finalizer must be there"):
        await nest.child.merge_patch(NESTED_MACHINE, claim["metadata"]["name"], nest.claims, patch)
    again = dataclasses.replace(request, bootstrap_data=None)
    assert (await nest.provider.ensure_machine(again)).state is MachineState.RUNNING


async def test_a_claimed_cluster_keeps_its_finalizers_and_may_be_paused_and_reported(nest: Nest) -> None:
    await network(nest)
    [claim] = (await nest.child.list(NESTED_CLUSTER, namespace=nest.claims)).items
    name = claim["metadata"]["name"]
    held = {"metadata": {"finalizers": ["capn.dev/finalizer", "example.org/held"]}}
    await nest.admin.merge_patch(NESTED_CLUSTER, name, nest.claims, held)
    for fewer in ([], ["capn.dev/finalizer"], ["example.org/held", "example.org/other"]):
        patch: dict[str, Any] = {"metadata": {"finalizers": fewer}}
        with pytest.raises(ApiStatusError, match="none may be taken off"):
            await nest.child.merge_patch(NESTED_CLUSTER, name, nest.claims, patch)
    await nest.admin.merge_patch(
        NESTED_CLUSTER, name, nest.claims, {"metadata": {"finalizers": ["capn.dev/finalizer"]}}
    )
    report = ClaimReport(phase="Paused", machines=1)
    for _twice in range(2):
        await nest.provider.tell_cluster(cluster_ref(), report, paused=True)
    told = await nest.child.get(NESTED_CLUSTER, name, nest.claims)
    assert told is not None
    assert told["spec"]["paused"] is True
    assert read_report(told) == report
    assert told["metadata"]["generation"] == claim["metadata"]["generation"] + 1
    await nest.provider.tell_cluster(cluster_ref(), report, paused=False)


OUT_OF_REACH = (
    ("get", "secrets", "{namespace}"),
    ("get", "secrets", "kube-system"),
    ("list", "secrets", "{claims}"),
    ("list", "nestedclusters.capn.dev", "{namespace}"),
    ("create", "nestedclusters.capn.dev", "{namespace}"),
    ("patch", "nestedclusters.capn.dev/status", "{claims}"),
    ("patch", "nestedmachines.capn.dev/status", "{claims}"),
    ("create", "pods", "{claims}"),
    ("create", "serviceaccounts/token", "{claims}"),
    ("patch", "resourcequotas", "{claims}"),
    ("delete", "resourcequotas", "{claims}"),
    ("create", "rolebindings.rbac.authorization.k8s.io", "{claims}"),
    ("patch", "namespaces", "{claims}"),
    ("delete", "namespaces", "{claims}"),
    ("list", "nodes", "{claims}"),
    ("delete", "validatingadmissionpolicies.admissionregistration.k8s.io", "{claims}"),
)


async def test_nothing_else_in_the_parent_is_within_the_childs_reach(nest: Nest, kubectl: Kubectl) -> None:
    child = Kubectl(kubectl.binary, nest.kubeconfig)

    def may(verb: str, resource: str, where: str) -> str:
        name, _, subresource = resource.partition("/")
        target = [name, *([f"--subresource={subresource}"] if subresource else [])]
        return child.run("auth", "can-i", verb, *target, "-n", where).stdout.strip()

    # The same question has another answer where the child is at home, so that the noes below mean something.
    assert await asyncio.to_thread(may, "create", "nestedclusters.capn.dev", nest.claims) == "yes"
    for verb, resource, where in OUT_OF_REACH:
        at = where.format(namespace=nest.namespace, claims=nest.claims)
        assert await asyncio.to_thread(may, verb, resource, at) == "no", (verb, resource, at)
