from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from capn.image.oci import LayerEntry, OciImage, filter_layer, write_archive, write_layer


def read_archive(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def load(blobs: dict[str, bytes], descriptor: dict[str, Any]) -> Any:
    blob = blobs[f"blobs/{descriptor['digest'].replace(':', '/')}"]
    assert hashlib.sha256(blob).hexdigest() == descriptor["digest"].removeprefix("sha256:")
    assert len(blob) == descriptor["size"]
    return json.loads(blob)


def build(work: Path) -> Path:
    work.mkdir(exist_ok=True)
    program = work / "program"
    program.write_bytes(b"\x7fELF")
    base = write_layer([LayerEntry("usr/bin/sh", source=program)], work / "base.tar")
    own = write_layer(
        [
            LayerEntry("opt/b", link="a"),
            LayerEntry("opt/a", source=program, mode=0o700),
            LayerEntry("tmp", mode=0o1777),
        ],
        work / "own.tar",
    )
    images = [
        OciImage("registry.test/one:v1", (base, own), entrypoint=("/opt/a",)),
        OciImage("registry.test/two:v1", (base,), command=("sh",)),
    ]
    write_archive(images, work / "images.tar", architecture="amd64")
    return work / "images.tar"


def test_the_archive_is_a_valid_layout(tmp_path: Path) -> None:
    blobs = read_archive(build(tmp_path))
    assert json.loads(blobs["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(blobs["index.json"])
    names = [manifest["annotations"]["io.containerd.image.name"] for manifest in index["manifests"]]
    assert names == ["registry.test/one:v1", "registry.test/two:v1"]
    manifest = load(blobs, index["manifests"][0])
    config = load(blobs, manifest["config"])
    assert config["config"]["Entrypoint"] == ["/opt/a"]
    assert "Cmd" not in config["config"]
    assert (config["os"], config["architecture"]) == ("linux", "amd64")
    # Layers are not compressed, so the digests of the blobs and of their content are the same.
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]


def test_a_shared_layer_is_there_once(tmp_path: Path) -> None:
    with tarfile.open(build(tmp_path)) as archive:
        names = archive.getnames()
    assert len(names) == len(set(names)) == 2 + 2 + 2 * 2  # layout and index, two layers, two images


def test_layers_hold_what_was_asked_for(tmp_path: Path) -> None:
    build(tmp_path)
    with tarfile.open(tmp_path / "own.tar") as layer:
        assert layer.getnames() == ["opt", "opt/a", "opt/b", "tmp"]
        assert layer.getmember("opt/a").mode == 0o700
        assert layer.getmember("opt/b").linkname == "a"
        assert layer.getmember("tmp").mode == 0o1777
        assert {(member.uid, member.gid, member.mtime) for member in layer} == {(0, 0, 0)}


def test_two_writes_give_the_same_bytes(tmp_path: Path) -> None:
    assert build(tmp_path / "x").read_bytes() == build(tmp_path / "y").read_bytes()


def test_filtering_drops_paths_and_times(tmp_path: Path) -> None:
    source = tmp_path / "debian.tar"
    with tarfile.open(source, "w") as archive:
        for name, kind in (
            ("./", tarfile.DIRTYPE),
            ("./usr", tarfile.DIRTYPE),
            ("./usr/tool", tarfile.REGTYPE),
            ("./usr/same", tarfile.LNKTYPE),
            ("./etc/resolv.conf", tarfile.REGTYPE),
        ):
            header = tarfile.TarInfo(name)
            header.type, header.mtime, header.linkname = kind, 1234, "./usr/tool" if kind == tarfile.LNKTYPE else ""
            header.size = 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(header, io.BytesIO(b"tool"))
    layer = filter_layer(source, tmp_path / "layer.tar", keep=lambda path: not path.startswith("etc/"))
    with tarfile.open(layer.path) as kept:
        assert kept.getnames() == ["usr", "usr/tool", "usr/same"]
        assert kept.getmember("usr/same").linkname == "usr/tool"
        assert {member.mtime for member in kept} == {0}
        assert kept.extractfile("usr/tool").read() == b"tool"  # type: ignore[union-attr]


def test_entries_may_have_text_an_owner_and_a_capability(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    write_layer(
        [
            LayerEntry("bin/p", source=program, capability=capability),
            LayerEntry("disk/d", source=program, mode=0o440, owner=107),
            LayerEntry("etc/passwd", content="root:x:0:0::/root:/bin/sh\n", mode=0o644),
        ],
        tmp_path / "layer.tar",
    )
    with tarfile.open(tmp_path / "layer.tar") as layer:
        assert layer.getmember("bin/p").pax_headers == {"SCHILY.xattr.security.capability": capability.decode()}
        disk = layer.getmember("disk/d")
        assert (disk.uid, disk.gid, disk.mode, disk.size) == (107, 107, 0o440, 4)
        assert layer.getmember("disk").uid == 0
        text = layer.extractfile("etc/passwd")
        assert text is not None
        assert text.read() == b"root:x:0:0::/root:/bin/sh\n"


def test_an_image_may_name_its_user(tmp_path: Path) -> None:
    layer = write_layer([LayerEntry("tmp")], tmp_path / "layer.tar")
    write_archive([OciImage("registry.test/one:v1", (layer,), user="1001")], tmp_path / "a.tar", architecture="amd64")
    blobs = read_archive(tmp_path / "a.tar")
    manifest = load(blobs, json.loads(blobs["index.json"])["manifests"][0])
    assert load(blobs, manifest["config"])["config"]["User"] == "1001"
