"""Domains: the virtual machines.

Role: blocking calls on one `Session`. A machine's domain has the UUID that is derived from the machine's UID and
bears an owner's stamp in its metadata; both must fit before anything is changed or removed. Must not: touch any other
domain.
"""

from __future__ import annotations

from dataclasses import dataclass

import libvirt

from capn import names
from capn.build.libvirt_xml import DomainInput, OwnerStamp, build_domain_xml, build_seed_device_xml
from capn.errors import OwnershipError, TransientError
from capn.providers.base import ClusterRef, MachineRef, MachineRequest, MachineState, ObservedMachine, Problem
from capn.providers.libvirt.connection import Session
from capn.providers.libvirt.errors import is_missing
from capn.providers.libvirt.networks import endpoint_mac
from capn.providers.libvirt.views import DomainView, parse_domain

_SHORT = 6
_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: MachineState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: MachineState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: MachineState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: MachineState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: MachineState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: MachineState.STOPPED,
    libvirt.VIR_DOMAIN_CRASHED: MachineState.CRASHED,
    libvirt.VIR_DOMAIN_NOSTATE: MachineState.CREATING,
}
_CRASHES = frozenset({libvirt.VIR_DOMAIN_SHUTOFF_CRASHED, libvirt.VIR_DOMAIN_SHUTOFF_FAILED})
_UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


@dataclass(frozen=True, slots=True)
class OwnedDomain:
    """A domain that is ours: libvirt's handle and its definition."""

    handle: libvirt.virDomain
    view: DomainView
    owner: OwnerStamp


def domain_name(ref: MachineRef) -> str:
    """Name of a machine's domain, unique even where several parents share the hypervisor."""
    return f"capn-{ref.cluster.namespace}-{ref.name}-{names.build_short_id(ref.uid)[:_SHORT]}"


def machine_mac(request: MachineRequest, *, virtual_endpoint: bool) -> str:
    """MAC address of the machine; where the endpoint is not virtual the first control plane has the endpoint's.

    By its place, not by its name: a machine that a child claims has a name of the parent's making.
    """
    if not virtual_endpoint and request.role == names.ROLE_CONTROL_PLANE and request.ordinal == 0:
        return endpoint_mac(request.ref.cluster)
    return names.build_mac(request.ref.uid)


def find_domain(session: Session, ref: MachineRef) -> OwnedDomain | None:
    """The machine's domain; None when there is none or when it is not ours."""
    handle = _lookup(session, ref)
    if handle is None:
        return None
    try:
        view = parse_domain(handle.XMLDesc(0))
    except libvirt.libvirtError as error:
        if is_missing(error):
            return None
        raise
    if view.owner is None or view.owner.uid != ref.uid:
        return None
    return OwnedDomain(handle, view, view.owner)


def refuse_foreign(session: Session, ref: MachineRef) -> None:
    """OwnershipError when a domain that is not ours has the machine's UUID or name."""
    found = _lookup(session, ref) is not None and find_domain(session, ref) is None
    name = domain_name(ref)
    try:
        session.conn.lookupByName(name)
    except libvirt.libvirtError as error:
        if not is_missing(error):
            raise
        if not found:
            return
    raise OwnershipError(
        f"the hypervisor has a domain {name} that does not carry this machine's UID; capn leaves it alone: rename or"
        " remove it there"
    )


def define_domain(session: Session, domain: DomainInput) -> libvirt.virDomain:
    """Define the domain, checked by libvirt against its schema."""
    session.checkpoint()
    return session.conn.defineXMLFlags(build_domain_xml(domain), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)


def ensure_running(session: Session, handle: libvirt.virDomain) -> None:
    """Start what is off and resume what is paused."""
    state, reason = handle.state()
    if state == libvirt.VIR_DOMAIN_PAUSED and reason != libvirt.VIR_DOMAIN_PAUSED_STARTING_UP:
        session.checkpoint()
        handle.resume()
    elif state in (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED):
        session.checkpoint()
        handle.create()
    elif state == libvirt.VIR_DOMAIN_PMSUSPENDED:
        session.checkpoint()
        handle.pMWakeup()


def stop(session: Session, handle: libvirt.virDomain, *, force: bool) -> bool:
    """Press the power button, or cut the power; True when the domain is off. Asked again it presses again.

    A guest that was paused cannot hear the button: it is resumed first.
    """
    state, reason = handle.state()
    if state in (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED):
        return True
    session.checkpoint()
    try:
        if force:
            handle.destroy()
            return True
        if state == libvirt.VIR_DOMAIN_PMSUSPENDED:
            handle.pMWakeup()
        elif state == libvirt.VIR_DOMAIN_PAUSED and reason != libvirt.VIR_DOMAIN_PAUSED_IOERROR:
            handle.resume()
        if state != libvirt.VIR_DOMAIN_SHUTDOWN:
            handle.shutdown()
    except libvirt.libvirtError as error:
        if is_missing(error):
            return True
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise
        # It ended, or changed, while it was asked: what it is now tells.
    return bool(handle.state()[0] == libvirt.VIR_DOMAIN_SHUTOFF)


def observe(domain: OwnedDomain, ref: MachineRef) -> ObservedMachine:
    """What the hypervisor has of the machine now."""
    state, reason = domain.handle.state()
    if state == libvirt.VIR_DOMAIN_SHUTOFF and reason in _CRASHES:
        seen = MachineState.CRASHED
    else:
        seen = _STATES.get(state, MachineState.CREATING)
    problem = None
    if seen is MachineState.PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR:
        message = "the VM is paused because its disk cannot be written: free space in the hypervisor's pool"
        problem = Problem("DiskFull", message, passes=True)
    return ObservedMachine(
        provider_id=build_id(ref),
        state=seen,
        addresses=(domain.owner.address,) if domain.owner.address else (),
        seed_attached=domain.view.seed_attached,
        problem=problem,
    )


def build_id(ref: MachineRef) -> str:
    """The machine's provider ID."""
    cluster = ref.cluster
    return names.build_provider_id(
        "libvirt", namespace=cluster.namespace, cluster=cluster.name, machine=ref.name, machine_uid=ref.uid
    )


def eject_seed(session: Session, domain: OwnedDomain, pool: str) -> None:
    """Take the seed out of the drive, in the running machine and in its definition."""
    flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
    if domain.handle.isActive():
        # The guest may have locked the tray by mounting the seed; FORCE opens it all the same.
        flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE
    session.checkpoint()
    domain.handle.updateDeviceFlags(build_seed_device_xml(pool, None), flags)


def remove_domain(session: Session, domain: OwnedDomain) -> None:
    """Stop the machine at once and remove its definition."""
    session.checkpoint()
    try:
        if domain.handle.isActive():
            domain.handle.destroy()
        domain.handle.undefineFlags(_UNDEFINE)
    except libvirt.libvirtError as error:
        if is_missing(error):
            return
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
            raise TransientError("the VM changed its state while it was removed; trying again") from error
        raise


def list_owned(session: Session, cluster: ClusterRef | None) -> list[MachineRef]:
    """Machines of this cluster, or (None) of every cluster, that have a domain."""
    found = []
    for handle in session.conn.listAllDomains(0):
        try:
            owner = parse_domain(handle.XMLDesc(0)).owner
        except libvirt.libvirtError as error:
            if is_missing(error):
                continue
            raise
        if owner is not None and (cluster is None or owner.cluster_uid == cluster.uid):
            found.append(build_ref(owner))
    return found


def build_ref(owner: OwnerStamp) -> MachineRef:
    """The machine that a stamp speaks of."""
    cluster = ClusterRef(namespace=owner.namespace, name=owner.cluster, uid=owner.cluster_uid)
    return MachineRef(cluster=cluster, name=owner.name, uid=owner.uid)


def _lookup(session: Session, ref: MachineRef) -> libvirt.virDomain | None:
    try:
        return session.conn.lookupByUUIDString(names.build_domain_uuid(ref.uid))
    except libvirt.libvirtError as error:
        if is_missing(error):
            return None
        raise
