"""Stage `restore` of the guest's bootstrap program: once, whole, before kubeadm, and found again after a reboot."""

from __future__ import annotations

from pathlib import Path

import pytest

from capn.build.cloudinit import read_guest_program
from capn.build.diagnosis import diagnose
from capn.build.report import ReportState
from tests.unit.build.guest_sandbox import GuestSandbox

# What the real ones do as far as the program around them sees: a file appears, a data directory appears.
_AFTER = 'echo "$@" >>{{root}}/{log}; for word; do case "$before" in {flag}) {deed};; esac; before=$word; done'
RECEIVE = _AFTER.format(log="received", flag="--target", deed='echo snapshot >"$word"')
ETCDUTL = _AFTER.format(log="restored", flag="--data-dir", deed='mkdir -p "$word/member"')


@pytest.fixture
def guest(tmp_path: Path) -> GuestSandbox:
    sandbox = GuestSandbox(tmp_path)
    sandbox.environment = {
        "CAPN_RESTORE": "yes",
        "CAPN_NODE_NAME": "c1-cp-0",
        "CAPN_ADVERTISE_ADDRESS": "10.89.0.10",
    }
    (tmp_path / "lib/receive.py").write_text(read_guest_program("receive.py"))
    (tmp_path / "etc/capn/receive.key").write_text("key")
    sandbox.program("python3", RECEIVE.format(root=tmp_path))
    sandbox.program("etcdutl", ETCDUTL.format(root=tmp_path))
    sandbox.program(
        "kubeadm", f'ls -d {tmp_path}/var/lib/etcd/member >/dev/null || exit 3; echo "$@" >>{tmp_path}/kubeadm'
    )
    return sandbox


def read(guest: GuestSandbox, name: str) -> list[str]:
    path = guest.root / name
    return path.read_text().splitlines() if path.exists() else []


def test_the_snapshot_is_taken_and_made_etcds_data_before_kubeadm(guest: GuestSandbox) -> None:
    assert guest.run() == 0
    stages = guest.stages()
    assert stages[stages.index("network") :][:4] == ["network", "restore/waiting", "restore/etcd", "runtime"]
    assert guest.reports()[-1].state is ReportState.SUCCEEDED
    state = f"{guest.root}/var/lib/capn/snapshot.db"
    received = (
        f"{guest.root}/lib/receive.py --port 6443 --target {state}"
        f" --ca {guest.root}/etc/kubernetes/pki/ca.crt --certificate {guest.root}/etc/capn/receive.crt"
        f" --key {guest.root}/etc/capn/receive.key"
    )
    assert read(guest, "received") == [received]
    restored = (
        f"snapshot restore {state} --data-dir {guest.root}/var/lib/etcd.new"
        " --name c1-cp-0 --initial-cluster c1-cp-0=https://10.89.0.10:2380"
        " --initial-advertise-peer-urls https://10.89.0.10:2380 --bump-revision 1000000000 --mark-compacted"
    )
    assert read(guest, "restored") == [restored]
    assert read(guest, "kubeadm") == [
        f"init --config {guest.root}/etc/capn/kubeadm.yaml --ignore-preflight-errors=DirAvailable--var-lib-etcd"
    ]
    assert not (guest.root / "var/lib/capn/snapshot.db").exists()
    assert not (guest.root / "etc/capn/receive.key").exists()


def test_without_being_asked_it_restores_nothing(guest: GuestSandbox) -> None:
    guest.environment.clear()
    guest.program("kubeadm", f'echo "$@" >>{guest.root}/kubeadm')
    assert guest.run() == 0
    assert (read(guest, "received"), read(guest, "restored")) == ([], [])
    assert read(guest, "kubeadm") == [f"init --config {guest.root}/etc/capn/kubeadm.yaml"]


@pytest.mark.parametrize(
    ("address", "url"), [("", "https://10.89.0.77:2380"), ("fd00::7", "https://[fd00::7]:2380")], ids=["own", "v6"]
)
def test_the_members_address_is_the_one_that_kubeadm_takes(guest: GuestSandbox, address: str, url: str) -> None:
    guest.environment["CAPN_ADVERTISE_ADDRESS"] = address
    guest.program(
        "ip", 'case "$*" in *"route get"*) echo "192.0.2.1 via 10.89.0.1 dev eth0 src 10.89.0.77 uid 0 \\\\ cache";;'
        ' *) echo "2: eth0 inet 10.89.0.77/24";; esac',
    )  # fmt: skip
    assert guest.run() == 0
    assert f"--initial-cluster c1-cp-0={url} --initial-advertise-peer-urls {url} " in read(guest, "restored")[0]


def test_a_reboot_after_the_upload_does_not_wait_for_another(guest: GuestSandbox) -> None:
    (guest.root / "var/lib/capn").mkdir(parents=True)
    (guest.root / "var/lib/capn/snapshot.db").write_text("whole")
    assert guest.run() == 0
    assert read(guest, "received") == []
    assert len(read(guest, "restored")) == 1


def test_a_reboot_in_the_middle_of_the_restore_makes_the_data_anew(guest: GuestSandbox) -> None:
    (guest.root / "var/lib/capn").mkdir(parents=True)
    (guest.root / "var/lib/capn/snapshot.db").write_text("whole")
    (guest.root / "var/lib/etcd.new/half").mkdir(parents=True)
    (guest.root / "var/lib/etcd").mkdir()
    assert guest.run() == 0
    assert not (guest.root / "var/lib/etcd/half").exists()
    assert (guest.root / "var/lib/etcd/member").is_dir()


@pytest.mark.parametrize("marked", [True, False])
def test_a_reboot_after_the_restore_leaves_the_data_as_it_is(guest: GuestSandbox, marked: bool) -> None:  # noqa: FBT001
    (guest.root / "var/lib/capn").mkdir(parents=True)
    (guest.root / "var/lib/etcd/member").mkdir(parents=True)
    if marked:
        (guest.root / "var/lib/capn/restored").touch()
    (guest.root / "var/lib/capn/attempted").touch()
    assert guest.run() == 0
    assert (read(guest, "received"), read(guest, "restored")) == ([], [])
    assert read(guest, "kubeadm")[0].count("DirAvailable--var-lib-etcd") == 1


def test_a_receiver_that_cannot_listen_is_said(guest: GuestSandbox) -> None:
    guest.program("python3", "echo 'OSError: [Errno 98] Address already in use' >&2; exit 1")
    assert guest.run() == 1
    last = guest.reports()[-1]
    assert (last.stage, last.state) == ("restore/waiting", ReportState.FAILED)
    assert diagnose(last).reason == "PortInUse"


def test_a_snapshot_that_etcdutl_does_not_take_is_said_and_kubeadm_not_run(guest: GuestSandbox) -> None:
    guest.program("etcdutl", "echo 'Error: expected sha256 [1 2], got [3 4]' >&2; exit 1")
    assert guest.run() == 1
    last = guest.reports()[-1]
    assert (last.stage, last.state) == ("restore/etcd", ReportState.FAILED)
    assert diagnose(last).reason == "RestoreFailed"
    assert read(guest, "kubeadm") == []
    assert not (guest.root / "var/lib/etcd").exists()


def test_an_image_without_etcdutl_is_said(guest: GuestSandbox) -> None:
    (guest.root / "bin/etcdutl").unlink()
    assert guest.run() == 1
    assert diagnose(guest.reports()[-1]).reason == "RestoreFailed"
