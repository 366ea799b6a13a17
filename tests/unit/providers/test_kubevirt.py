"""The KubeVirt provider's pure parts: names, what is said of a VM that does not run, which changes are told."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from capn import names
from capn.api.resources import SERVICE, VIRTUAL_MACHINE
from capn.build.stamps import build_metadata, read_stamp
from capn.errors import InvalidSpecError, OwnershipError, TransientError
from capn.providers.base import ClusterRef, MachineRef, MachineState, Problem
from capn.providers.kubevirt.endpoint import compute_endpoint
from capn.providers.kubevirt.place import Place
from capn.providers.kubevirt.provider import KubeVirtProvider
from capn.providers.kubevirt.views import compute_state, find_problem, read_essence
from capn.providers.object_changes import ObjectChanges
from capn.providers.stamps import build_stamp, read_machine_ref
from capn.settings import KubeVirtEndpoint, Settings
from tests.contract.provider_rigs import SimulatedKubeVirtRig, cluster_ref, cluster_request, control_plane
from tests.harness.kubevirt_world import KubeVirtWorld

CLUSTER = ClusterRef(namespace="team", name="demo", uid="c-uid")
MACHINE = MachineRef(cluster=CLUSTER, name="demo-cp-0", uid="m-uid")


def vm(status: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {}, "spec": {}, "status": {"printableStatus": status, **more}}


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"status": {"conditions": [{"type": kind, "status": status, "reason": reason, "message": message}]}}


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("Running", MachineState.RUNNING),
        ("Migrating", MachineState.RUNNING),
        ("Paused", MachineState.PAUSED),
        ("Stopped", MachineState.STOPPED),
        ("CrashLoopBackOff", MachineState.CRASHED),
        ("ErrorUnschedulable", MachineState.CREATING),
        ("", MachineState.CREATING),
    ],
)
def test_the_state_is_what_kubevirt_sums_up(said: str, state: MachineState) -> None:
    assert compute_state(vm(said)) is state


def test_a_vm_that_kubevirt_is_about_to_start_is_not_stopped() -> None:
    new = {"spec": {"runStrategy": "Once"}, "status": {"printableStatus": "Stopped"}}
    assert compute_state(new) is MachineState.CREATING
    ended = {"spec": {"runStrategy": "Once"}, "status": {"printableStatus": "Stopped", "created": True}}
    assert compute_state(ended) is MachineState.STOPPED
    released = {"spec": {"runStrategy": "Manual"}, "status": {"printableStatus": "Stopped"}}
    assert compute_state(released) is MachineState.STOPPED


def test_a_vm_without_status_is_being_made() -> None:
    assert compute_state({"metadata": {}, "spec": {}}) is MachineState.CREATING


@pytest.mark.parametrize(
    ("message", "reason", "fix"),
    [
        ("0/3 nodes are available: 3 Insufficient memory.", "InsufficientMemory", "lower spec.machine.memory"),
        ("0/3 nodes are available: 3 Insufficient cpu.", "InsufficientCPU", "lower spec.machine.cpus"),
        ("0/1 nodes are available: 1 Insufficient devices.kubevirt.io/kvm.", "NoKVM", "useEmulation"),
        ("0/1 nodes are available: 1 node(s) had untolerated taint.", "Unschedulable", "untolerated taint"),
    ],
)
def test_no_room_is_told_with_the_fix_and_may_pass(message: str, reason: str, fix: str) -> None:
    instance = condition("PodScheduled", "False", "Unschedulable", message)
    problem = find_problem(vm("ErrorUnschedulable"), instance, [])
    assert problem is not None
    assert (problem.reason, problem.passes) == (reason, True)
    assert fix in problem.message


@pytest.mark.parametrize("waiting", ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"])
@pytest.mark.parametrize("where", ["initContainerStatuses", "containerStatuses"])
def test_an_image_that_cannot_be_pulled_needs_a_person(waiting: str, where: str) -> None:
    pod = {"status": {where: [{"image": "registry.example/node:v1", "state": {"waiting": {"reason": waiting}}}]}}
    problem = find_problem(vm("Starting"), None, [pod])
    assert problem is not None
    assert (problem.reason, problem.passes) == ("ImagePullFailed", False)
    assert "registry.example/node:v1" in problem.message
    assert "capn image containerdisk" in problem.message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('pods "virt-launcher-a-x2b4c" is forbidden: exceeded quota: q', "QuotaExceeded"),
        ('pods "virt-launcher-a-x2b4c" is forbidden: violates PodSecurity "restricted:latest"', "PodSecurityRefused"),
        ("something else", "FailedCreate"),
    ],
)
def test_a_refused_pod_is_told_without_its_random_name(message: str, reason: str) -> None:
    problem = find_problem(vm("Starting"), condition("Synchronized", "False", "FailedCreate", message), [])
    assert problem is not None
    assert problem.reason == reason
    assert "x2b4c" not in problem.message


@pytest.mark.parametrize("said", ["ErrorPvcNotFound", "DataVolumeError", "WaitingForVolumeBinding"])
def test_a_disk_that_is_not_there_is_told_and_may_come(said: str) -> None:
    problem = find_problem(vm(said), None, [])
    assert problem is not None
    assert (problem.reason, problem.passes) == ("DiskNotReady", True)


def test_a_vm_on_its_way_has_no_problem() -> None:
    assert find_problem(vm("Starting"), {"status": {"phase": "Scheduling"}}, [{"status": {}}]) is None


def test_a_paused_vm_says_how_to_resume_it() -> None:
    paused = find_problem(vm("Paused"), condition("Paused", "True", "PausedByUser"), [])
    assert paused == Problem("MachinePaused", "the VM is paused; resume it with `virtctl unpause vm`", passes=True)
    full = find_problem(vm("Paused"), condition("Paused", "True", "PausedIOError"), [])
    assert full is not None
    assert full.reason == "DiskFull"


def test_a_stamp_is_read_back() -> None:
    obj = {"metadata": build_metadata("team", "demo-cp-0", build_stamp(MACHINE))}
    assert read_machine_ref(obj) == MACHINE
    assert read_stamp({"metadata": {"annotations": {}}}) is None


def test_names_are_the_machines_own_unless_namespaces_share_one() -> None:
    own, shared = Place(None), Place("vms")
    assert (own.of(CLUSTER), own.machine(MACHINE)) == ("team", "demo-cp-0")
    other = MachineRef(cluster=ClusterRef("other", "demo", "c2"), name="demo-cp-0", uid="m2")
    assert shared.of(CLUSTER) == "vms"
    assert shared.machine(MACHINE) != shared.machine(other)
    longest = MachineRef(cluster=CLUSTER, name="d" * 63, uid="m3")
    for name in (own.node_service(longest), shared.machine(longest), shared.node_service(longest)):
        assert len(name) <= 63


def test_a_node_port_needs_a_host() -> None:
    with pytest.raises(ValueError, match="endpoint_host"):
        Settings(endpoints={"kubevirt": {"default": {"kind": "kubevirt", "service_type": "NodePort"}}})


def api_service(kind: str, *, host: str | None = None, ingress: str | None = None) -> dict[str, Any]:
    """A Service as a server returns it; `host` None: made before hosts were recorded."""
    port = {"port": 6443} | ({} if kind == "ClusterIP" else {"nodePort": 30001})
    annotations = {} if host is None else {names.ANNOTATION_ENDPOINT_HOST: host}
    return {
        "metadata": {"namespace": "team", "name": "api-demo", "annotations": annotations},
        "spec": {"type": kind, "clusterIP": "10.0.0.9", "ports": [port]},
        "status": {"loadBalancer": {"ingress": [{"ip": ingress}]} if ingress else {}},
    }


CLUSTER_IP = KubeVirtEndpoint()
NAMED = KubeVirtEndpoint(endpoint_host="name.example")
NODE_PORT = KubeVirtEndpoint(service_type="NodePort", endpoint_host="node.example")
BALANCED = KubeVirtEndpoint(service_type="LoadBalancer")


@pytest.mark.parametrize(
    ("endpoint", "service", "expected"),
    [
        (CLUSTER_IP, api_service("ClusterIP"), ("10.0.0.9", 6443)),
        (NAMED, api_service("ClusterIP"), ("name.example", 6443)),
        (NODE_PORT, api_service("NodePort"), ("node.example", 30001)),
        (BALANCED, api_service("LoadBalancer", ingress="192.0.2.7"), ("192.0.2.7", 6443)),
    ],
)
def test_the_endpoint_is_where_the_settings_say(
    endpoint: KubeVirtEndpoint, service: dict[str, Any], expected: tuple[str, int]
) -> None:
    seen = compute_endpoint(service, endpoint)
    assert (seen.endpoint_host, seen.endpoint_port) == expected


@pytest.mark.parametrize("now", [CLUSTER_IP, NAMED, NODE_PORT, BALANCED])
@pytest.mark.parametrize(
    ("service", "expected"),
    [
        (api_service("ClusterIP", host=""), ("10.0.0.9", 6443)),
        (api_service("ClusterIP", host="old.example"), ("old.example", 6443)),
        (api_service("NodePort", host="old.example"), ("old.example", 30001)),
        (api_service("LoadBalancer", host="", ingress="192.0.2.7"), ("192.0.2.7", 6443)),
    ],
)
def test_a_cluster_keeps_the_endpoint_that_it_was_made_with(
    now: KubeVirtEndpoint, service: dict[str, Any], expected: tuple[str, int]
) -> None:
    seen = compute_endpoint(service, now)
    assert (seen.endpoint_host, seen.endpoint_port) == expected


@pytest.mark.parametrize("now", [NODE_PORT, BALANCED])
def test_a_service_that_recorded_no_host_is_read_by_its_own_type(now: KubeVirtEndpoint) -> None:
    seen = compute_endpoint(api_service("ClusterIP"), now)
    assert (seen.endpoint_host, seen.endpoint_port) == ("10.0.0.9", 6443)


def test_a_node_port_whose_host_nobody_knows_any_more_says_where_to_write_it() -> None:
    with pytest.raises(
        InvalidSpecError, match=r"kubectl annotate service -n team api-demo capn\.dev/endpoint-host=HOST"
    ):
        compute_endpoint(api_service("NodePort"), NAMED)


async def test_the_host_is_recorded_when_the_service_is_made() -> None:
    rig = await open_rig(NAMED)
    made = await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    service = await rig.world.get(SERVICE, "api-demo", "tenant")
    assert service is not None
    assert compute_endpoint(service, CLUSTER_IP) == made
    assert made.endpoint_host == "name.example"


def test_a_load_balancer_without_address_is_waited_for() -> None:
    with pytest.raises(TransientError, match="team/api-demo has no address yet") as caught:
        compute_endpoint(api_service("LoadBalancer"), BALANCED)
    assert caught.value.reason == "WaitingForLoadBalancer"


async def open_rig(endpoint: KubeVirtEndpoint | None = None) -> SimulatedKubeVirtRig:
    world = KubeVirtWorld()
    await world.prepare()
    return SimulatedKubeVirtRig(world, endpoint)


async def test_a_lost_endpoint_is_made_again_where_it_was() -> None:
    rig = await open_rig()
    made = await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    await rig.world.delete(SERVICE, "api-demo", "tenant")
    assert await rig.provider.observe_cluster(cluster_ref()) is None
    request = dataclasses.replace(cluster_request(cluster_ref()), endpoint_host=made.endpoint_host)
    again = await rig.provider.ensure_cluster(request)
    assert again == made


async def test_the_services_of_the_hosting_cluster_are_not_to_be_overlapped() -> None:
    rig = await open_rig()
    with pytest.raises(InvalidSpecError, match=r"10\.77\.0\.0/16"):
        await rig.provider.ensure_cluster(cluster_request(cluster_ref(), pod_cidr="10.77.0.0/20"))


async def test_objects_of_others_are_left_alone() -> None:
    rig = await open_rig()
    await rig.world.create(SERVICE, {"metadata": {"name": "api-demo", "namespace": "tenant"}, "spec": {}})
    with pytest.raises(OwnershipError, match="rename or remove"):
        await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    assert await rig.provider.delete_cluster(cluster_ref())
    assert await rig.world.get(SERVICE, "api-demo", "tenant") is not None


async def test_a_vm_that_ends_before_its_bootstrap_is_made_anew() -> None:
    rig = await open_rig()
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    await rig.provider.ensure_machine(request)
    before = await rig.world.get(VIRTUAL_MACHINE, request.ref.name, "tenant")
    await rig.stop_vm(request.ref)
    with pytest.raises(TransientError, match="making it anew"):
        await rig.provider.ensure_machine(request)
    assert (await rig.provider.ensure_machine(request)).state is MachineState.RUNNING
    after = await rig.world.get(VIRTUAL_MACHINE, request.ref.name, "tenant")
    assert before is not None
    assert after is not None
    assert before["metadata"]["uid"] != after["metadata"]["uid"]


async def test_heartbeats_are_not_announced_and_changes_of_state_are() -> None:
    rig = await open_rig()
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    await rig.provider.ensure_machine(request)
    changes = aiter(rig.provider.changes())
    announced = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0.05)
    running = {"printableStatus": "Running", "ready": True, "created": True}
    await rig.world.set_status(request.ref.name, "tenant", {**running, "observedGeneration": 7})
    await asyncio.sleep(0.05)
    assert not announced.done()
    await rig.world.set_status(request.ref.name, "tenant", {**running, "printableStatus": "Paused"})
    assert await asyncio.wait_for(announced, 5) == request.ref
    await changes.aclose()  # type: ignore[attr-defined]


async def test_what_changes_while_the_api_refuses_is_announced_later() -> None:
    rig = await open_rig()
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    await rig.provider.ensure_machine(request)
    changes = aiter(rig.provider.changes())
    announced = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0.05)
    rig.world.refusals = 1
    rig.world.drop_watches()
    await rig.stop_vm(request.ref)
    assert await asyncio.wait_for(announced, 10) == request.ref
    assert rig.world.refusals == 0
    await changes.aclose()  # type: ignore[attr-defined]


async def test_changes_are_followed_by_the_connection_that_is_good_now() -> None:
    rig = await open_rig()
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    await rig.provider.ensure_machine(request)
    ended = KubeVirtWorld()
    ended.refusals = 1_000_000
    given: list[KubeVirtWorld] = [ended]

    async def connect() -> KubeVirtWorld:
        return given[-1]

    changes = aiter(ObjectChanges(connect, VIRTUAL_MACHINE, None, read_machine_ref, read_essence).follow())
    announced = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0.05)
    assert ended.refusals < 1_000_000
    given.append(rig.world)
    await asyncio.sleep(1.6)  # until it has tried again
    await rig.stop_vm(request.ref)
    assert await asyncio.wait_for(announced, 10) == request.ref
    await changes.aclose()  # type: ignore[attr-defined]


async def test_a_vm_of_another_owner_has_no_say() -> None:
    rig = await open_rig()
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    await rig.provider.ensure_machine(control_plane(cluster_ref()))
    stranger = MachineRef(cluster=cluster_ref(), name="demo-cp-0", uid="another")
    provider: KubeVirtProvider = rig.provider
    assert await provider.observe_machine(stranger) is None
    assert await provider.delete_machine(stranger)
    assert await rig.world.get(VIRTUAL_MACHINE, "demo-cp-0", "tenant") is not None


async def test_deleting_a_cluster_takes_the_seed_of_a_forgotten_vm_whose_guest_takes_its_time() -> None:
    rig = await open_rig()
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    await rig.provider.ensure_machine(request)
    rig.world.lingers = True
    assert not await rig.provider.delete_cluster(cluster_ref())
    assert not await rig.provider.delete_cluster(cluster_ref())
    await rig.world.end(request.ref.name, "tenant", phase=None)
    assert await rig.provider.delete_cluster(cluster_ref())
    assert not any(await rig.inventory())
