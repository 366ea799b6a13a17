"""Storage: the pool, machine disks and seeds.

Role: blocking calls on one `Session`. A machine's volumes bear its VM's UUID, which is derived from the machine's UID:
that is the proof of ownership, since volumes hold no metadata. Must not: touch a path of the host; all goes through
libvirt's volumes and upload streams.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import libvirt

from capn import names
from capn.build.libvirt_xml import build_pool_xml, build_volume_xml
from capn.errors import TransientError
from capn.providers.libvirt.connection import Session
from capn.providers.libvirt.errors import clean_message, is_disconnect, is_missing
from capn.settings import LibvirtEndpoint

_POOL_DIRECTORY_MODES = 0  # virStoragePoolBuildFlags: make the directory if it is not there


def disk_volume(machine_uid: str) -> str:
    """Name of a machine's root disk."""
    return f"capn-{names.build_domain_uuid(machine_uid)}.disk.qcow2"


def seed_volume(machine_uid: str) -> str:
    """Name of a machine's seed."""
    return f"capn-{names.build_domain_uuid(machine_uid)}.seed.iso"


def find_pool(session: Session, endpoint: LibvirtEndpoint) -> libvirt.virStoragePool | None:
    """The endpoint's pool, if it is there and active."""
    pool = _look_up_pool(session, endpoint)
    return pool if pool is not None and pool.isActive() else None


def ensure_pool(session: Session, endpoint: LibvirtEndpoint) -> libvirt.virStoragePool:
    """The endpoint's pool, made or started if need be."""
    pool = _look_up_pool(session, endpoint)
    if pool is None:
        session.checkpoint()
        pool = session.conn.storagePoolDefineXML(build_pool_xml(endpoint.pool, endpoint.pool_path), 0)
    if not pool.isActive():
        if not pool.autostart() and _is_made_by_us(pool, endpoint):  # new, or its making was cut off
            pool.build(_POOL_DIRECTORY_MODES)
            pool.setAutostart(1)
        _start_pool(session, pool)
    return pool


def delete_everywhere(session: Session, endpoint: LibvirtEndpoint, *volume_names: str) -> None:
    """Delete volumes of a machine in the endpoint's pool and in those that it may have had before.

    TransientError when the endpoint's pool cannot be started: what is in it would stay for ever.
    """
    pool = _look_up_pool(session, endpoint)
    if pool is not None and not pool.isActive():
        _start_pool(session, pool)
    for active in session.conn.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
        for name in volume_names:
            delete_volume(session, active, name)


def _look_up_pool(session: Session, endpoint: LibvirtEndpoint) -> libvirt.virStoragePool | None:
    try:
        return session.conn.storagePoolLookupByName(endpoint.pool)
    except libvirt.libvirtError as error:
        if is_missing(error):
            return None
        raise


def _is_made_by_us(pool: libvirt.virStoragePool, endpoint: LibvirtEndpoint) -> bool:
    """Whether it is the kind of pool that `ensure_pool` makes: to build another's kind may erase it."""
    root = ET.fromstring(pool.XMLDesc(0))  # noqa: S314 - from libvirtd
    return root.get("type") == "dir" and root.findtext("target/path") == endpoint.pool_path


def _start_pool(session: Session, pool: libvirt.virStoragePool) -> None:
    session.checkpoint()
    try:
        pool.create(0)
    except libvirt.libvirtError as error:
        if pool.isActive():
            return  # somebody else started it
        if is_disconnect(error):
            raise
        raise TransientError(
            f"the hypervisor's pool {pool.name()} is not started and cannot be: {clean_message(error)}: start it there",
            reason="PoolUnusable",
        ) from None


def find_volume(pool: libvirt.virStoragePool, name: str) -> libvirt.virStorageVol | None:
    """The volume of that name, or None."""
    try:
        return pool.storageVolLookupByName(name)
    except libvirt.libvirtError as error:
        if is_missing(error):
            return None
        raise


def ensure_disk(
    session: Session, pool: libvirt.virStoragePool, *, machine_uid: str, base_path: str, disk_bytes: int
) -> None:
    """The machine's root disk: an overlay on the node image. One that is there is kept: it may hold a node."""
    name = disk_volume(machine_uid)
    if find_volume(pool, name) is not None:
        return
    session.checkpoint()
    xml = build_volume_xml(name, capacity_bytes=disk_bytes, volume_format="qcow2", backing_path=base_path)
    pool.createXML(xml, 0)


def write_seed(session: Session, pool: libvirt.virStoragePool, *, machine_uid: str, seed: bytes) -> None:
    """Write the machine's seed anew; a half-written one of an earlier attempt is replaced."""
    name = seed_volume(machine_uid)
    delete_volume(session, pool, name)
    session.checkpoint()
    pool.createXML(build_volume_xml(name, capacity_bytes=len(seed), volume_format="raw"), 0)
    volume = pool.storageVolLookupByName(name)
    upload_bytes(session, volume, seed)


def delete_volume(session: Session, pool: libvirt.virStoragePool, name: str) -> bool:
    """Delete a volume; False when there was none."""
    volume = find_volume(pool, name)
    if volume is None:
        return False
    session.checkpoint()
    try:
        volume.delete(0)
    except libvirt.libvirtError as error:
        if not is_missing(error):
            raise
    return True


def upload_bytes(session: Session, volume: libvirt.virStorageVol, content: bytes) -> None:
    """Send all of `content` to the volume."""
    stream = session.conn.newStream(0)
    try:
        volume.upload(stream, 0, len(content), 0)
        sent = 0
        while sent < len(content):
            sent += stream.send(content[sent : sent + _CHUNK])
        stream.finish()
    except BaseException:
        _abort(stream)
        raise


def upload_file(session: Session, volume: libvirt.virStorageVol, path: Path, progress: Callable[[int], None]) -> None:
    """Send a file to the volume; `progress` is told the number of bytes of each step."""
    stream = session.conn.newStream(0)
    try:
        with path.open("rb") as file:
            volume.upload(stream, 0, path.stat().st_size, 0)
            while chunk := file.read(_CHUNK):
                session.checkpoint()
                _send(stream, chunk)
                progress(len(chunk))
        stream.finish()
    except BaseException:
        _abort(stream)
        raise


def download_bytes(session: Session, volume: libvirt.virStorageVol, limit: int) -> bytes:
    """The volume's content, at most `limit` bytes."""
    stream = session.conn.newStream(0)
    received = bytearray()
    try:
        volume.download(stream, 0, limit, 0)
        while len(received) < limit and (chunk := stream.recv(_CHUNK)):
            received += chunk
        stream.finish()
    except BaseException:
        _abort(stream)
        raise
    return bytes(received[:limit])


_CHUNK = 256 * 1024


def _send(stream: libvirt.virStream, chunk: bytes) -> None:
    sent = 0
    while sent < len(chunk):
        sent += stream.send(chunk[sent:])


def _abort(stream: libvirt.virStream) -> None:
    with contextlib.suppress(libvirt.libvirtError):
        stream.abort()
