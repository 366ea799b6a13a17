"""Builds KubeVirt's container images from the parts and one Debian layer, if the cache does not hold them already.

Role: the order of the steps, the lock, the digest of the inputs. Inputs: a source of parts, the cache. Output: one OCI
archive with all images, `<cache>/images/kubevirt/<version>-<digest>.tar`. Must not: need a registry or a container
runtime.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from capn.image import kubevirt_recipe as recipe
from capn.image import oci
from capn.image.debian import DebianBase, ensure_base
from capn.image.rootfs import remove_path
from capn.parts.catalogue import KUBEVIRT_MODULE, KUBEVIRT_VERSION, list_kubevirt_parts
from capn.parts.download import host_architecture
from capn.parts.ensure import ensure_parts, find_parts
from capn.parts.gomodule import find_module
from capn.parts.hack import hack_dir
from capn.parts.locks import file_lock
from capn.parts.source import PartSource, Report

BASE = DebianBase("kubevirt", recipe.PACKAGES, configured=False, suite=recipe.SUITE)


def image_name(component: str) -> str:
    """The full name of a component's image, such as that of `virt-operator`."""
    return f"{recipe.REPOSITORY}/{component}:{KUBEVIRT_VERSION}"


def list_image_names() -> tuple[str, ...]:
    """Names of all images in the archive."""
    return tuple(image_name(component) for component in recipe.CONTENTS)


async def ensure_kubevirt_images(
    *, source: PartSource, cache: Path, report: Report, mirror: str | None = None
) -> tuple[Path, Mapping[str, Path]]:
    """The archive with KubeVirt's images, and the parts' paths by name; made where missing, which takes minutes.

    Raises TerminalError with the failing program's last lines. Making the Debian layer needs root.
    """
    parts = await ensure_parts(list_kubevirt_parts(), source=source, cache=cache, report=report)
    target = _target(parts, cache)
    lock = cache / "locks" / "image-kubevirt.lock"
    async with file_lock(lock, on_wait=lambda: report("KubeVirt's images: waiting for another capn")):
        if not target.is_file():
            base = await ensure_base(BASE, cache=cache, mirror=mirror, report=report)
            module = await find_module(KUBEVIRT_MODULE, pinned_by=hack_dir() / "parts" / "kubevirt")
            report(f"KubeVirt's images: {', '.join(recipe.CONTENTS)}")
            await asyncio.to_thread(_write, target, base=base, parts=parts, module=module)
            report(f"KubeVirt's images: {target.stat().st_size >> 20} MiB")
    return target, parts


def find_kubevirt_images(*, source: PartSource, cache: Path) -> tuple[Path, Mapping[str, Path]] | None:
    """What `ensure_kubevirt_images` returns if the cache holds all of it; None otherwise. Builds nothing."""
    wanted = list_kubevirt_parts()
    parts = find_parts(wanted, source=source, cache=cache)
    if len(parts) < len(wanted) or not (target := _target(parts, cache)).is_file():
        return None
    return target, parts


def _target(parts: Mapping[str, Path], cache: Path) -> Path:
    return cache / "images" / "kubevirt" / f"{KUBEVIRT_VERSION}-{_digest(parts)[:12]}.tar"


def _digest(parts: Mapping[str, Path]) -> str:
    """Hex digest of the inputs: the programs, the Debian packages and the code that decides the content."""
    digest = hashlib.sha256(BASE.digest().encode())
    for name, path in sorted(parts.items()):
        digest.update(f"{name}={path.parent.name}\n".encode())
    for module in (__file__, str(recipe.__file__), str(oci.__file__)):
        digest.update(Path(module).read_bytes())
    return digest.hexdigest()


def _write(target: Path, *, base: Path, parts: Mapping[str, Path], module: Path) -> None:
    """Write the layers and the archive in a directory beside the target, then move the archive to its place."""
    work = target.parent / f".work-{secrets.token_hex(4)}"
    work.mkdir(parents=True)
    try:
        debian = oci.filter_layer(base, work / "debian.tar", keep=_keep)
        images = build_images(parts=parts, debian=debian, module=module, work=work)
        oci.write_archive(images, work / "archive.tar", architecture=host_architecture())
        (work / "archive.tar").rename(target)
    finally:
        remove_path(work)


def _keep(path: str) -> bool:
    return not path.startswith(recipe.DROPPED) and f"{path}/" not in recipe.DROPPED


def build_images(*, parts: Mapping[str, Path], debian: oci.Layer, module: Path, work: Path) -> list[oci.OciImage]:
    """Write the layers of every image to `work`."""
    images = []
    for component, contents in recipe.CONTENTS.items():
        own = oci.write_layer(list_entries(contents, parts, module), work / f"{component}.tar")
        layers = (debian, own) if contents.debian else (own,)
        user = "" if contents.debian else recipe.STATIC_USER
        images.append(oci.OciImage(image_name(component), layers, entrypoint=(f"/usr/bin/{component}",), user=user))
    return images


def list_entries(contents: recipe.Contents, parts: Mapping[str, Path], module: Path) -> Sequence[oci.LayerEntry]:
    """What the image's own layer holds."""
    programs = [
        oci.LayerEntry(f"usr/bin/{name}", source=parts[name], capability=recipe.CAPABILITIES.get(name, b""))
        for name in contents.programs
    ]
    files = [
        oci.LayerEntry(path, source=module / source, mode=mode)
        for path, (source, mode) in (contents.module_files or {}).items()
    ]
    temporary = () if contents.debian else (oci.LayerEntry("tmp", mode=0o1777),)
    return [*programs, *files, *temporary, *contents.entries]
