"""Refusals that every provider words alike.

Role: pure checks and errors; each names the field and the fix. Must not: hold numbers that change from call to call,
since the messages end in conditions.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network

from capn.errors import InvalidSpecError, TerminalError
from capn.providers.base import ClusterRequest, MachineRequest

GIB = 1 << 30
_MIB_PER_GIB = 1024
_VERSION, _IMAGE = "spec.version", "spec.machine.image"


def check_cidrs(request: ClusterRequest, used: Iterable[tuple[str, IPv4Network]]) -> None:
    """InvalidSpecError (CIDRCollision) when the child's addresses overlap any of the named networks."""
    taken = list(used)
    for field, text in (("podCIDR", request.pod_cidr), ("serviceCIDR", request.service_cidr)):
        path = f"spec.network.{field}"
        try:
            cidr = IPv4Network(text)
        except ValueError as error:
            raise InvalidSpecError(path, f"{text} is no IPv4 network: use a form like 10.244.0.0/16") from error
        for what, other in taken:
            if cidr.overlaps(other):
                message = f"{cidr} overlaps {other} ({what}): choose another network"
                raise InvalidSpecError(path, message, reason="CIDRCollision")


def check_disk(request: MachineRequest, minimum_disk_bytes: int) -> None:
    """InvalidSpecError (DiskTooSmall) when the disk is smaller than the image."""
    if request.disk_gib * GIB < minimum_disk_bytes:
        least = -(-minimum_disk_bytes // GIB)
        raise InvalidSpecError(
            "spec.machine.disk", f"the image for {request.version} needs at least {least}Gi", reason="DiskTooSmall"
        )


def check_memory(request: MachineRequest, free_mib: int, *, overhead_mib: int = 0) -> None:
    """TerminalError (InsufficientMemory) when `free_mib` is less than the machine and what runs it take."""
    if request.memory_mib + overhead_mib > free_mib:
        raise TerminalError(
            f"spec.machine.memory: the machine needs {request.memory_mib} MiB and the hypervisor has about"
            f" {max(0, free_mib) // _MIB_PER_GIB} GiB free: lower the memory or free some there",
            reason="InsufficientMemory",
        )


class ImageName(str):
    """What a request's image is looked up by; it knows which field says so."""

    __slots__ = ("field",)
    field: str


def image_name(request: MachineRequest) -> ImageName:
    """What the request's image is looked up by."""
    name = ImageName(request.image or request.version)
    name.field = _IMAGE if request.image else _VERSION
    return name


def build_image_not_found(name: str) -> InvalidSpecError:
    """Build the error for a version or image that the endpoint does not have; it names the field that asks for it."""
    field = name.field if isinstance(name, ImageName) else _VERSION
    if field == _IMAGE:
        fix = "name one that it has, or leave it out: the default is the one for the version"
    else:
        build = f"`capn image build --version {name}` and `capn image push --version {name}`"
        fix = f"run {build}, or choose a version that it has"
    return InvalidSpecError(field, f"the endpoint has no node image {name}: {fix}", reason="ImageNotFound")


def build_machine_vanished() -> TerminalError:
    """Build the error for a VM that is gone although its machine was bootstrapped."""
    return TerminalError(
        "the VM and its disk are gone, and its bootstrap data is used up: delete this NestedMachine, so that another"
        " one is made",
        reason="MachineVanished",
    )
