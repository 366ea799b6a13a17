from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from capn.image import kubevirt, kubevirt_recipe, oci
from capn.image.containerdisk import build_containerdisk, containerdisk_name
from capn.image.kubevirt import (
    build_images,
    ensure_kubevirt_images,
    find_kubevirt_images,
    image_name,
    list_image_names,
)
from capn.parts.catalogue import KUBEVIRT_VERSION, list_kubevirt_parts
from capn.parts.process import run
from capn.providers.images import NodeImage
from capn.settings import IMAGE_GIB
from tests.unit.image.test_oci import load, read_archive
from tests.unit.parts.fakes import FakeSource


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Path]:
    paths = {part.name: tmp_path / "parts" / part.name for part in list_kubevirt_parts()}
    (tmp_path / "parts").mkdir()
    for name, path in paths.items():
        path.write_text(name)
    return paths


@pytest.fixture
def module(tmp_path: Path) -> Path:
    for contents in kubevirt_recipe.CONTENTS.values():
        for source, _ in (contents.module_files or {}).values():
            path = tmp_path / "module" / source
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
    return tmp_path / "module"


def write_debian(path: Path) -> Path:
    entries = ["usr/bin/bash", "usr/bin/qemu-system-i386", "etc/libvirt/qemu.conf", "etc/libvirt/virtlogd.conf", "tmp"]
    oci.write_layer([oci.LayerEntry(entry, content="debian") for entry in entries], path)
    return path


def test_every_part_but_those_of_the_command_line_is_in_an_image() -> None:
    used = {name for contents in kubevirt_recipe.CONTENTS.values() for name in contents.programs}
    assert {part.name for part in list_kubevirt_parts()} - used == {"virtctl", "kubevirt-resource-generator"}


def test_the_images_hold_what_the_recipe_says(tmp_path: Path, parts: dict[str, Path], module: Path) -> None:
    debian = oci.describe_layer(write_debian(tmp_path / "debian.tar"))
    images = {image.name: image for image in build_images(parts=parts, debian=debian, module=module, work=tmp_path)}
    assert tuple(images) == list_image_names()
    launcher, operator = images[image_name("virt-launcher")], images[image_name("virt-operator")]
    assert (launcher.layers[0], launcher.user) == (debian, "")
    assert (len(operator.layers), operator.user) == (1, "1001")
    with tarfile.open(launcher.layers[1].path) as layer:
        assert layer.getmember("var/run").linkname == "../run"
        capability = layer.getmember("usr/bin/virt-launcher-monitor").pax_headers["SCHILY.xattr.security.capability"]
        assert capability.encode()[5] == 1 << (10 - 8)  # CAP_NET_BIND_SERVICE is number 10
        qemu = layer.extractfile("etc/libvirt/qemu.conf")
        assert qemu is not None
        assert qemu.read() == b"cmd/virt-launcher/qemu.conf"
        assert layer.getmember("usr/sbin/virtqemud").mode == 0o755
    with tarfile.open(operator.layers[0].path) as layer:
        assert layer.getnames() == ["usr", "usr/bin", "tmp", "usr/bin/virt-operator"]


def test_what_debian_brings_and_kubevirt_replaces_is_left_out() -> None:
    for path in ("etc/passwd", "dev", "dev/null", "var/run", "var/run/x", "usr/bin/qemu-system-i386", "tmp"):
        assert not kubevirt._keep(path)
    for path in ("etc/libvirt/virtlogd.conf", "usr/bin/qemu-system-x86_64", "usr/sbin/libvirtd", "var/lib/libvirt"):
        assert kubevirt._keep(path)


async def test_the_archive_is_made_once(tmp_path: Path, module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    async def base(*_: Any, **__: Any) -> Path:
        made.append("base")
        return write_debian(tmp_path / "debian.tar")

    async def find(*_: Any, **__: Any) -> Path:
        return module

    monkeypatch.setattr(kubevirt, "ensure_base", base)
    monkeypatch.setattr(kubevirt, "find_module", find)
    lines: list[str] = []
    for _ in range(2):
        archive, parts = await ensure_kubevirt_images(source=FakeSource(), cache=tmp_path, report=lines.append)
    assert made == ["base"]
    assert find_kubevirt_images(source=FakeSource(), cache=tmp_path) == (archive, parts)
    assert find_kubevirt_images(source=FakeSource("c" * 64), cache=tmp_path) is None
    assert archive.name.startswith(f"{KUBEVIRT_VERSION}-")
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]
    assert set(parts) == {part.name for part in list_kubevirt_parts()}
    index = json.loads(read_archive(archive)["index.json"])
    names = [manifest["annotations"]["io.containerd.image.name"] for manifest in index["manifests"]]
    assert tuple(names) == list_image_names()
    other, _ = await ensure_kubevirt_images(source=FakeSource("b" * 64), cache=tmp_path, report=lines.append)
    assert other != archive


async def test_a_node_image_becomes_a_containerdisk(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("disk.qcow2", "vmlinuz", "initrd.img")}
    for name, path in files.items():
        path.write_text(name)
    made = await run(["qemu-img", "create", "-q", "-f", "qcow2", str(files["disk.qcow2"]), "3G"])
    made.require_success("making a disk", reason="Test")
    disk, kernel, initrd = files.values()
    image = NodeImage("v1.99.0", "ab" * 32, disk, kernel, initrd, "console=ttyS0", 1 << 30)
    lines: list[str] = []
    archive = await build_containerdisk(image, cache=tmp_path, report=lines.append)
    assert await build_containerdisk(image, cache=tmp_path, report=lines.append) == archive
    assert len(lines) == 2
    blobs = read_archive(archive)
    (manifest,) = json.loads(blobs["index.json"])["manifests"]
    assert (
        manifest["annotations"]["io.containerd.image.name"] == containerdisk_name("v1.99.0") == "capn.dev/node:v1.99.0"
    )
    (layer,) = load(blobs, manifest)["layers"]
    (tmp_path / "layer.tar").write_bytes(blobs[f"blobs/{layer['digest'].replace(':', '/')}"])
    with tarfile.open(tmp_path / "layer.tar") as tar:
        found = {member.name: (member.uid, member.gid, member.mode) for member in tar if member.isfile()}
        tar.extract("disk/disk.qcow2", tmp_path)
    assert found == dict.fromkeys(("boot/initrd.img", "boot/vmlinuz", "disk/disk.qcow2"), (107, 107, 0o440))
    shown = await run(["qemu-img", "info", str(tmp_path / "disk/disk.qcow2")])
    assert f"virtual size: {IMAGE_GIB} GiB" in "\n".join(shown.tail)
    assert disk.stat().st_size < 1 << 20, "the node image itself is left as it was"
