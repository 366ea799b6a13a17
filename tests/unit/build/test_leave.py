"""leave.sh, run below a directory of its own with stand-ins for what it calls."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from capn.build.cloudinit import read_guest_program

TOOLS = {
    # Held as long as the file `held` has lines; each look takes one.
    "ip": '[ ! -s "$T/held" ] || { echo "2: eth0 inet $5"; sed -i 1d "$T/held"; }',
    "systemctl": 'echo "$* with=$(ls "$CAPN_ROOT/etc/kubernetes/manifests")" >>"$T/calls"; test ! -s "$T/held"',
    "pgrep": '[ -s "$T/running" ] && sed -i 1d "$T/running"',
}


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    for directory in ("bin", "root/var/lib/etcd", "root/etc/kubernetes/manifests"):
        (tmp_path / directory).mkdir(parents=True)
    for name, body in TOOLS.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    (tmp_path / "root/etc/kubernetes/manifests/kube-apiserver.yaml").touch()
    return tmp_path


def leave(guest: Path, **more: str) -> None:
    env = {
        **os.environ,
        "PATH": f"{guest / 'bin'}:{os.environ['PATH']}",
        "T": str(guest),
        "CAPN_ROOT": str(guest / "root"),
        "CAPN_ENDPOINT_HOST": "10.0.0.10",
        "CAPN_PAUSE_S": "0",
        **more,
    }
    subprocess.run(["sh", "-c", read_guest_program("leave.sh")], env=env, check=True, timeout=60)


def test_nothing_is_stopped_before_another_has_the_address(guest: Path) -> None:
    (guest / "held").write_text("\n" * 5)
    (guest / "running").write_text("\n" * 3)
    leave(guest)
    # Its stand-in takes no call while the address is held, and saw the manifest where it was.
    assert (guest / "calls").read_text() == "stop keepalived with=kube-apiserver.yaml\n"
    assert (guest / "held").read_text() == (guest / "running").read_text() == ""
    assert (guest / "root/etc/kubernetes/kube-apiserver.left").exists()
    assert not list((guest / "root/etc/kubernetes/manifests").iterdir())
    assert (guest / "root/var/lib/etcd/capn-left").exists()


def test_an_api_server_that_does_not_end_holds_nothing_up(guest: Path) -> None:
    (guest / "running").write_text("\n" * 1000)
    leave(guest, CAPN_END_LIMIT="5")
    assert len((guest / "running").read_text()) == 995
    assert (guest / "root/var/lib/etcd/capn-left").exists()


def test_it_may_be_cut_off_and_run_again(guest: Path) -> None:
    leave(guest)
    (guest / "root/var/lib/etcd/capn-left").unlink()
    leave(guest)
    assert (guest / "root/etc/kubernetes/kube-apiserver.left").exists()
    assert (guest / "root/var/lib/etcd/capn-left").exists()
