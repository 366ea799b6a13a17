from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from capn.errors import TerminalError
from capn.image.preload import Importer, build_config, preload_images
from tests.unit.parts.fakes import write_program

NAMES = ("registry.test/a:1", "registry.test/b:1")
# Serves nothing, but makes the socket as containerd does and ends on SIGTERM.
SERVING = """exec python3 -c '
import pathlib, signal, socket, sys, tomllib
config = tomllib.loads(pathlib.Path(sys.argv[1].removeprefix("--config=")).read_text())
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
s = socket.socket(socket.AF_UNIX); s.bind(config["grpc"]["address"]); s.listen()
signal.sigwait([signal.SIGTERM])
pathlib.Path(config["root"]).mkdir(parents=True, exist_ok=True)
(pathlib.Path(config["root"]) / "stopped").write_text("")
' "$1" """
TABLE = """case "$*" in
*check*) echo "REF TYPE DIGEST STATUS SIZE UNPACKED"; echo "registry.test/a:1 t d incomplete (1/2) 1 MiB/2 MiB true"
echo "registry.test/b:1 t d complete (2/2) 1 MiB/2 MiB %s" ;; esac
echo "$*" >> %s"""


def importer(tmp_path: Path, *, containerd: str, ctr: str) -> Importer:
    work = tmp_path / "work"
    work.mkdir()
    return Importer(write_program(tmp_path / "containerd", containerd), write_program(tmp_path / "ctr", ctr), work)


async def test_every_image_is_imported_and_pinned_and_containerd_stopped(tmp_path: Path) -> None:
    programs = importer(tmp_path, containerd=SERVING, ctr=TABLE % ("true", tmp_path / "calls"))
    await preload_images(tmp_path / "x.tar", NAMES, root=tmp_path / "root", importer=programs)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert all("--namespace k8s.io" in call for call in calls)
    assert calls[0].endswith(
        f"images import --local --discard-unpacked-layers --snapshotter overlayfs {tmp_path}/x.tar"
    )
    pins = [call.partition("label ")[2] for call in calls if "label" in call]
    assert pins == [f"{name} io.cri-containerd.pinned=pinned" for name in NAMES]
    assert (tmp_path / "root/var/lib/containerd/stopped").exists()


async def test_an_image_that_is_not_unpacked_is_an_error(tmp_path: Path) -> None:
    programs = importer(tmp_path, containerd=SERVING, ctr=TABLE % ("false", tmp_path / "calls"))
    with pytest.raises(TerminalError, match=r"not unpacked: registry\.test/b:1$"):
        await preload_images(tmp_path / "x.tar", NAMES, root=tmp_path / "root", importer=programs)
    assert (tmp_path / "root/var/lib/containerd/stopped").exists()


async def test_a_containerd_that_ends_is_explained(tmp_path: Path) -> None:
    programs = importer(tmp_path, containerd="echo 'no overlay here'; exit 1", ctr="exit 0")
    with pytest.raises(TerminalError, match=r"containerd ended by itself:\n  no overlay here"):
        await preload_images(tmp_path / "x.tar", NAMES, root=tmp_path / "root", importer=programs)


def test_the_configuration_quotes_paths(tmp_path: Path) -> None:
    odd = tmp_path / 'a "b" \\ c'
    config = tomllib.loads(build_config(store=odd, state=odd / "s", socket=odd / "x.sock"))
    assert config["root"] == str(odd)
    assert config["grpc"]["address"] == str(odd / "x.sock")
    assert "io.containerd.cri.v1.runtime" in config["disabled_plugins"]
