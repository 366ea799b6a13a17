from __future__ import annotations

import os
from pathlib import Path

import pytest

from capn.image import own
from capn.image.catalogue import KEPT, MANIFEST_NAME, prune

PINNED = """\
# made by a tool
aiohttp==3.14.5 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via
    #   capn
libvirt-python==12.8.0 \\
    --hash=sha256:cc
    # via capn
libvirt-python-extra==1.0 \\
    --hash=sha256:dd
"""


def test_a_requirement_goes_with_its_hashes_and_no_other_does() -> None:
    left = own.drop_requirement(PINNED, "libvirt-python")
    assert "libvirt-python==" not in left
    assert "sha256:cc" not in left
    assert [line for line in PINNED.splitlines() if line not in left.splitlines()] == [
        "libvirt-python==12.8.0 \\",
        "    --hash=sha256:cc",
        "    # via capn",
    ]


def test_the_image_has_the_package_with_its_manifests_and_nothing_else() -> None:
    sources = own.list_sources()
    assert {"capn/__main__.py", "capn/build/guest/bootstrap.sh", "capn/_config/manager/deployment.yaml"} <= set(sources)
    assert "capn/_crds/capn.dev_nestedclusters.yaml" in sources
    assert all(name.startswith("capn/") and "__pycache__" not in name for name in sources)


def test_a_change_of_any_source_makes_another_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("a = 1\n")
    monkeypatch.setattr(own, "list_sources", lambda: {"capn/a.py": file})
    before = own.compute_digest()
    assert own.compute_digest() == before
    file.write_text("a = 2\n")
    assert own.compute_digest() != before


def test_only_the_newest_images_of_a_version_are_kept(tmp_path: Path) -> None:
    names = [f"v1.37.2-{number}" for number in range(KEPT + 2)]
    for age, name in enumerate([*names, "v1.36.1-0"]):
        (tmp_path / name).mkdir()
        manifest = tmp_path / name / MANIFEST_NAME
        manifest.write_text("{}")
        os.utime(manifest, (1000 - age, 1000 - age))
    unfinished = tmp_path / "v1.37.2-unfinished"
    unfinished.mkdir()
    assert prune(tmp_path, "v1.37.2") == names[KEPT:]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[:KEPT], "v1.36.1-0", unfinished.name])
    assert prune(tmp_path, "v1.37.2") == []
