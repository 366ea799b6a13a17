"""Writes container images as OCI image layouts, in plain Python and without a registry.

Role: layers from files, and one archive with any number of images for `ctr images import`. Output is deterministic: the
same inputs give the same bytes. Must not: run programs or read anything but the files named.
Format: the OCI image specification 1.1 (layout, manifest, configuration) and containerd's annotation for full names.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

CHUNK_BYTES = 1 << 20
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_NAME_ANNOTATION = "io.containerd.image.name"
# How GNU tar, libarchive and containerd write an extended attribute into a POSIX archive.
_CAPABILITY_HEADER = "SCHILY.xattr.security.capability"
_PATH_VARIABLE = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class LayerEntry:
    """One path of a layer, without leading slash: a directory, or what one of `source`, `content` and `link` says.

    `source` is a file to copy, `content` a file's text, `link` a symbolic link's target; `capability` is the raw value
    of the extended attribute `security.capability`, ASCII only.
    """

    path: str
    source: Path | None = None
    link: str | None = None
    mode: int = 0o755
    content: str | None = None
    owner: int = 0  # of user and group
    capability: bytes = b""


@dataclass(frozen=True)
class Layer:
    """An uncompressed layer tar on disk, with its digest (`sha256:<hex>`) and size in bytes."""

    path: Path
    digest: str
    size: int


@dataclass(frozen=True)
class OciImage:
    """An image: its full name with tag, its layers from the lowest up, and what runs in it."""

    name: str
    layers: tuple[Layer, ...]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    working_dir: str = "/"
    user: str = ""


def write_layer(entries: Sequence[LayerEntry], target: Path) -> Layer:
    """Write a layer with the entries, and the directories above them, in sorted order; time zero."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for directory in sorted(_parents(entry.path for entry in entries)):
            archive.addfile(_header(directory, tarfile.DIRTYPE, 0o755))
        for entry in sorted(entries, key=lambda entry: entry.path):
            _add_entry(archive, entry)
    return describe_layer(target)


def filter_layer(source: Path, target: Path, *, keep: Callable[[str], bool]) -> Layer:
    """Copy the members of a tar whose path (without `./`) passes `keep` to a layer; times become zero."""
    with tarfile.open(source) as old, tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as new:
        for member in old:
            member.name = member.name.removeprefix("./")
            if member.name in {"", "."} or not keep(member.name):
                continue
            member.linkname = member.linkname.removeprefix("./") if member.islnk() else member.linkname
            member.mtime = 0
            member.uname = member.gname = ""
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
    return describe_layer(target)


def describe_layer(path: Path) -> Layer:
    """Digest and size of a layer tar."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Layer(path=path, digest=f"sha256:{digest}", size=path.stat().st_size)


def write_archive(images: Sequence[OciImage], target: Path, *, architecture: str) -> None:
    """Write an OCI layout tar with all the images; layers that several images share are in it once."""
    written: set[str] = set()
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        _add_bytes(archive, "oci-layout", _encode({"imageLayoutVersion": "1.0.0"}))
        manifests = [_add_image(archive, image, architecture, written) for image in images]
        index = {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": manifests}
        _add_bytes(archive, "index.json", _encode(index))


def _add_image(archive: tarfile.TarFile, image: OciImage, architecture: str, written: set[str]) -> dict[str, Any]:
    """Add the image's blobs that are not there yet; returns its entry in the index."""
    for layer in image.layers:
        if layer.digest not in written:
            written.add(layer.digest)
            with layer.path.open("rb") as file:
                _add_stream(archive, _blob_path(layer.digest), file, layer.size)
    config = _encode(_build_config(image, architecture))
    manifest = _encode(_build_manifest(image, config))
    for blob in (config, manifest):
        if _digest(blob) not in written:
            written.add(_digest(blob))
            _add_bytes(archive, _blob_path(_digest(blob)), blob)
    return {
        **_descriptor(_MANIFEST_TYPE, _digest(manifest), len(manifest)),
        "platform": {"os": "linux", "architecture": architecture},
        "annotations": {_NAME_ANNOTATION: image.name, "org.opencontainers.image.ref.name": image.name},
    }


def _build_config(image: OciImage, architecture: str) -> dict[str, Any]:
    execution: dict[str, Any] = {"Env": [_PATH_VARIABLE], "WorkingDir": image.working_dir}
    if image.entrypoint:
        execution["Entrypoint"] = list(image.entrypoint)
    if image.command:
        execution["Cmd"] = list(image.command)
    if image.user:
        execution["User"] = image.user
    return {
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture,
        "os": "linux",
        "config": execution,
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in image.layers]},
    }


def _build_manifest(image: OciImage, config: bytes) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": _descriptor(_CONFIG_TYPE, _digest(config), len(config)),
        "layers": [_descriptor(_LAYER_TYPE, layer.digest, layer.size) for layer in image.layers],
    }


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _blob_path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _parents(paths: Iterable[str]) -> set[str]:
    return {str(parent) for path in paths for parent in Path(path).parents if str(parent) != "."}


def _header(path: str, kind: bytes, mode: int, *, owner: int = 0) -> tarfile.TarInfo:
    header = tarfile.TarInfo(path)
    header.type = kind
    header.mode = mode
    header.uid = header.gid = owner
    return header


def _add_entry(archive: tarfile.TarFile, entry: LayerEntry) -> None:
    if entry.link is not None:
        header = _header(entry.path, tarfile.SYMTYPE, 0o777, owner=entry.owner)
        header.linkname = entry.link
        archive.addfile(header)
    elif entry.source is None and entry.content is None:
        archive.addfile(_header(entry.path, tarfile.DIRTYPE, entry.mode, owner=entry.owner))
    else:
        _add_file(archive, entry)


def _add_file(archive: tarfile.TarFile, entry: LayerEntry) -> None:
    header = _header(entry.path, tarfile.REGTYPE, entry.mode, owner=entry.owner)
    if entry.capability:
        header.pax_headers = {_CAPABILITY_HEADER: entry.capability.decode("ascii")}
    if entry.source is None:
        content = (entry.content or "").encode()
        header.size = len(content)
        archive.addfile(header, io.BytesIO(content))
        return
    with entry.source.open("rb") as file:
        header.size = entry.source.stat().st_size
        archive.addfile(header, file)


def _add_bytes(archive: tarfile.TarFile, path: str, content: bytes) -> None:
    _add_stream(archive, path, cast("BinaryIO", io.BytesIO(content)), len(content))


def _add_stream(archive: tarfile.TarFile, path: str, content: BinaryIO, size: int) -> None:
    header = _header(path, tarfile.REGTYPE, 0o644)
    header.size = size
    archive.addfile(header, content)
