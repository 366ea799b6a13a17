"""Makes and removes whole machines: disk, seed, address and domain, in an order that survives a crash at any step.

Role: blocking work on one `Session`, composed of the steps in the neighbouring modules. The domain is defined last,
so one that exists has all that it needs; it is removed first, so nothing is taken from under a running VM. Must not:
wait.
"""

from __future__ import annotations

from dataclasses import dataclass

import libvirt

from capn import names
from capn.build.libvirt_xml import DomainInput, OwnerStamp
from capn.build.seed import build_seed
from capn.errors import TransientError
from capn.providers.base import MachineRef, MachineRequest, ObservedMachine
from capn.providers.checks import GIB, build_machine_vanished, check_memory
from capn.providers.libvirt import addresses, domains, networks, volumes
from capn.providers.libvirt.connection import Session
from capn.providers.libvirt.image_store import StoredImage
from capn.settings import LibvirtEndpoint

_KIB_PER_MIB = 1024
# What QEMU itself takes beside the guest's memory: code, device state and, under emulation, the translation cache.
_OVERHEAD_MIB = 256


@dataclass(frozen=True, slots=True)
class MachinePlan:
    """A request with what else its machine needs. `meta_data` goes into the seed beside the bootstrap data."""

    request: MachineRequest
    image: StoredImage
    meta_data: bytes


def revive_machine(session: Session, endpoint: LibvirtEndpoint, ref: MachineRef) -> ObservedMachine | None:
    """The quick way for a machine that exists: no image is needed, only that it runs and has its address."""
    domain = domains.find_domain(session, ref)
    if domain is None:
        return None
    if domain.owner.address and not domain.handle.isActive():
        addresses.restore_address(session, endpoint, ref, domain.owner.address)
    domains.ensure_running(session, domain.handle)
    return domains.observe(domain, ref)


def ensure_machine(session: Session, endpoint: LibvirtEndpoint, plan: MachinePlan) -> ObservedMachine:
    """Make what is missing and start what is off."""
    ref = plan.request.ref
    domain = domains.find_domain(session, ref)
    if domain is None:
        domains.refuse_foreign(session, ref)
        _make(session, endpoint, plan)
        domain = domains.find_domain(session, ref)
    if domain is None:
        raise TransientError("the VM vanished while it was made; trying again")
    domains.ensure_running(session, domain.handle)
    return domains.observe(domain, ref)


def _make(session: Session, endpoint: LibvirtEndpoint, plan: MachinePlan) -> None:
    request, ref = plan.request, plan.request.ref
    network = networks.find_network(session, endpoint, ref.cluster)
    if network is None:
        raise TransientError("the cluster's network is not there yet", reason="WaitingForNetwork")
    pool = volumes.ensure_pool(session, endpoint)
    if request.bootstrap_data is None and volumes.find_volume(pool, volumes.disk_volume(ref.uid)) is None:
        raise build_machine_vanished()
    disk_bytes = request.disk_gib * GIB
    volumes.ensure_disk(session, pool, machine_uid=ref.uid, base_path=plan.image.disk_path, disk_bytes=disk_bytes)
    seed_volume = None
    if request.bootstrap_data is not None:
        seed = build_seed(request.bootstrap_data, plan.meta_data)
        volumes.write_seed(session, pool, machine_uid=ref.uid, seed=seed)
        seed_volume = volumes.seed_volume(ref.uid)
    mac = domains.machine_mac(request, virtual_endpoint=network.virtual)
    address = addresses.ensure_address(session, endpoint, network, ref=ref, mac=mac)
    domains.define_domain(
        session,
        DomainInput(
            name=domains.domain_name(ref),
            uuid=names.build_domain_uuid(ref.uid),
            owner=_build_stamp(ref, address),
            cpus=request.cpus,
            memory_mib=request.memory_mib,
            accel=endpoint.accel,
            pool=endpoint.pool,
            disk_volume=volumes.disk_volume(ref.uid),
            seed_volume=seed_volume,
            kernel_path=plan.image.kernel_path,
            initrd_path=plan.image.initrd_path,
            cmdline=plan.image.cmdline,
            network=network.view.name,
            mac=mac,
            unsafe_cache=endpoint.unsafe_disk_cache,
        ),
    )


def _build_stamp(ref: MachineRef, address: str) -> OwnerStamp:
    cluster = ref.cluster
    return OwnerStamp(
        namespace=cluster.namespace,
        cluster=cluster.name,
        cluster_uid=cluster.uid,
        name=ref.name,
        uid=ref.uid,
        address=address,
    )


def observe_machine(session: Session, ref: MachineRef) -> ObservedMachine | None:
    """What is there, or None."""
    domain = domains.find_domain(session, ref)
    return None if domain is None else domains.observe(domain, ref)


def release_bootstrap_data(session: Session, endpoint: LibvirtEndpoint, ref: MachineRef) -> None:
    """Take the seed out of the machine, then delete it."""
    domain = domains.find_domain(session, ref)
    if domain is not None and domain.view.seed_attached:
        domains.eject_seed(session, domain, endpoint.pool)
    volumes.delete_everywhere(session, endpoint, volumes.seed_volume(ref.uid))


def stop_machine(session: Session, ref: MachineRef, *, force: bool) -> bool:
    """Shut the machine down or cut its power; True when it is off or not there."""
    domain = domains.find_domain(session, ref)
    return domain is None or domains.stop(session, domain.handle, force=force)


def delete_machine(session: Session, endpoint: LibvirtEndpoint, ref: MachineRef) -> bool:
    """Remove the VM, its volumes and its address; what is not there is fine."""
    domain = domains.find_domain(session, ref)
    if domain is not None:
        domains.remove_domain(session, domain)
    volumes.delete_everywhere(session, endpoint, volumes.seed_volume(ref.uid), volumes.disk_volume(ref.uid))
    addresses.release_address(session, endpoint, ref)
    return True


def check_capacity(session: Session, request: MachineRequest) -> None:
    """Raise TerminalError (InsufficientMemory) when the host cannot hold the machine beside those that it runs."""
    if domains.find_domain(session, request.ref) is None:
        check_memory(request, _free_memory_mib(session), overhead_mib=_OVERHEAD_MIB)


def _free_memory_mib(session: Session) -> int:
    """Memory that can be had, less what running guests were promised and have not touched yet."""
    stats = session.conn.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS, 0)  # KiB
    available = sum(int(stats.get(key, 0)) for key in ("free", "buffers", "cached"))
    kinds, which = libvirt.VIR_DOMAIN_STATS_BALLOON, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
    promised = 0
    for _domain, values in session.conn.getAllDomainStats(kinds, which):
        promised += max(0, int(values.get("balloon.maximum", 0)) - int(values.get("balloon.rss", 0)))
    return (available - promised) // _KIB_PER_MIB
