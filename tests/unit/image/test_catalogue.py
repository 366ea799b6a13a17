from __future__ import annotations

import os
from pathlib import Path

from capn.image.catalogue import MANIFEST_NAME, ImageCatalogue, ImageManifest, LoadedImage, read_manifest
from capn.providers.images import ImageSource

MANIFEST = ImageManifest(
    version="v1.37.2",
    architecture="amd64",
    digest="d" * 64,
    cmdline="root=/dev/vda",
    minimum_disk_bytes=3 << 30,
    kernel_release="6.1.0",
    images=(LoadedImage(name="registry.test/pause:1", bytes=5),),
    tools={"runc": "v1.5.2"},
)


def put(directory: Path, name: str, *, manifest: ImageManifest = MANIFEST, age_s: int = 0) -> None:
    (directory / name).mkdir(parents=True)
    path = directory / name / MANIFEST_NAME
    path.write_text(manifest.model_dump_json())
    os.utime(path, (10**9 - age_s, 10**9 - age_s))


def test_an_image_is_found_by_its_exact_version(tmp_path: Path) -> None:
    put(tmp_path, "v1.37.2-aaa")
    source: ImageSource = ImageCatalogue(tmp_path)
    image = source.find("v1.37.2")
    assert image is not None
    assert (image.version, image.digest, image.cmdline) == ("v1.37.2", "d" * 64, "root=/dev/vda")
    assert image.disk == tmp_path / "v1.37.2-aaa/disk.qcow2"
    assert image.kernel == tmp_path / "v1.37.2-aaa/vmlinuz"
    assert image.initrd == tmp_path / "v1.37.2-aaa/initrd.img"
    assert image.minimum_disk_bytes == 3 << 30
    assert source.find("v1.37.20") is None
    assert source.find("v1.37") is None
    assert source.find("v1.36.0") is None


def test_the_one_built_last_wins(tmp_path: Path) -> None:
    put(tmp_path, "v1.37.2-aaa", manifest=MANIFEST.model_copy(update={"digest": "a" * 64}), age_s=100)
    put(tmp_path, "v1.37.2-bbb", manifest=MANIFEST.model_copy(update={"digest": "b" * 64}), age_s=0)
    put(tmp_path, "v1.37.2-ccc", manifest=MANIFEST.model_copy(update={"digest": "c" * 64}), age_s=50)
    image = ImageCatalogue(tmp_path).find("v1.37.2")
    assert image is not None
    assert image.digest == "b" * 64


def test_versions_are_listed_once(tmp_path: Path) -> None:
    put(tmp_path, "v1.37.2-aaa")
    put(tmp_path, "v1.37.2-bbb")
    put(tmp_path, "v1.36.3-ccc", manifest=MANIFEST.model_copy(update={"version": "v1.36.3"}))
    assert ImageCatalogue(tmp_path).versions() == ["v1.36.3", "v1.37.2"]


def test_what_is_not_a_whole_image_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "v1.37.2-half").mkdir()
    (tmp_path / "v1.37.2-damaged").mkdir()
    (tmp_path / "v1.37.2-damaged" / MANIFEST_NAME).write_text('{"version": "v1.37.2"')
    put(tmp_path, "v1.37.2-later", manifest=MANIFEST.model_copy(update={"format": 2}))
    put(tmp_path, "v1.37.2-renamed", manifest=MANIFEST.model_copy(update={"version": "v1.36.3"}))
    assert ImageCatalogue(tmp_path).find("v1.37.2") is None
    assert read_manifest(tmp_path / "v1.37.2-later" / MANIFEST_NAME) is None


def test_a_missing_directory_has_no_images(tmp_path: Path) -> None:
    catalogue = ImageCatalogue(tmp_path / "nowhere")
    assert catalogue.versions() == []
    assert catalogue.find("v1.37.2") is None
