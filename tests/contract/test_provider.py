"""The contract of `capn.providers.base.Provider`: every provider passes it, the real one with real VMs."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from capn import names
from capn.api.resources import PERSISTENT_VOLUME_CLAIM
from capn.build.report import Report, ReportParser
from capn.dev.hypervisor import Hypervisor
from capn.errors import InvalidSpecError, NotFoundError, TerminalError, TransientError
from capn.providers.base import (
    ClusterRef,
    ClusterRequest,
    MachineRef,
    MachineRequest,
    MachineState,
    ObservedCluster,
    ObservedMachine,
    Problem,
    Provider,
)
from capn.settings import KubeVirtEndpoint
from tests.contract import provider_rigs
from tests.contract.provider_guest import build_image
from tests.contract.provider_rigs import (
    VERSION,
    DomainRig,
    KubeVirtRig,
    LibvirtRig,
    MemoryRig,
    OneImage,
    ParentRig,
    Rig,
    SimulatedKubeVirtRig,
    cluster_ref,
    cluster_request,
    control_plane,
    machine_request,
    worker,
)
from tests.harness.cloning_driver import SOURCE, build_source
from tests.harness.kubevirt_world import KubeVirtWorld

pytestmark = pytest.mark.timeout(600)
WHOLE = "CAPN_KUBEVIRT_CONTRACT"
ESSENTIAL = {
    "test_addresses_of_the_child_that_overlap_the_machines_are_refused",
    "test_a_machine_is_made_once_with_the_endpoints_address",
    "test_a_stopped_vm_is_started_again_as_it_was",
    "test_bootstrap_data_is_released_once_and_for_all",
    "test_the_console_tells_what_the_guest_reports",
    "test_a_vm_that_dies_is_announced",
    "test_observing_writes_nothing",
}
ESSENTIAL_OF_VOLUMES = {
    "test_bootstrap_data_is_released_once_and_for_all",
    "test_a_machine_that_is_switched_off_stays_off_and_comes_back_as_it_was",
}
_LIMIT_S = 240.0
_POLL_S = 0.1


@pytest.fixture(scope="module")
def hypervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hypervisor]:
    hypervisor = Hypervisor(tmp_path_factory.mktemp("hv"))
    hypervisor.start(timeout_s=120)
    yield hypervisor
    hypervisor.purge()
    assert hypervisor.leaks() == []


@pytest.fixture(
    params=[
        "memory",
        "failure-domains",
        "unnamed-machines",
        "simulated-kubevirt",
        "simulated-kubevirt-volumes",
        "parent",
        pytest.param("libvirt", marks=pytest.mark.libvirt),
        pytest.param("kubevirt", marks=pytest.mark.kubevirt),
        pytest.param("kubevirt-volumes", marks=pytest.mark.kubevirt),
    ]
)
async def rig(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    rig: Rig
    if request.param == "memory":
        rig = MemoryRig()
    elif request.param == "failure-domains":
        monkeypatch.setattr(provider_rigs, "failure_domains", DomainRig.domains[::-1])
        rig = DomainRig()
    elif request.param == "unnamed-machines":
        rig = DomainRig()  # of machines that were made before there were domains
    elif request.param == "simulated-kubevirt":
        world = KubeVirtWorld()
        await world.prepare()
        rig = SimulatedKubeVirtRig(world)
    elif request.param == "simulated-kubevirt-volumes":
        world = KubeVirtWorld()
        await world.prepare()
        await world.create(PERSISTENT_VOLUME_CLAIM, build_source("tenant"))
        endpoint = KubeVirtEndpoint(versions=(VERSION,), root_disk="persistentVolumeClaim", volume_source=SOURCE)
        rig = SimulatedKubeVirtRig(world, endpoint, disk_survives=True)
    elif request.param == "parent":
        rig = await ParentRig.open()
    elif request.param == "kubevirt":
        skip_unless(request, ESSENTIAL)
        rig = await KubeVirtRig.open(request.getfixturevalue("ground"))
    elif request.param == "kubevirt-volumes":
        skip_unless(request, ESSENTIAL_OF_VOLUMES)
        rig = await KubeVirtRig.open(request.getfixturevalue("ground"), volumes=True)
    else:
        rig = LibvirtRig(request.getfixturevalue("hypervisor"), OneImage(build_image(tmp_path / "image")))
    try:
        yield rig
        # The leak oracle: a test that made clusters removes them here, whatever is in them, and then nothing is left.
        for name in ("demo", "other"):
            await gone(rig.provider, cluster_ref(name))
        left = await rig.inventory()
        assert not any(left), left
    finally:
        await rig.close()


def skip_unless(request: pytest.FixtureRequest, essential: set[str]) -> None:
    """A VM on KubeVirt takes ten times as long as one on libvirt: CI proves what differs, `make test-kubevirt` all."""
    if WHOLE not in os.environ and request.node.originalname not in essential:
        pytest.skip(f"{WHOLE} is not set: the whole contract on real KubeVirt is `make test-kubevirt`")


async def network(provider: Provider, request: ClusterRequest) -> ObservedCluster:
    """The cluster's network once it is there, asked for as the controller does."""
    async with asyncio.timeout(_LIMIT_S):
        while True:
            try:
                return await provider.ensure_cluster(request)
            except TransientError as error:
                if error.reason != "WaitingForParent":
                    raise
            await asyncio.sleep(_POLL_S)


async def running(provider: Provider, request: MachineRequest) -> ObservedMachine:
    """The machine once its VM runs, asked for as the controller does: again and again."""
    async with asyncio.timeout(_LIMIT_S):
        while True:
            try:
                made = await provider.ensure_machine(request)
            except TransientError as error:
                if error.reason == "WaitingForNetwork":
                    raise
            else:
                if made.state is MachineState.RUNNING:
                    return made
            await asyncio.sleep(_POLL_S)


async def without_seed(provider: Provider, ref: MachineRef) -> ObservedMachine:
    """The machine once its seed is gone."""
    async with asyncio.timeout(_LIMIT_S):
        while True:
            seen = await provider.observe_machine(ref)
            assert seen is not None
            if not seen.seed_attached:
                return seen
            await asyncio.sleep(_POLL_S)


async def past_bootstrap(rig: Rig, request: MachineRequest) -> ObservedMachine:
    """The machine once nothing brings its VM back after `end`."""
    seen = await running(rig.provider, request)
    if not rig.restarts:
        return seen
    await rig.provider.release_bootstrap_data(request.ref)
    return await without_seed(rig.provider, request.ref)


async def end(rig: Rig, ref: MachineRef) -> None:
    """End the VM of a machine that is past its bootstrap, so that it stays so."""
    await (rig.lose_vm(ref) if rig.restarts else rig.stop_vm(ref))


async def next_machine(changes: AsyncIterator[MachineRef | ClusterRef]) -> MachineRef:
    """The next machine that is announced."""
    while True:
        ref = await anext(changes)
        if isinstance(ref, MachineRef):
            # Of a machine that was made before there were domains it is told where it was found.
            unnamed = provider_rigs.failure_domains == ("",)
            return dataclasses.replace(ref, failure_domain="") if unnamed else ref


async def seen_in(provider: Provider, ref: MachineRef, *states: MachineState) -> ObservedMachine:
    """The machine once it is in one of the states."""
    async with asyncio.timeout(_LIMIT_S):
        while True:
            seen = await provider.observe_machine(ref)
            if seen is not None and seen.state in states:
                return seen
            await asyncio.sleep(_POLL_S)


async def seen_with_problem(provider: Provider, ref: MachineRef) -> Problem:
    """What keeps the machine from running, once it is known."""
    async with asyncio.timeout(_LIMIT_S):
        while True:
            seen = await provider.observe_machine(ref)
            if seen is not None and seen.problem is not None and not seen.problem.passes:
                return seen.problem
            await asyncio.sleep(_POLL_S)


async def deleted(provider: Provider, ref: MachineRef) -> None:
    """Delete the machine until nothing is left."""
    async with asyncio.timeout(_LIMIT_S):
        while not await provider.delete_machine(ref):
            await asyncio.sleep(_POLL_S)


async def gone(provider: Provider, ref: ClusterRef) -> None:
    """Delete the cluster until nothing is left."""
    async with asyncio.timeout(_LIMIT_S):
        while not await provider.delete_cluster(ref):
            await asyncio.sleep(_POLL_S)


async def lost(provider: Provider, ref: MachineRef) -> None:
    """Wait until the provider sees that the VM is gone."""
    async with asyncio.timeout(_LIMIT_S):
        while await provider.observe_machine(ref) is not None:
            await asyncio.sleep(_POLL_S)


async def first_report(provider: Provider, ref: MachineRef) -> Report:
    parser = ReportParser()
    async with asyncio.timeout(60):
        async for chunk in provider.console(ref):
            for report in parser.feed(chunk):
                return report
    raise AssertionError("the console ended without a report")


async def test_a_cluster_is_made_once_and_seen(rig: Rig) -> None:
    ref = cluster_ref()
    assert await rig.provider.observe_cluster(ref) is None
    cluster = await network(rig.provider, cluster_request(ref))
    before = await rig.inventory()
    assert await network(rig.provider, cluster_request(ref)) == cluster
    assert await rig.provider.observe_cluster(ref) == cluster
    assert await rig.inventory() == before
    if cluster.machine_cidr is not None:
        assert IPv4Address(cluster.endpoint_host) in IPv4Network(cluster.machine_cidr)
    assert cluster.endpoint_port == 6443


async def test_two_clusters_made_at_once_have_disjoint_networks(rig: Rig) -> None:
    requests = [cluster_request(cluster_ref(name)) for name in ("demo", "other")]
    one, two = await asyncio.gather(*(network(rig.provider, request) for request in requests))
    if one.machine_cidr is not None and two.machine_cidr is not None:
        assert not IPv4Network(one.machine_cidr).overlaps(IPv4Network(two.machine_cidr))
    assert one.endpoint_host != two.endpoint_host


@pytest.mark.parametrize("field", ["pod_cidr", "service_cidr"])
async def test_addresses_of_the_child_that_overlap_the_machines_are_refused(rig: Rig, field: str) -> None:
    value = rig.collides
    whole = cluster_request(cluster_ref())
    request = (
        dataclasses.replace(whole, pod_cidr=value)
        if field == "pod_cidr"
        else dataclasses.replace(whole, service_cidr=value)
    )
    before = await rig.inventory()
    with pytest.raises(InvalidSpecError, match="choose another network") as caught:
        await network(rig.provider, request)
    assert caught.value.reason == "CIDRCollision"
    assert caught.value.field == {"pod_cidr": "spec.network.podCIDR"}.get(field, "spec.network.serviceCIDR")
    assert await rig.inventory() == before


async def test_a_malformed_network_is_refused_by_field(rig: Rig) -> None:
    with pytest.raises(InvalidSpecError, match=r"spec\.network\.podCIDR: 10\.244\.0\.1/16 is no IPv4 network"):
        await network(rig.provider, cluster_request(cluster_ref(), pod_cidr="10.244.0.1/16"))


async def test_a_machine_is_made_once_with_the_endpoints_address(rig: Rig) -> None:
    cluster = await network(rig.provider, cluster_request(cluster_ref()))
    # Not the name that a control plane has at home: a claimed machine has one of its parent's making.
    request = machine_request(cluster_ref(), "demo-cp-0-ff46c2", role=names.ROLE_CONTROL_PLANE, ordinal=0)
    assert await rig.provider.observe_machine(request.ref) is None
    await rig.provider.plan_machine(request)
    address = await rig.provider.ensure_address(request.ref)
    made = await running(rig.provider, request)
    assert (address is not None) == rig.provider.keeps_addresses
    if cluster.virtual:
        assert cluster.endpoint_host not in made.addresses
        assert len(made.addresses) == 1
    else:
        assert made.addresses == ((address or cluster.endpoint_host),)
    assert await rig.provider.ensure_address(request.ref) == address
    assert made.seed_attached
    assert made.provider_id == names.build_provider_id(
        rig.provider.kind,
        namespace="tenant",
        cluster="demo",
        machine="demo-cp-0-ff46c2",
        machine_uid=request.ref.uid,
    )
    before = await rig.inventory()
    assert await rig.provider.ensure_machine(request) == made
    assert await rig.provider.observe_machine(request.ref) == made
    assert await rig.inventory() == before


async def test_machines_made_at_once_are_one_vm_each_with_an_address_each(rig: Rig) -> None:
    cluster = await network(rig.provider, cluster_request(cluster_ref()))
    requests = [worker(cluster_ref(), ordinal) for ordinal in range(3)]
    seen = await asyncio.gather(*(running(rig.provider, request) for request in [*requests, *requests]))
    addresses = {machine.addresses for machine in seen}
    assert len({machine.provider_id for machine in seen}) == len(addresses) == 3
    for (address,) in addresses:
        if cluster.machine_cidr is not None:
            assert IPv4Address(address) in IPv4Network(cluster.machine_cidr)
        assert address != cluster.endpoint_host


async def test_a_machine_without_its_network_waits(rig: Rig) -> None:
    with pytest.raises(TransientError, match="network") as caught:
        await rig.provider.ensure_machine(control_plane(cluster_ref()))
    assert caught.value.reason == "WaitingForNetwork"


async def test_a_stopped_vm_is_started_again_as_it_was(rig: Rig) -> None:
    await network(rig.provider, cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    made = await running(rig.provider, request)
    await rig.stop_vm(request.ref)
    if not rig.restarts:
        await seen_in(rig.provider, request.ref, MachineState.STOPPED, MachineState.CRASHED)
    assert await running(rig.provider, request) == made


async def test_bootstrap_data_is_released_once_and_for_all(rig: Rig) -> None:
    await network(rig.provider, cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    await running(rig.provider, request)
    for _again in range(2):
        await rig.provider.release_bootstrap_data(request.ref)
    released = await without_seed(rig.provider, request.ref)
    assert released.state is MachineState.RUNNING
    past_bootstrap = dataclasses.replace(request, bootstrap_data=None)
    assert await rig.provider.ensure_machine(past_bootstrap) == released
    await rig.stop_vm(request.ref)
    if rig.disk_survives:
        if not rig.restarts:
            await seen_in(rig.provider, request.ref, MachineState.STOPPED, MachineState.CRASHED, MachineState.CREATING)
        assert await running(rig.provider, past_bootstrap) == released
        return
    await seen_in(rig.provider, request.ref, MachineState.STOPPED, MachineState.CRASHED)
    with pytest.raises(TerminalError, match="delete this NestedMachine") as caught:
        await rig.provider.ensure_machine(past_bootstrap)
    assert caught.value.reason == "MachineVanished"


async def switched_off(rig: Rig, ref: MachineRef) -> None:
    """Ask until the VM is off, as the controller does; a guest that does not hear loses its power."""
    async with asyncio.timeout(_LIMIT_S):
        while not await rig.provider.stop_machine(ref, force=not rig.hears):
            await asyncio.sleep(_POLL_S)


async def past_bootstrap_for_good(rig: Rig, request: MachineRequest) -> ObservedMachine:
    """The machine once it runs without its bootstrap data, as it does when it may be switched off."""
    await running(rig.provider, request)
    await rig.provider.release_bootstrap_data(request.ref)
    return await without_seed(rig.provider, request.ref)


async def test_a_machine_that_is_switched_off_stays_off_and_comes_back_as_it_was(rig: Rig) -> None:
    await network(rig.provider, cluster_request(cluster_ref()))
    request, other = control_plane(cluster_ref()), worker(cluster_ref())
    made = await past_bootstrap_for_good(rig, request)
    beside = await running(rig.provider, other)
    if not rig.disk_survives:
        with pytest.raises(TerminalError, match="root_disk") as caught:
            await rig.provider.stop_machine(request.ref, force=False)
        assert caught.value.reason == "DiskNotPersistent"
        assert await rig.provider.observe_machine(request.ref) == made
        return
    await switched_off(rig, request.ref)
    off = await rig.provider.observe_machine(request.ref)
    assert off is not None
    assert off.state is MachineState.STOPPED
    assert off.problem is None
    assert (off.provider_id, off.addresses) == (made.provider_id, made.addresses)
    before = await rig.inventory()
    successor = await rig.reopen()
    for force in (False, True):
        assert await rig.provider.stop_machine(request.ref, force=force)
        assert await successor.stop_machine(request.ref, force=force)
    assert await rig.inventory() == before
    assert await rig.provider.observe_machine(other.ref) == beside
    again = dataclasses.replace(request, bootstrap_data=None)
    assert await running(rig.provider, again) == made


async def test_a_machine_that_shall_run_after_all_runs_in_the_end(rig: Rig) -> None:
    if not rig.disk_survives:
        pytest.skip("what runs from a containerDisk is not switched off at all")
    await network(rig.provider, cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    made = await past_bootstrap_for_good(rig, request)
    await rig.provider.stop_machine(request.ref, force=False)
    again = dataclasses.replace(request, bootstrap_data=None)
    await rig.provider.ensure_machine(again)
    assert await running(rig.provider, again) == made
    # Nothing that was on its way ends it later.
    await asyncio.sleep(1)
    assert await running(rig.provider, again) == made


async def test_that_a_machine_is_off_is_announced(rig: Rig) -> None:
    if not rig.disk_survives:
        pytest.skip("what runs from a containerDisk is not switched off at all")
    await network(rig.provider, cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    await past_bootstrap_for_good(rig, request)
    changes = aiter(rig.provider.changes())
    announced = asyncio.ensure_future(next_machine(changes))
    await asyncio.sleep(1)
    await switched_off(rig, request.ref)
    async with asyncio.timeout(10):
        assert await announced == request.ref
    await changes.aclose()  # type: ignore[attr-defined]


async def test_a_machine_that_is_off_is_deleted_as_any_other(rig: Rig) -> None:
    request = control_plane(cluster_ref())
    assert await rig.provider.stop_machine(request.ref, force=False)  # there is none
    await network(rig.provider, cluster_request(cluster_ref()))
    await past_bootstrap_for_good(rig, request)
    if rig.disk_survives:
        await switched_off(rig, request.ref)
    await deleted(rig.provider, request.ref)
    assert await rig.provider.observe_machine(request.ref) is None
    assert await rig.provider.stop_machine(request.ref, force=True)


async def test_releasing_what_is_not_there_is_fine(rig: Rig) -> None:
    await rig.provider.release_bootstrap_data(control_plane(cluster_ref()).ref)


async def test_a_vm_that_vanished_after_its_bootstrap_is_not_made_anew(rig: Rig) -> None:
    await network(rig.provider, cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    await past_bootstrap(rig, request)
    await rig.lose_vm(request.ref)
    await lost(rig.provider, request.ref)
    with pytest.raises(TerminalError, match="delete this NestedMachine") as caught:
        await rig.provider.ensure_machine(dataclasses.replace(request, bootstrap_data=None))
    assert caught.value.reason == "MachineVanished"


async def test_deleting_works_at_every_stage_and_again(rig: Rig) -> None:
    request = control_plane(cluster_ref())
    assert await rig.provider.delete_machine(request.ref)
    assert await rig.provider.delete_cluster(request.ref.cluster)
    await network(rig.provider, cluster_request(cluster_ref()))
    assert await rig.provider.delete_machine(request.ref)
    await rig.provider.ensure_machine(request)
    await rig.stop_vm(request.ref)
    for _again in range(2):
        await deleted(rig.provider, request.ref)
        assert await rig.provider.observe_machine(request.ref) is None
    for _again in range(2):
        await gone(rig.provider, request.ref.cluster)
        assert await rig.provider.observe_cluster(request.ref.cluster) is None


async def test_deleting_a_cluster_takes_machines_that_were_forgotten(rig: Rig) -> None:
    for name in ("demo", "other"):
        await network(rig.provider, cluster_request(cluster_ref(name)))
        await running(rig.provider, control_plane(cluster_ref(name)))
    await gone(rig.provider, cluster_ref("demo"))
    assert await rig.provider.observe_machine(control_plane(cluster_ref("demo")).ref) is None
    other = await rig.provider.observe_machine(control_plane(cluster_ref("other")).ref)
    assert other is not None
    assert other.state is MachineState.RUNNING


async def test_the_console_tells_what_the_guest_reports(rig: Rig) -> None:
    await network(rig.provider, cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    await running(rig.provider, request)
    report = await first_report(rig.provider, request.ref)
    assert report.seq > 0
    # A controller that starts late, or again, hears it too.
    again = await first_report(await rig.reopen(), request.ref)
    assert again.seq >= report.seq


async def test_a_console_ends_with_its_vm(rig: Rig) -> None:
    await network(rig.provider, cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    await past_bootstrap(rig, request)
    await first_report(rig.provider, request.ref)

    async def read_to_the_end() -> None:
        async for _chunk in rig.provider.console(request.ref):
            pass

    reader = asyncio.create_task(read_to_the_end())
    await asyncio.sleep(0.5)
    assert not reader.done()
    await end(rig, request.ref)
    await asyncio.wait_for(reader, 30)


async def test_a_machine_without_vm_has_no_console(rig: Rig) -> None:
    with pytest.raises(NotFoundError):
        await anext(aiter(rig.provider.console(control_plane(cluster_ref()).ref)))


async def test_a_vm_that_dies_is_announced(rig: Rig) -> None:
    await network(rig.provider, cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    await past_bootstrap(rig, request)
    changes = aiter(rig.provider.changes())
    announced = asyncio.ensure_future(next_machine(changes))
    await asyncio.sleep(1)
    await end(rig, request.ref)
    assert await asyncio.wait_for(announced, 10) == request.ref
    await changes.aclose()  # type: ignore[attr-defined]


async def test_an_unknown_version_is_refused_with_the_fix(rig: Rig) -> None:
    request = control_plane(cluster_ref(), version="v1.98.0")
    if not rig.plans:
        await network(rig.provider, cluster_request(cluster_ref()))
        await rig.provider.ensure_machine(request)
        problem = await seen_with_problem(rig.provider, request.ref)
        assert problem.reason == "ImageNotFound"
        assert "capn image build --version v1.98.0" in problem.message
        return
    with pytest.raises(InvalidSpecError, match=r"capn image build --version v1\.98\.0") as caught:
        await rig.provider.plan_machine(request)
    assert caught.value.reason == "ImageNotFound"


async def test_more_memory_than_the_host_has_is_refused_with_a_steady_message(rig: Rig) -> None:
    if not rig.knows_memory:
        pytest.skip(
            "room on the hosts is the scheduler's to find; tests/unit/providers/test_kubevirt.py has what is said"
        )
    request = control_plane(cluster_ref(), memory_mib=1 << 24)
    with pytest.raises(TerminalError, match="lower the memory") as caught:
        await rig.provider.plan_machine(request)
    assert caught.value.reason == "InsufficientMemory"


async def test_another_controller_adopts_what_is_there(rig: Rig) -> None:
    cluster = await network(rig.provider, cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    made = await running(rig.provider, request)
    before = await rig.inventory()
    successor = await rig.reopen()
    assert await network(successor, cluster_request(cluster_ref())) == cluster
    assert await successor.observe_machine(request.ref) == made
    assert await successor.ensure_machine(request) == made
    assert await rig.inventory() == before


async def test_a_daemon_that_restarts_changes_nothing(rig: Rig) -> None:
    cluster = await network(rig.provider, cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    made = await past_bootstrap(rig, request)
    changes = aiter(rig.provider.changes())
    announced = asyncio.ensure_future(next_machine(changes))
    await asyncio.sleep(1)
    await rig.blink()
    assert await rig.provider.observe_machine(request.ref) == made
    assert await rig.provider.ensure_machine(request) == made
    assert await network(rig.provider, cluster_request(cluster_ref())) == cluster
    # What changed meanwhile is announced, or the next change is: the stream must not have died unnoticed.
    await end(rig, request.ref)
    assert await asyncio.wait_for(announced, 60) == request.ref
    await changes.aclose()  # type: ignore[attr-defined]


async def test_observing_writes_nothing(rig: Rig) -> None:
    await network(rig.provider, cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    await running(rig.provider, request)
    before = await rig.inventory()
    for ref in (cluster_ref(), cluster_ref("other")):
        await rig.provider.observe_cluster(ref)
        await rig.provider.observe_machine(control_plane(ref).ref)
        await rig.provider.plan_machine(control_plane(ref))
    assert await rig.inventory() == before
