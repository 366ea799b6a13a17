from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from capn.errors import NotFoundError, TerminalError
from capn.image import recipe
from capn.image.rootfs import find_kernel, install_node, remove_path, require_no_login

SANDBOX = "registry.test/pause:3"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for directory in ("boot", "root/.ssh", "etc/ssh", "lib/systemd/system", "var/lib/dbus", "usr/bin"):
        (root / directory).mkdir(parents=True)
    for unit in ("systemd-networkd.service", "systemd-resolved.service"):
        (root / "lib/systemd/system" / unit).write_text("[Unit]\n")
    (root / "etc/shadow").write_text("root:*:1:0:::::\ndaemon:*:1::::::\nsystemd-network:!*:1::::::\n")
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "etc/hostname").write_text("builder\n")
    (root / "etc/resolv.conf").symlink_to("/dangling")
    return root


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / name for name in (*recipe.NODE_PROGRAMS, *recipe.CNI_PROGRAMS)}
    for path in paths.values():
        path.write_text(path.name)
    return paths


def test_programs_are_executable_in_their_places(root: Path, programs: dict[str, Path]) -> None:
    install_node(root, programs=programs, sandbox=SANDBOX)
    for path in ("usr/bin/kubelet", "usr/bin/kubeadm", "usr/sbin/runc", "opt/cni/bin/flannel", "opt/cni/bin/bridge"):
        assert (root / path).read_text() == Path(path).name
        assert (root / path).stat().st_mode & 0o777 == 0o755


def test_nothing_of_the_build_machine_stays(root: Path, programs: dict[str, Path]) -> None:
    install_node(root, programs=programs, sandbox=SANDBOX)
    assert (root / "etc/machine-id").read_text() == ""
    assert not (root / "etc/hostname").exists()
    assert not (root / "root/.ssh").exists()
    assert not (root / "etc/ssh").exists()
    assert (root / "etc/resolv.conf").readlink() == Path("/run/systemd/resolve/resolv.conf")


def test_units_are_enabled_and_consoles_masked(root: Path, programs: dict[str, Path]) -> None:
    install_node(root, programs=programs, sandbox=SANDBOX)
    units = root / "etc/systemd/system"
    for unit in ("serial-getty@ttyS0.service", "getty@tty1.service", "apt-daily.timer"):
        assert (units / unit).readlink() == Path("/dev/null")
    for unit in recipe.ENABLED_UNITS:
        target = (units / "multi-user.target.wants" / unit).readlink()
        assert (root / target.relative_to("/")).is_file()


def test_a_unit_that_debian_dropped_is_an_error(root: Path, programs: dict[str, Path]) -> None:
    (root / "lib/systemd/system/systemd-resolved.service").unlink()
    with pytest.raises(NotFoundError, match=r"no unit systemd-resolved\.service"):
        install_node(root, programs=programs, sandbox=SANDBOX)


def test_containerd_is_configured_for_the_kubelet(root: Path, programs: dict[str, Path]) -> None:
    install_node(root, programs=programs, sandbox=SANDBOX)
    config = tomllib.loads((root / "etc/containerd/config.toml").read_text())
    plugins = config["plugins"]
    assert plugins["io.containerd.cri.v1.images"]["pinned_images"]["sandbox"] == SANDBOX
    runtime = plugins["io.containerd.cri.v1.runtime"]
    assert runtime["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"] is True
    assert runtime["cni"]["bin_dirs"] == [f"/{recipe.CNI_DIRECTORY}"]


@pytest.mark.parametrize(
    ("virtualization", "expected"),
    [("vm:qemu", "[Service]\nTimerSlackNSec=40ms\n"), ("vm:kvm", None), ("", None), (None, None)],
)
def test_timers_are_late_under_emulation_only(
    root: Path, programs: dict[str, Path], tmp_path: Path, virtualization: str | None, expected: str | None
) -> None:
    install_node(root, programs=programs, sandbox=SANDBOX)
    generator = root / "etc/systemd/system-generators/capn-calm"
    assert generator.stat().st_mode & 0o777 == 0o755
    told = {} if virtualization is None else {"SYSTEMD_VIRTUALIZATION": virtualization}
    places = [tmp_path / name for name in ("normal", "early", "late")]
    subprocess.run([generator, *places], env={"PATH": os.environ["PATH"], **told}, check=True)
    drop_in = places[0] / "service.d/10-capn-calm.conf"
    assert (drop_in.read_text() if drop_in.exists() else None) == expected


def test_cloud_init_does_only_what_the_bootstrap_needs() -> None:
    config = yaml.safe_load((recipe.ROOTFS_DIR / "etc/cloud/cloud.cfg").read_text())
    assert config["datasource_list"] == ["NoCloud"]
    assert config["datasource"]["NoCloud"]["meta-data"] == {"dsmode": "local"}  # else the masked stage would be needed
    assert "cloud-init.service" in recipe.MASKED_UNITS
    assert config["users"] == []
    assert config["ssh_pwauth"] is False
    assert config["network"] == {"config": "disabled"}
    assert {"bootcmd", "write_files", "set_hostname", "runcmd"} == set(config["cloud_init_modules"])
    assert config["cloud_final_modules"] == ["scripts_user"]


@pytest.mark.parametrize("password", ["", "$y$j9T$abc$def"])
def test_an_account_with_a_password_is_refused(root: Path, password: str) -> None:
    (root / "etc/shadow").write_text(f"root:{password}:1:0:::::\n")
    remove_path(root / "root/.ssh")
    with pytest.raises(TerminalError, match="would let root log in with a password"):
        require_no_login(root)


@pytest.mark.parametrize("path", ["root/.ssh/authorized_keys", "home/x/.ssh/authorized_keys", "usr/sbin/sshd"])
def test_a_way_in_by_ssh_is_refused(root: Path, path: str) -> None:
    remove_path(root / "root/.ssh")
    require_no_login(root)
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("x")
    with pytest.raises(TerminalError, match="the node image would hold"):
        require_no_login(root)


def test_the_kernel_is_found_only_if_there_is_one(root: Path) -> None:
    with pytest.raises(NotFoundError, match=r"expected one kernel .* found \[\]"):
        find_kernel(root)
    (root / "boot/vmlinuz-6.1.0").write_text("k")
    assert find_kernel(root) == (root / "boot/vmlinuz-6.1.0", root / "usr/lib/modules/6.1.0")


def test_something_hears_the_power_button() -> None:
    assert "systemd-logind.service" not in recipe.MASKED_UNITS
    assert {"dbus", "systemd", "udev"} <= set(recipe.NODE_PACKAGES)


def test_units_and_paths_of_the_recipe_exist() -> None:
    for unit in ("containerd.service", "kubelet.service"):
        assert (recipe.ROOTFS_DIR / "etc/systemd/system" / unit).is_file()
    assert recipe.INITRD_SCRIPT.read_text().startswith("#!/bin/busybox sh\n")
    assert "console=ttyS0" in recipe.KERNEL_COMMAND_LINE.split()
