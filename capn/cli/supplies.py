"""`capn parts` and `capn image`.

Role: terminal in, terminal out. Must not: know how things are built.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from capn.api.machine_template import Infrastructure, InfrastructureKind
from capn.cli.progress import make_progress
from capn.cli.read import format_table, write_data
from capn.dev.supplies import choose_source, ensure_containerdisk, ensure_kubevirt, ensure_node_image, ensure_programs
from capn.errors import InvalidSpecError
from capn.image.catalogue import ImageCatalogue
from capn.image.containerdisk import containerdisk_name
from capn.parts.catalogue import list_kubevirt_parts, select_parts
from capn.parts.ensure import part_path
from capn.settings import IMAGE_GIB, cache_dir, load_settings

_MIB = 1 << 20


def build_parts(names: list[str], version: str) -> None:
    """Make what is missing."""
    with make_progress().step("Getting third-party programs") as report:
        asyncio.run(ensure_programs(report, names, version=version))


def build_kubevirt_parts() -> None:
    """Make KubeVirt's programs and container images where missing."""
    with make_progress().step("Getting KubeVirt's programs and images") as report:
        archive, _ = asyncio.run(ensure_kubevirt(report))
        report(f"images in {archive}")


def list_parts(version: str, output: str) -> None:
    """Name, version and path of each; the path is empty when it is not made yet."""
    source, cache = choose_source(), cache_dir()
    rows = []
    for part in (*select_parts([], version), *list_kubevirt_parts()):
        path = part_path(part, source=source, cache=cache)
        rows.append({"name": part.name, "version": part.version, "path": str(path) if path.is_file() else ""})
    header = ("NAME", "VERSION", "PATH")
    write_data(rows, output, lambda: format_table(header, [tuple(row.values()) for row in rows]))


def build_node_image(version: str) -> None:
    """Make the node image if it is missing."""
    with make_progress().step(f"Getting the node image for {version}") as report:
        image = asyncio.run(ensure_node_image(version, report))
        report(f"digest {image.digest[:12]} in {image.disk.parent}")


def build_containerdisk(version: str, output: Path | None, *, disk_gib: int | None) -> None:
    """Make the node image as a container image if it is missing, and copy its archive to `output`."""
    progress = make_progress()
    with progress.step(f"Packing the node image {version} as a containerDisk") as report:
        archive = asyncio.run(ensure_containerdisk(version, report, disk_gib=disk_gib or IMAGE_GIB))
        if output is not None:
            shutil.copyfile(archive, output)
    path = output or archive
    progress.line(f"image    {containerdisk_name(version)}\narchive  {path}")
    progress.line(f"push it  skopeo copy oci-archive:{path} docker://REGISTRY/capn-node:{version}")


def list_images(output: str) -> None:
    """Version, digest, size and directory of each."""
    catalogue = ImageCatalogue(cache_dir() / "images" / "node")
    rows: list[dict[str, Any]] = []
    for version in catalogue.versions():
        image = catalogue.find(version)
        if image is not None:
            size = image.disk.stat().st_size // _MIB
            rows.append(
                {"version": version, "digest": image.digest[:12], "mib": size, "directory": str(image.disk.parent)}
            )
    header = ("VERSION", "DIGEST", "MIB", "DIRECTORY")
    write_data(rows, output, lambda: format_table(header, [tuple(map(str, row.values())) for row in rows]))


def push_image(version: str, endpoint: str, settings_file: Path | None) -> None:
    """Upload to the endpoint's pool, in each of its failure domains; nothing happens where it is there."""
    from capn.providers.failure_domains import DomainProvider  # noqa: PLC0415 - as the next
    from capn.providers.registry import ProviderRegistry  # noqa: PLC0415 - brings libvirt

    async def push() -> None:
        settings = load_settings(settings_file)
        images = ImageCatalogue(settings.image_dir or cache_dir() / "images" / "node")
        registry = ProviderRegistry(settings, images)
        try:
            provider = registry.get(Infrastructure(kind=InfrastructureKind.LIBVIRT, endpoint=endpoint))
            hosts = provider.domains.values() if isinstance(provider, DomainProvider) else ()
            uploads = [upload for host in hosts if (upload := getattr(host, "push_image", None)) is not None]
            if not uploads:
                raise InvalidSpecError("--endpoint", f"{endpoint} takes no images")
            for upload in uploads:
                await upload(version)
        finally:
            await registry.close()

    with make_progress().step(f"Uploading the node image {version} to {endpoint}"):
        asyncio.run(push())
