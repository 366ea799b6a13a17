from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from capn.errors import InvalidSpecError, NotFoundError, TerminalError
from capn.parts import host
from capn.parts.hack import hack_dir
from tests.unit.parts.fakes import write_program

PACKAGES = (host.HostPackage("one", "build"), host.HostPackage("two", "image"))


def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    write_program(tmp_path / "bin" / name, script)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")


def test_the_list_is_complete_and_split_by_purpose() -> None:
    every = host.list_packages()
    assert {"gcc", "libseccomp-dev", "mmdebstrap", "qemu-system-x86", "libvirt-daemon"} <= {p.name for p in every}
    parts = [host.list_packages([purpose]) for purpose in host.PURPOSES]
    assert sorted(p.name for part in parts for p in part) == sorted({p.name for p in every})


def test_unknown_purposes_and_bad_lines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecError, match="unknown: kitchen; use some of: build, image, hypervisor, node, test"):
        host.list_packages(["kitchen"])
    (tmp_path / "apt-packages.txt").write_text("# fine\ngcc build\nmake\n")
    with pytest.raises(InvalidSpecError, match=r"apt-packages\.txt: bad line 'make'"):
        host.list_packages(hack=tmp_path)


def test_missing_ones_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, monkeypatch, "dpkg-query", "echo 'installed one'; echo 'config-files two'; exit 1")
    assert host.find_missing(PACKAGES) == ["two"]


def test_without_dpkg_the_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFoundError, match="Debian packages: one two"):
        host.find_missing(PACKAGES)


def test_installing_reports_and_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    record = f'echo "$DEBIAN_FRONTEND $*" >> {tmp_path}/calls; echo "Setting up one (1.0) ..."'
    put(tmp_path, monkeypatch, "apt-get", record)
    lines: list[str] = []
    host.install_packages(["one"], report=lines.append)
    update, install = (tmp_path / "calls").read_text().splitlines()
    assert update.startswith("noninteractive update")
    assert install.startswith("noninteractive install --yes --no-install-recommends")
    assert install.endswith(" one")
    assert lines[0] == "installing 1 apt packages: one"
    assert "  Setting up one (1.0)" in lines


def test_nothing_to_install_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lines: list[str] = []
    host.install_packages([], report=lines.append)
    assert lines == []


def test_a_failing_apt_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    put(tmp_path, monkeypatch, "apt-get", "echo 'E: no network'; exit 100")
    with pytest.raises(TerminalError, match=r"apt-get update ended with status 100:\n  E: no network"):
        host.install_packages(["one"], report=lambda _: None)


def test_others_than_root_use_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    put(tmp_path, monkeypatch, "sudo", f'echo "$*" >> {tmp_path}/calls')
    host.install_packages(["one"], report=lambda _: None)
    assert "env DEBIAN_FRONTEND=noninteractive apt-get update" in (tmp_path / "calls").read_text()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TerminalError, match="run it as root"):
        host.install_packages(["one"], report=lambda _: None)


def test_the_command_needs_no_virtual_environment(tmp_path: Path) -> None:
    # -S -E: no site-packages, so that only the standard library can be found
    argv = ["python3", "-S", "-E", "-m", "capn.parts.host", "check", "kitchen"]
    done = subprocess.run(argv, cwd=hack_dir().parent, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("purpose: unknown: kitchen")
    assert not list(tmp_path.iterdir())


def test_check_prints_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, monkeypatch, "dpkg-query", "exit 1")
    assert host.main(["check", "image"]) == 1
    assert "mmdebstrap" in capsys.readouterr().out.splitlines()
    assert host.main(["frob"]) == 2
