from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from capn.errors import InvalidSpecError, TerminalError
from capn.image import build, debian, recipe
from capn.image.build import ImageBuild, ensure_image
from capn.image.catalogue import MANIFEST_NAME
from capn.parts.catalogue import Part, list_parts
from capn.parts.ensure import ensure_parts
from capn.parts.gobuild import GoBuildSource
from tests.unit.image.test_catalogue import MANIFEST
from tests.unit.parts.fakes import write_program

NAMES = ("registry.test/pause:3",)


class Scripts:
    """A source whose kubeadm lists one image and warns once; nothing else does anything."""

    def supports(self, part: Part) -> bool:  # noqa: ARG002
        return True

    def digest(self, part: Part) -> str:
        return GoBuildSource().digest(part)

    async def fetch(self, part: Part, target: Path) -> None:  # noqa: ARG002
        write_program(target, f"echo 'W1 a warning'; echo {NAMES[0]}")


async def planned(cache: Path) -> ImageBuild:
    parts = list_parts()
    paths = await ensure_parts(parts, source=Scripts(), cache=cache, report=lambda _: None)
    return await build._plan("v1.37.2", parts, paths)


async def ensure(cache: Path) -> object:
    return await ensure_image("v1.37.2", source=Scripts(), cache=cache, report=lambda _: None)


async def test_the_names_are_kubeadms_without_its_warnings(tmp_path: Path) -> None:
    assert (await planned(tmp_path)).names == NAMES


async def test_what_is_there_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere:/bin:/usr/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # finding needs no root
    target = (await planned(tmp_path)).directory(tmp_path)
    target.mkdir(parents=True)
    (target / MANIFEST_NAME).write_text(MANIFEST.model_dump_json())
    image = await ensure_image("v1.37.2", source=Scripts(), cache=tmp_path, report=lambda _: None)
    assert image.disk == target / "disk.qcow2"


async def test_the_digest_follows_every_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = await planned(tmp_path)
    digests = {plan.digest(), plan.digest()}
    assert len(digests) == 1
    other_part = {**plan.parts, "runc": tmp_path / "parts/runc/v9-x/runc"}
    digests.add(dataclasses.replace(plan, parts=other_part).digest())
    digests.add(dataclasses.replace(plan, names=("registry.test/pause:4",)).digest())
    (tmp_path / "changed").write_text("x")
    monkeypatch.setattr(recipe, "INITRD_SCRIPT", tmp_path / "changed")
    digests.add(plan.digest())
    assert len(digests) == 4


async def test_others_than_root_are_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(TerminalError, match=r"needs root .* run it with sudo"):
        await ensure(tmp_path)


async def test_a_full_disk_is_seen_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 << 30))
    with pytest.raises(TerminalError, match="has 3 GiB free, a node image needs 8 GiB"):
        await ensure(tmp_path)


async def test_a_failed_build_leaves_nothing_and_removes_what_a_killed_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    write_program(tmp_path / "bin/mmdebstrap", "echo 'E: no mirror'; exit 25")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    stale = tmp_path / "images/node/.work-00000000/root"
    stale.mkdir(parents=True)
    with pytest.raises(TerminalError, match=r"Debian base node: mmdebstrap ended with status 25:\n  E: no mirror"):
        await ensure(tmp_path)
    assert list((tmp_path / "images/node").iterdir()) == []
    assert list((tmp_path / "images/base").iterdir()) == []


async def test_an_unknown_version_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecError, match=r"no pinned modules for Kubernetes v1\.2\.3"):
        await ensure_image("v1.2.3", source=Scripts(), cache=tmp_path, report=lambda _: None)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - a path's own method would block the loop


def test_the_base_is_named_by_its_packages(tmp_path: Path) -> None:
    base = debian.DebianBase("node", ("systemd", "udev"), configured=True)
    argv = base.argv(tmp_path / "x.tar", "http://mirror.test/debian")
    assert argv[0] == "mmdebstrap"
    assert "--include=systemd,udev" in argv
    assert argv[-3:] == ["bookworm", f"{tmp_path}/x.tar", "http://mirror.test/debian"]
    changed = [dataclasses.replace(base, packages=("systemd",)), dataclasses.replace(base, suite="trixie")]
    assert len({base.digest(), *(other.digest() for other in changed)}) == 3


def test_the_network_layer_drops_directories_as_a_whole() -> None:
    for path in ("dev", "dev/null", "etc/resolv.conf", "usr/share/doc/x", "usr/share"):
        assert not build._keep_in_network_layer(path)
    for path in ("usr/sbin/nft", "usr/lib/x86_64-linux-gnu/xtables/libxt_MARK.so", "etc/protocols", "device"):
        assert build._keep_in_network_layer(path)
