"""Builds the node image of a Kubernetes version, if the cache does not hold it already.

Role: the order of the steps, the lock, the digest of the inputs and the progress lines.
Inputs: a version, a source of parts, the cache. Output: `<cache>/images/node/<version>-<digest>/` with disk.qcow2,
vmlinuz, initrd.img and manifest.json. Needs root. Must not: leave half an image where the catalogue looks.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from capn.errors import TerminalError
from capn.image import catalogue, debian, disk, images, initrd, oci, own, preload, recipe, rootfs
from capn.image.catalogue import ImageManifest, LoadedImage, build_node_image, read_manifest
from capn.image.debian import REASON, DebianBase, ensure_base
from capn.parts.catalogue import Part, list_parts
from capn.parts.download import host_architecture
from capn.parts.ensure import ensure_parts
from capn.parts.locks import file_lock
from capn.parts.process import run
from capn.parts.source import PartSource, Report
from capn.providers.images import NodeImage

_NEEDED_BYTES = 8 << 30
_WORK_PREFIX = ".work-"
# A change of the code that decides the content makes another image; the rest of the package does not.
_CONTENT_MODULES = (debian, disk, images, initrd, oci, own, preload, recipe, rootfs)


@dataclass(frozen=True)
class ImageBuild:
    """The inputs of one build, fixed before it starts."""

    version: str
    architecture: str
    parts: Mapping[str, Path]
    tools: Mapping[str, str]
    names: tuple[str, ...]  # container images that kubeadm wants
    own: str  # digest of capn's own image

    def digest(self) -> str:
        """Hex digest of the inputs: the programs (by their own digests), the names and the recipe."""
        digest = hashlib.sha256()
        for name, path in sorted(self.parts.items()):
            digest.update(f"{name}={path.parent.name}\n".encode())
        digest.update(repr((self.version, self.architecture, self.names, self.own)).encode())
        for path in _recipe_files():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()

    def directory(self, cache: Path) -> Path:
        """Where the finished image is."""
        return cache / "images" / "node" / f"{self.version}-{self.digest()[:12]}"


def _recipe_files() -> list[Path]:
    modules = [Path(str(module.__file__)) for module in _CONTENT_MODULES]
    files = [path for path in recipe.ROOTFS_DIR.rglob("*") if path.is_file()]
    return [*modules, *sorted(files), recipe.INITRD_SCRIPT]


async def ensure_image(
    version: str, *, source: PartSource, cache: Path, report: Report, mirror: str | None = None
) -> NodeImage:
    """The node image for `version`, built if missing. `mirror` is a Debian mirror's address, None for Debian's default.

    Raises InvalidSpecError for an unknown version, TerminalError with the failing program's last lines.
    """
    parts = list_parts(version)
    paths = await ensure_parts(parts, source=source, cache=cache, report=report)
    build = await _plan(version, parts, paths)
    target = build.directory(cache)
    if (found := _find(target)) is not None:
        return found
    _require_root()
    lock = cache / "locks" / "image-node.lock"
    async with file_lock(lock, on_wait=lambda: report("node image: waiting for another capn that builds one")):
        if (found := _find(target)) is not None:
            return found
        with _work_directory(target.parent) as work:
            await _build(build, work, cache=cache, mirror=mirror, report=_timed(report, f"node image {version}"))
            rootfs.remove_path(target)
            (work / "out").rename(target)
        for removed in catalogue.prune(target.parent, version):
            report(f"removed {removed}, an older image of {version}")
    manifest = read_manifest(target / catalogue.MANIFEST_NAME)
    assert manifest is not None  # noqa: S101 - written a moment ago
    return build_node_image(manifest, target)


def _find(directory: Path) -> NodeImage | None:
    manifest = read_manifest(directory / catalogue.MANIFEST_NAME)
    return build_node_image(manifest, directory) if manifest is not None else None


async def _plan(version: str, parts: Sequence[Part], paths: Mapping[str, Path]) -> ImageBuild:
    listed = await run([paths["kubeadm"], "config", "images", "list", f"--kubernetes-version={version}"])
    listed.require_success("asking kubeadm for its container images", reason=REASON)
    names = tuple(line for line in listed.tail if line and " " not in line)
    tools = {part.name: part.version for part in parts}
    return ImageBuild(version, host_architecture(), paths, tools, names, own.compute_digest())


def _require_root() -> None:
    if os.geteuid() != 0:
        raise TerminalError("building a node image needs root (mounts, file owners): run it with sudo", reason=REASON)
    if host_architecture() not in recipe.KERNEL_ARCHITECTURES:
        raise TerminalError(f"no Debian kernel for this machine ({host_architecture()})", reason=REASON)


@contextmanager
def _work_directory(parent: Path) -> Iterator[Path]:
    """A new directory beside the images, removed at the end; those of builds that were killed are removed first."""
    parent.mkdir(parents=True, exist_ok=True)
    for stale in parent.glob(f"{_WORK_PREFIX}*"):
        rootfs.remove_path(stale)
    if (free := shutil.disk_usage(parent).free) < _NEEDED_BYTES:
        raise TerminalError(
            f"{parent} has {free >> 30} GiB free, a node image needs {_NEEDED_BYTES >> 30} GiB while it is built: "
            "free some space or point CAPN_CACHE elsewhere",
            reason=REASON,
        )
    work = parent / f"{_WORK_PREFIX}{secrets.token_hex(4)}"
    work.mkdir(mode=0o700)
    try:
        yield work
    finally:
        rootfs.remove_path(work)


def _timed(report: Report, label: str) -> Report:
    started = time.monotonic()
    return lambda line: report(f"{label} [{time.monotonic() - started:4.0f} s] {line}")


async def _build(build: ImageBuild, work: Path, *, cache: Path, mirror: str | None, report: Report) -> None:
    """Do all the steps; the result is in `work/out`."""
    root, out = work / "root", work / "out"
    _make_directories(root, out)
    node_base, network_base = _bases(build.architecture)
    node_tar = await ensure_base(node_base, cache=cache, mirror=mirror, report=report)
    network_tar = await ensure_base(network_base, cache=cache, mirror=mirror, report=report)
    report("root file system")
    await _unpack(node_tar, root)
    rootfs.install_node(root, programs=build.parts, sandbox=images.find_sandbox(build.names))
    capn = await own.build_own_image(
        architecture=build.architecture, cache=cache, work=work, mirror=mirror, report=report
    )
    report(f"container images: {len(build.names)} that kubeadm names, flannel, toolbox, capn")
    network = oci.filter_layer(network_tar, work / "network.tar", keep=_keep_in_network_layer)
    loaded = images.build_images(
        build.names, parts=build.parts, network=network, busybox=root / "usr/bin/busybox", work=work
    )
    loaded.append(capn)
    await _preload(build, loaded, root=root, work=work)
    report("kernel and initial RAM disk")
    release = _write_kernel(root, out)
    report("disk")
    disk_bytes = await disk.write_disk(root, out / catalogue.DISK_NAME, headroom_bytes=recipe.HEADROOM_BYTES, work=work)
    manifest = ImageManifest(
        version=build.version,
        architecture=build.architecture,
        digest=_digest_files(out),
        cmdline=recipe.KERNEL_COMMAND_LINE,
        minimum_disk_bytes=disk_bytes,
        kernel_release=release,
        images=tuple(LoadedImage(name=i.name, bytes=sum(layer.size for layer in i.layers)) for i in loaded),
        tools=dict(build.tools),
    )
    (out / catalogue.MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n")
    report(f"done: disk {(out / catalogue.DISK_NAME).stat().st_size / 2**30:.2f} GiB")


def _bases(architecture: str) -> tuple[DebianBase, DebianBase]:
    node = debian.package_list(architecture, recipe.NODE_PACKAGES)
    return DebianBase("node", node, configured=True), DebianBase("network", recipe.NETWORK_PACKAGES, configured=False)


def _keep_in_network_layer(path: str) -> bool:
    return not path.startswith(recipe.NETWORK_LAYER_DROPPED) and f"{path}/" not in recipe.NETWORK_LAYER_DROPPED


def _make_directories(*directories: Path) -> None:
    for directory in directories:
        directory.mkdir()
        directory.chmod(0o755)  # whatever the umask is


async def _unpack(archive: Path, root: Path) -> None:
    options = ["--numeric-owner", "--same-permissions", "--xattrs", "--xattrs-include=*"]
    unpacked = await run(["tar", "--extract", *options, f"--file={archive}", f"--directory={root}"])
    unpacked.require_success(f"unpacking {archive.name}", reason=REASON)


async def _preload(build: ImageBuild, loaded: Sequence[oci.OciImage], *, root: Path, work: Path) -> None:
    archive = work / "images.tar"
    oci.write_archive(loaded, archive, architecture=build.architecture)
    importer = preload.Importer(containerd=build.parts["containerd"], ctr=build.parts["ctr"], work=work)
    await preload.preload_images(archive, [image.name for image in loaded], root=root, importer=importer)
    rootfs.remove_path(archive)


def _write_kernel(root: Path, out: Path) -> str:
    """Move the kernel out of the root file system and make its initial RAM disk; returns the kernel's release."""
    kernel, modules = rootfs.find_kernel(root)
    archive = initrd.build_initrd(busybox=root / "usr/bin/busybox", init=recipe.INITRD_SCRIPT, modules_dir=modules)
    (out / catalogue.INITRD_NAME).write_bytes(archive)
    shutil.copyfile(kernel, out / catalogue.KERNEL_NAME)
    kernel.unlink()
    return modules.name


def _digest_files(out: Path) -> str:
    digest = hashlib.sha256()
    for name in (catalogue.DISK_NAME, catalogue.KERNEL_NAME, catalogue.INITRD_NAME):
        with (out / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
