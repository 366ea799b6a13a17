from __future__ import annotations

import io
from typing import Any

from pycdlib import PyCdlib

from capn.build.seed import build_seed


def read_seed(image: bytes, kind: str) -> dict[str, bytes]:
    """The files of an image, by their Joliet or Rock Ridge names."""
    iso: Any = PyCdlib()
    iso.open_fp(io.BytesIO(image))
    found = {}
    for child in iso.list_children(**{f"{kind}_path": "/"}):
        if child.is_file():
            name = child.rock_ridge.name().decode() if kind == "rr" else child.file_identifier().decode("utf-16-be")
            content = io.BytesIO()
            iso.get_file_from_iso_fp(content, **{f"{kind}_path": f"/{name}"})
            found[name] = content.getvalue()
    iso.close()
    return found


def test_files_have_their_names_and_bytes() -> None:
    image = build_seed(b"#cloud-config\n" + bytes(range(256)) * 200, b"instance-id: x\n", b"version: 2\n")
    expected = {
        "user-data": b"#cloud-config\n" + bytes(range(256)) * 200,
        "meta-data": b"instance-id: x\n",
        "network-config": b"version: 2\n",
    }
    assert read_seed(image, "joliet") == expected
    assert read_seed(image, "rr") == expected


def test_network_config_is_optional() -> None:
    assert sorted(read_seed(build_seed(b"a", b"b"), "rr")) == ["meta-data", "user-data"]


def test_the_volume_id_is_what_cloud_init_looks_for() -> None:
    image = build_seed(b"a", b"b")
    # ECMA-119: the primary volume descriptor is sector 16; its volume identifier has 32 bytes from byte 41.
    assert image[16 * 2048 + 1 : 16 * 2048 + 6] == b"CD001"
    assert image[16 * 2048 + 40 : 16 * 2048 + 72].rstrip() == b"CIDATA"
