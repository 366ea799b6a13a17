"""What only the libvirt provider must hold: nothing foreign touched, no secret outside the seed, no host file used."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from xml.etree import ElementTree as ET

import libvirt
import pytest

from capn import names
from capn.dev.hypervisor import Hypervisor
from capn.errors import InvalidSpecError, OwnershipError, TerminalError, TransientError, UnreachableError
from capn.providers.base import MachineState
from capn.providers.images import NoImages
from capn.providers.libvirt.connection import Session
from capn.providers.libvirt.domains import domain_name
from capn.providers.libvirt.networks import network_name
from capn.providers.libvirt.provider import LibvirtProvider
from capn.providers.libvirt.volumes import disk_volume, ensure_pool, seed_volume
from capn.settings import LibvirtEndpoint
from tests.contract.provider_guest import build_image
from tests.contract.provider_rigs import (
    CANARY,
    LibvirtRig,
    OneImage,
    cluster_ref,
    cluster_request,
    control_plane,
    worker,
)
from tests.harness.neighbour import Neighbour, on_bridge
from tests.unit.build.libvirt_samples import SAMPLES

pytestmark = [pytest.mark.libvirt, pytest.mark.timeout(300)]

_FOREIGN = """
<domain type="qemu"><name>{name}</name><uuid>{uuid}</uuid><memory unit="MiB">32</memory>
<os><type>hvm</type></os></domain>
"""
_SHARED = """
<network><name>shared</name><forward mode="nat"/><bridge name="capnshared"/>
<ip address="10.77.0.1" netmask="255.255.255.0"><dhcp>
<range start="10.77.0.20" end="10.77.0.254"/></dhcp></ip></network>
"""


@pytest.fixture(scope="module")
def hypervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hypervisor]:
    hypervisor = Hypervisor(tmp_path_factory.mktemp("hv"))
    hypervisor.start(timeout_s=120)
    yield hypervisor
    hypervisor.purge()
    assert hypervisor.leaks() == []


@pytest.fixture
async def rig(hypervisor: Hypervisor, tmp_path: Path) -> AsyncIterator[LibvirtRig]:
    rig = LibvirtRig(hypervisor, OneImage(build_image(tmp_path / "image")))
    yield rig
    await rig.provider.delete_cluster(cluster_ref())
    await rig.close()
    with rig.connect() as conn:
        for domain in conn.listAllDomains():
            domain.undefine()
        assert rig.volumes(conn) == []
        assert conn.listAllNetworks() == []


def uuid_of(request_uid: str) -> str:
    return names.build_domain_uuid(request_uid)


@pytest.mark.parametrize("name", [name for name, (kind, _) in SAMPLES.items() if kind])
async def test_libvirts_own_schemas_accept_what_we_write(rig: LibvirtRig, name: str) -> None:
    kind, text = SAMPLES[name]
    assert kind is not None
    assert refusal(rig, kind, text) != libvirt.VIR_ERR_XML_INVALID_SCHEMA
    broken = text.replace("</name>", "</name><nonsense/>")
    assert refusal(rig, kind, broken) == libvirt.VIR_ERR_XML_INVALID_SCHEMA


def refusal(rig: LibvirtRig, kind: str, text: str) -> int | None:
    """libvirt's error code for the definition, or None when it took it (and it is removed again)."""
    with rig.connect() as conn:
        try:
            if kind == "domain":
                conn.defineXMLFlags(text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE).undefine()
            elif kind == "network":
                conn.networkDefineXMLFlags(text, libvirt.VIR_NETWORK_DEFINE_VALIDATE).undefine()
            elif kind == "pool":
                text = text.replace("/var/lib/libvirt/capn", "/var/lib/libvirt/sample").replace(">capn<", ">sample<")
                conn.storagePoolDefineXML(text, libvirt.VIR_STORAGE_POOL_DEFINE_VALIDATE).undefine()
            else:
                pool = ensure_pool(Session(conn, threading.Event()), rig.endpoint)
                pool.createXML(text, libvirt.VIR_STORAGE_VOL_CREATE_VALIDATE).delete()
        except libvirt.libvirtError as error:
            return int(error.get_error_code())
    return None


async def test_a_foreign_domain_of_our_name_is_left_alone(rig: LibvirtRig) -> None:
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    name, uuid = domain_name(request.ref), "11111111-2222-4333-8444-555555555555"
    with rig.connect() as conn:
        conn.defineXML(_FOREIGN.format(name=name, uuid=uuid))
    with pytest.raises(OwnershipError, match="rename or remove it"):
        await rig.provider.ensure_machine(request)
    assert await rig.provider.observe_machine(request.ref) is None
    assert await rig.provider.delete_machine(request.ref)
    assert await rig.provider.delete_cluster(cluster_ref())
    with rig.connect() as conn:
        assert conn.lookupByName(name).UUIDString() == uuid
        assert rig.volumes(conn) == []


async def test_a_domain_of_our_uuid_without_our_stamp_is_left_alone(rig: LibvirtRig) -> None:
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    with rig.connect() as conn:
        conn.defineXML(_FOREIGN.format(name="somebody", uuid=uuid_of(request.ref.uid)))
    with pytest.raises(OwnershipError):
        await rig.provider.ensure_machine(request)
    assert await rig.provider.delete_machine(request.ref)
    with rig.connect() as conn:
        assert conn.lookupByName("somebody").isPersistent()


async def test_a_foreign_network_of_our_name_is_left_alone(rig: LibvirtRig) -> None:
    name = network_name(cluster_ref())
    with rig.connect() as conn:
        foreign = conn.networkDefineXML(f"<network><name>{name}</name><bridge name='capnforeign'/></network>")
        with pytest.raises(OwnershipError, match="network"):
            await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
        assert await rig.provider.delete_cluster(cluster_ref())
        assert conn.networkLookupByName(name).UUIDString() == foreign.UUIDString()
        foreign.undefine()


async def test_the_seed_is_closed_to_others_and_gone_after_release(rig: LibvirtRig) -> None:
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    await rig.provider.ensure_machine(request)
    private = rig.hypervisor.state / "var/lib/libvirt/capn"
    seed = private / seed_volume(request.ref.uid)
    assert seed.stat().st_mode & 0o777 == 0o600
    assert CANARY.encode() in seed.read_bytes()
    assert (private / disk_volume(request.ref.uid)).stat().st_mode & 0o777 == 0o600
    await rig.provider.release_bootstrap_data(request.ref)
    assert not seed.exists()


async def test_no_secret_is_anywhere_but_in_the_seed(rig: LibvirtRig) -> None:
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    await rig.provider.ensure_machine(request)
    assert CANARY not in str(await rig.inventory())
    command_lines = rig.command_lines()
    assert domain_name(request.ref) in command_lines
    assert CANARY not in command_lines
    holders = [
        path.name
        for path in rig.hypervisor.state.rglob("*")
        if path.is_file() and path.suffix != ".qcow2" and CANARY.encode() in path.read_bytes()
    ]
    assert holders == [seed_volume(request.ref.uid)]
    assert CANARY not in repr(request)


async def test_the_controller_needs_no_file_of_the_hypervisor(rig: LibvirtRig) -> None:
    """The pool's paths are not there where the controller (this process) runs: it works through the API alone."""
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    await rig.provider.ensure_machine(control_plane(cluster_ref()))
    with rig.connect() as conn:
        paths = [volume.path() for volume in conn.storagePoolLookupByName("capn").listAllVolumes()]
    assert len(paths) == 6  # disk, seed, and the image's four
    assert not [path for path in paths if Path(path).exists()]


async def test_an_upload_that_was_cut_off_is_done_again(rig: LibvirtRig) -> None:
    image = rig.images.image
    name = await rig.provider.push_image(image.version)
    place = rig.hypervisor.state / "var/lib/libvirt/capn"
    (description,) = place.glob(f"capn-node-{name}.*.json")
    description.write_bytes(description.read_bytes()[:20])
    description.with_suffix(".vmlinuz").write_bytes(b"half")
    assert await rig.provider.list_images() == [name]  # by their names; which can be read is looked at before use
    assert await rig.provider.push_image(image.version) == name
    uploads = list(place.glob(f"capn-node-{name}.*.vmlinuz"))
    (half,), (whole,) = (
        [path for path in uploads if (path.read_bytes() == b"half") is is_half] for is_half in (True, False)
    )
    assert whole.read_bytes() == image.kernel.read_bytes()
    await _grow_old(rig, half.stem)
    assert await rig.provider.push_image(image.version) == name
    assert list(place.glob(f"capn-node-{name}.*.vmlinuz")) == [whole]
    await _remove_image(rig, name)


async def _grow_old(rig: LibvirtRig, stem: str) -> None:
    """Have an upload begin long ago."""
    place = rig.hypervisor.state / "var/lib/libvirt/capn"
    image, _, mark = stem.rpartition(".")
    for path in place.glob(f"{stem}.*"):
        path.rename(place / f"{image}.00000001{mark[8:]}{path.suffix}")
    with rig.connect() as conn:
        conn.storagePoolLookupByName("capn").refresh()


async def _remove_image(rig: LibvirtRig, name: str) -> None:
    with rig.connect() as conn:
        for volume in conn.storagePoolLookupByName("capn").listAllVolumes():
            if volume.name().startswith(f"capn-node-{name}"):
                volume.delete()


async def test_two_uploads_of_one_image_at_once_do_not_mix(rig: LibvirtRig) -> None:
    """A controller makes a machine while the administrator pushes its image."""
    image = dataclasses.replace(rig.images.image, digest="ee" * 32)
    providers = [LibvirtProvider(rig.endpoint, OneImage(image)) for _ in range(2)]
    names = await asyncio.gather(*(provider.push_image(image.version) for provider in providers))
    assert names[0] == names[1]
    place = rig.hypervisor.state / "var/lib/libvirt/capn"
    uploads = {path.stem for path in place.glob(f"capn-node-{names[0]}.*.json")}
    assert uploads == {path.stem for path in place.glob(f"capn-node-{names[0]}.*.qcow2")}  # no half one is left
    assert uploads
    for path in place.glob(f"capn-node-{names[0]}.*.qcow2"):
        assert path.read_bytes() == image.disk.read_bytes()
    for provider in providers:
        await provider.close()
    await _remove_image(rig, names[0])


@pytest.mark.parametrize("digests", [("aa" * 32, "11" * 32), ("11" * 32, "aa" * 32)])
async def test_of_two_images_of_a_version_the_last_one_is_taken(rig: LibvirtRig, digests: tuple[str, str]) -> None:
    """After an upgrade of capn, which has images built and pushed anew."""
    pushed = []
    for digest in digests:
        image = dataclasses.replace(rig.images.image, version="v9.9.9", digest=digest)
        pushing = LibvirtProvider(rig.endpoint, OneImage(image))
        pushed.append(await pushing.push_image("v9.9.9"))
        await pushing.close()
        if len(pushed) == 1:
            await _grow_old(rig, next(_stems(rig, pushed[0])))
    candidate = dataclasses.replace(rig.images.image, version="v9.9.9-rc.1", digest="ff" * 32)
    pushing = LibvirtProvider(rig.endpoint, OneImage(candidate))
    pushed.append(await pushing.push_image("v9.9.9-rc.1"))
    await pushing.close()
    bare = LibvirtProvider(rig.endpoint, NoImages())
    await bare.ensure_cluster(cluster_request(cluster_ref()))
    request = control_plane(cluster_ref(), image="v9.9.9")
    await bare.ensure_machine(request)
    with rig.connect() as conn:
        assert pushed[1] in conn.lookupByName(domain_name(request.ref)).XMLDesc()
    await bare.delete_machine(request.ref)
    await bare.close()
    for name in pushed:
        await _remove_image(rig, name)


def _stems(rig: LibvirtRig, name: str) -> Iterator[str]:
    return (path.stem for path in (rig.hypervisor.state / "var/lib/libvirt/capn").glob(f"capn-node-{name}.*.json"))


async def test_an_image_in_the_pool_needs_no_local_file(rig: LibvirtRig) -> None:
    steps: list[tuple[int, int]] = []
    image = dataclasses.replace(rig.images.image, digest="cd" * 32)
    pushing = LibvirtProvider(rig.endpoint, OneImage(image))
    name = await pushing.push_image(image.version, lambda sent, total: steps.append((sent, total)))
    total = sum(path.stat().st_size for path in (image.disk, image.kernel, image.initrd))
    assert steps[-1] == (total, total)
    await pushing.close()
    bare = LibvirtProvider(rig.endpoint, NoImages())
    assert name in await bare.list_images()
    await bare.ensure_cluster(cluster_request(cluster_ref()))
    request = control_plane(cluster_ref(), image=name)
    await bare.plan_machine(request)
    assert (await bare.ensure_machine(request)).state is MachineState.RUNNING
    with pytest.raises(InvalidSpecError, match="no node image"):
        await bare.push_image(image.version)
    await bare.close()


async def test_a_disk_smaller_than_the_image_is_refused(rig: LibvirtRig) -> None:
    big = dataclasses.replace(rig.images.image, minimum_disk_bytes=4 * 1024**3 + 1)
    provider = LibvirtProvider(rig.endpoint, OneImage(big))
    with pytest.raises(InvalidSpecError, match=r"spec\.machine\.disk: .* at least 5Gi"):
        await provider.plan_machine(control_plane(cluster_ref()))
    await provider.close()


async def test_a_half_made_machine_is_completed(rig: LibvirtRig) -> None:
    """A controller killed between disk and definition: volumes are there, half a seed, no domain."""
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    await rig.provider.ensure_machine(request)
    with rig.connect() as conn:
        domain = conn.lookupByName(domain_name(request.ref))
        domain.destroy()
        domain.undefine()
    seed = rig.hypervisor.state / "var/lib/libvirt/capn" / seed_volume(request.ref.uid)
    whole = seed.read_bytes()
    seed.write_bytes(whole[:4096])
    made = await rig.provider.ensure_machine(request)
    assert made.state is MachineState.RUNNING
    assert CANARY.encode() in seed.read_bytes()


async def test_a_half_made_machine_is_removed(rig: LibvirtRig) -> None:
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    request = worker(cluster_ref())
    await rig.provider.ensure_machine(request)
    with rig.connect() as conn:
        domain = conn.lookupByName(domain_name(request.ref))
        domain.destroy()
        domain.undefine()
        assert len(rig.volumes(conn)) == 2
        assert await rig.provider.delete_machine(request.ref)
        assert rig.volumes(conn) == []
        network = ET.fromstring(conn.networkLookupByName(network_name(cluster_ref())).XMLDesc())  # noqa: S314
        assert len(network.findall("ip/dhcp/host")) == 1  # the endpoint's stays


async def test_a_stopped_network_is_started_and_its_endpoint_kept(rig: LibvirtRig) -> None:
    made = await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    with rig.connect() as conn:
        conn.networkLookupByName(network_name(cluster_ref())).destroy()
    assert await rig.provider.observe_cluster(cluster_ref()) is None
    assert await rig.provider.ensure_cluster(cluster_request(cluster_ref())) == made


async def test_a_network_that_lost_its_addresses_to_another_is_kept_until_they_are_free(rig: LibvirtRig) -> None:
    """After the hypervisor's boot something else was there first: certificates and machines have the old addresses."""
    made = await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    await rig.provider.ensure_machine(worker(cluster_ref()))
    known = dataclasses.replace(cluster_request(cluster_ref()), endpoint_host=made.endpoint_host)
    with rig.connect() as conn:
        network = conn.networkLookupByName(network_name(cluster_ref()))
        network.destroy()
        before = network.XMLDesc()
        with _dummy_interface(f"{IPv4Network(str(made.machine_cidr))[1]}/24"):
            with pytest.raises(TransientError, match="something else on the hypervisor has addresses") as caught:
                await rig.provider.ensure_cluster(known)
            assert caught.value.reason == "NetworkUnusable"
        assert network.XMLDesc() == before
    assert await rig.provider.ensure_cluster(known) == made


async def test_a_network_that_was_deleted_is_made_with_the_same_addresses(rig: LibvirtRig) -> None:
    made = await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    machine = await rig.provider.ensure_machine(worker(cluster_ref()))
    known = dataclasses.replace(cluster_request(cluster_ref()), endpoint_host=made.endpoint_host)
    await rig.stop_vm(worker(cluster_ref()).ref)
    with rig.connect() as conn:
        network = conn.networkLookupByName(network_name(cluster_ref()))
        network.destroy()
        network.undefine()
        elsewhere = rig.endpoint.model_copy(update={"network_pool": _network("10.78.0.0/16")})
        moved = LibvirtProvider(elsewhere, rig.images)
        with pytest.raises(TerminalError, match="give the endpoint its former network or network_pool again"):
            await moved.ensure_cluster(known)
        await moved.close()
        assert await rig.provider.ensure_cluster(known) == made
        assert await rig.provider.ensure_machine(worker(cluster_ref())) == machine
        assert machine.addresses[0] in conn.networkLookupByName(network_name(cluster_ref())).XMLDesc()


async def test_a_cluster_keeps_its_network_when_the_endpoint_gets_a_shared_one(rig: LibvirtRig) -> None:
    made = await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    provider = LibvirtProvider(rig.endpoint.model_copy(update={"network": "shared"}), rig.images)
    with rig.connect() as conn:
        shared = conn.networkDefineXML(_SHARED)
        shared.create()
        before = shared.XMLDesc()
        known = dataclasses.replace(cluster_request(cluster_ref()), endpoint_host=made.endpoint_host)
        assert await provider.ensure_cluster(known) == made
        machine = await provider.ensure_machine(worker(cluster_ref()))
        assert IPv4Address(machine.addresses[0]) in IPv4Network(str(made.machine_cidr))
        assert await provider.delete_machine(worker(cluster_ref()).ref)
        assert await provider.delete_cluster(cluster_ref())
        assert shared.XMLDesc() == before
        assert [network.name() for network in conn.listAllNetworks()] == ["shared"]
        shared.destroy()
        shared.undefine()
    await provider.close()


async def test_what_lies_in_a_stopped_or_former_pool_is_deleted_too(rig: LibvirtRig) -> None:
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    await rig.provider.ensure_machine(worker(cluster_ref()))
    await rig.provider.ensure_machine(control_plane(cluster_ref()))
    moved = LibvirtProvider(rig.endpoint.model_copy(update={"pool": "fast", "pool_path": "/fast"}), rig.images)
    with rig.connect() as conn:
        conn.storagePoolLookupByName("capn").destroy()
        assert await rig.provider.delete_machine(worker(cluster_ref()).ref)
        assert [names.build_domain_uuid(worker(cluster_ref()).ref.uid) in name for name in rig.volumes(conn)] == [
            False,
            False,
        ]
        assert await moved.delete_machine(control_plane(cluster_ref()).ref)
        assert rig.volumes(conn) == []
    await moved.close()


async def test_a_pool_that_cannot_be_started_keeps_the_machine_and_is_named(rig: LibvirtRig) -> None:
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    await rig.provider.ensure_machine(worker(cluster_ref()))
    place = rig.hypervisor.state / "var/lib/libvirt/capn"
    aside = place.with_name("unmounted")
    with rig.connect() as conn:
        conn.storagePoolLookupByName("capn").destroy()
    place.rename(aside)
    try:
        with pytest.raises(TransientError, match="pool capn is not started and cannot be: ") as caught:
            await rig.provider.delete_machine(worker(cluster_ref()).ref)
        assert caught.value.reason == "PoolUnusable"
    finally:
        aside.rename(place)
    assert await rig.provider.delete_machine(worker(cluster_ref()).ref)
    with rig.connect() as conn:
        assert rig.volumes(conn) == []


@contextlib.contextmanager
def _dummy_interface(address: str) -> Iterator[None]:
    """Something of the host's that has this address."""
    name = f"d{os.getpid() % 10000}"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "address", "add", address, "dev", name], check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        yield
    finally:
        subprocess.run(["ip", "link", "delete", name], check=True)


async def test_a_subnet_that_the_host_uses_is_passed_over(rig: LibvirtRig) -> None:
    endpoint = rig.endpoint.model_copy(update={"network_pool": _network("10.76.0.0/23")})
    provider = LibvirtProvider(endpoint, rig.images)
    with rig.connect() as conn:
        taken = conn.networkDefineXML(
            "<network><name>taken</name><bridge name='capntaken'/><ip address='10.76.0.1' prefix='24'/></network>"
        )
        made = await provider.ensure_cluster(cluster_request(cluster_ref()))
        assert made.machine_cidr == "10.76.1.0/24"
        with pytest.raises(TerminalError, match="no free network") as caught:
            await provider.ensure_cluster(cluster_request(cluster_ref("other")))
        assert caught.value.reason == "NetworksExhausted"
        taken.undefine()
    await provider.delete_cluster(cluster_ref())
    await provider.close()


async def test_reserved_networks_are_refused_to_the_child(rig: LibvirtRig) -> None:
    endpoint = rig.endpoint.model_copy(update={"reserved_cidrs": (_network("10.244.8.0/24"),)})
    provider = LibvirtProvider(endpoint, rig.images)
    with pytest.raises(InvalidSpecError, match="administrator reserved") as caught:
        await provider.ensure_cluster(cluster_request(cluster_ref()))
    assert caught.value.reason == "CIDRCollision"
    await provider.close()


async def test_machines_of_two_clusters_do_not_reach_each_other(rig: LibvirtRig) -> None:
    """Siblings and levels alike: to the hypervisor a claimed cluster is a cluster, and VMs are flat."""
    networks = []
    for name in ("demo", "other"):
        made = await rig.provider.ensure_cluster(cluster_request(cluster_ref(name)))
        assert made.machine_cidr is not None
        networks.append((f"capn{names.build_short_id(cluster_ref(name).uid)}", IPv4Network(made.machine_cidr)))
    mark = f"t{os.getpid() % 10000}"
    with contextlib.ExitStack() as stack:
        one, two = (
            stack.enter_context(on_bridge(*networks[0], name=f"{mark}a{host}", host=host)) for host in (200, 201)
        )
        stranger = stack.enter_context(on_bridge(*networks[1], name=f"{mark}b", host=200))
        # The way that is there, first: else nothing that is refused would mean anything.
        await reaches_soon(one, two.address)
        await reaches_soon(stranger, stranger.address)
        for source, target in ((one, stranger), (stranger, one), (stranger, two)):
            assert not await asyncio.to_thread(source.reaches, target.address)
    assert await rig.provider.delete_cluster(cluster_ref("other"))


async def reaches_soon(source: Neighbour, address: IPv4Address) -> None:
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(source.reaches, address):
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("virtual", "addresses"),
    # Two are the clusters' endpoints: the first control plane's own, or no machine's.
    [(False, ["10.77.0.10", "10.77.0.12"]), (True, ["10.77.0.12", "10.77.0.13"])],
)
async def test_clusters_can_share_a_network(rig: LibvirtRig, *, virtual: bool, addresses: list[str]) -> None:
    endpoint = rig.endpoint.model_copy(update={"network": "shared", "virtual_endpoint": virtual})
    provider = LibvirtProvider(endpoint, rig.images)
    with pytest.raises(TerminalError, match="shared is not started"):
        await provider.ensure_cluster(cluster_request(cluster_ref()))
    with rig.connect() as conn:
        shared = conn.networkDefineXML(_SHARED)
        shared.create()
        before = shared.XMLDesc()
        made = [await provider.ensure_cluster(cluster_request(cluster_ref(name))) for name in ("demo", "other")]
        assert [cluster.endpoint_host for cluster in made] == ["10.77.0.10", "10.77.0.11"]
        machines = [await provider.ensure_machine(r) for r in (control_plane(cluster_ref()), worker(cluster_ref()))]
        assert [cluster.virtual for cluster in made] == [virtual, virtual]
        assert [machine.addresses for machine in machines] == [(address,) for address in addresses]
        for request in (worker(cluster_ref()), control_plane(cluster_ref())):
            await provider.delete_machine(request.ref)
        for name in ("demo", "other"):
            await provider.delete_cluster(cluster_ref(name))
        assert shared.XMLDesc() == before
        shared.destroy()
        shared.undefine()
    await provider.close()


async def test_a_hypervisor_that_is_not_there_is_unreachable_not_an_error_of_the_user(tmp_path: Path) -> None:
    uri = f"qemu:///system?socket={tmp_path / 'none'}"
    provider = LibvirtProvider(LibvirtEndpoint(uri=uri), NoImages())
    with pytest.raises(UnreachableError) as caught:
        await provider.observe_cluster(cluster_ref())
    assert caught.value.reason == "HypervisorUnreachable"
    assert str(tmp_path) not in str(caught.value)  # the address is the administrator's
    await provider.close()


async def test_a_call_that_outlives_its_caller_stops_before_its_next_write(rig: LibvirtRig) -> None:
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    making = asyncio.create_task(rig.provider.ensure_machine(request))
    await asyncio.sleep(0.05)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    # Deletion waits for the abandoned call (one at a time for a machine), so nothing comes after it.
    assert await rig.provider.delete_machine(request.ref)
    await asyncio.sleep(1)
    with rig.connect() as conn:
        assert rig.volumes(conn) == []
        assert conn.listAllDomains() == []


async def test_a_vm_that_cannot_start_says_why_without_varying_text(rig: LibvirtRig) -> None:
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    broken = dataclasses.replace(rig.images.image, digest="ef" * 32)
    rig.images.image.kernel.write_bytes(b"no kernel" * 100)
    provider = LibvirtProvider(rig.endpoint, OneImage(broken))
    messages = []
    for _again in range(2):
        with pytest.raises(TransientError) as caught:
            await provider.ensure_machine(control_plane(cluster_ref()))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "kernel" in messages[0]
    await provider.close()


def _network(text: str) -> IPv4Network:
    return IPv4Network(text)
