from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest

from capn.providers import probe as probing
from capn.providers.probe import ProbeResult, choose_accel, find_kernel, probe, probe_all


def fake_qemu(directory: Path, script: str) -> str:
    path = directory / "qemu-fake"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(b"kernel")
    return path


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(probing, "_DEVICE", path)
    return path


async def test_a_kernel_that_gets_to_its_end_is_proof(tmp_path: Path, kernel: Path) -> None:
    script = "echo 'Linux version 6'; echo 'Kernel panic - not syncing: VFS: Unable to mount root fs'; sleep 60"
    started = time.monotonic()
    result = await probe("kvm", kernel, qemu=fake_qemu(tmp_path, script))
    assert result.works
    assert time.monotonic() - started < 30  # it does not wait for the end of a process that has said enough


@pytest.mark.parametrize(
    ("script", "detail"),
    [
        ("echo 'Linux version 6'; sleep 60", "hung half way"),
        ("sleep 60", "hung before its first word"),
        ("echo 'qemu-system-x86_64: error: failed to set MSR 0x10a'; kill -ABRT $$", "failed to set MSR 0x10a"),
        ("true", "ended before the kernel did"),
    ],
)
async def test_anything_less_is_not(tmp_path: Path, kernel: Path, script: str, detail: str) -> None:
    result = await probe("kvm", kernel, qemu=fake_qemu(tmp_path, f"exec 2>&1; {script}"), timeout_s=2)
    assert not result.works
    assert detail in result.detail
    assert "KVM does not work" in str(result)


async def test_what_the_host_lacks_is_an_answer(tmp_path: Path, kernel: Path, device: Path) -> None:
    assert "install qemu" in (await probe("emulate", kernel, qemu=str(tmp_path / "none"))).detail
    assert "build a node image" in (await probe("emulate", None)).detail
    device.unlink()
    assert "no /dev/kvm" in (await probe("kvm", kernel)).detail


async def test_both_are_tried(tmp_path: Path, kernel: Path) -> None:
    script = 'case "$*" in *accel=tcg*) echo "Kernel panic - not syncing: VFS";; esac'
    results = await probe_all(kernel, qemu=fake_qemu(tmp_path, script))
    assert [(result.accel, result.works) for result in results] == [("kvm", False), ("emulate", True)]
    assert choose_accel(results) == "emulate"


def test_kvm_is_chosen_only_when_it_works() -> None:
    kvm, emulation = ProbeResult("kvm", True, 1.0, ""), ProbeResult("emulate", True, 9.0, "")  # noqa: FBT003
    assert choose_accel([kvm, emulation]) == "kvm"
    assert choose_accel([emulation]) == "emulate"
    assert choose_accel([]) is None


def test_the_first_readable_kernel_is_taken(tmp_path: Path, kernel: Path) -> None:
    (tmp_path / "empty").touch()
    assert find_kernel([tmp_path / "none", tmp_path / "empty", kernel]) == kernel
