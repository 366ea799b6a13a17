from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from capn.build.cloudinit import read_guest_program
from capn.build.diagnosis import diagnose
from capn.build.report import MAX_TAIL, ReportState
from capn.image import recipe
from tests.unit.build.guest_sandbox import TOKEN, GuestSandbox, end_session, wait_until

INIT_OUTPUT = """\
echo '[init] Using Kubernetes version: v1.37.2'
echo '[preflight] Running pre-flight checks'
echo '	[WARNING Hostname]: hostname could not be reached'
echo '[certs] Using certificateDir folder'
echo '[etcd] Creating static Pod manifest'
echo '[etcd] again'
echo '[Not A Phase] text'
echo '[addons] Applied essential addon: CoreDNS'
"""
UNKNOWN_FLAG = "2026-11-23T13:00:00.1Z stderr F Error: unknown flag: --no-such-flag\n"


@pytest.fixture
def guest(tmp_path: Path) -> GuestSandbox:
    return GuestSandbox(tmp_path)


@pytest.fixture
def endpoint(guest: GuestSandbox) -> Iterator[socket.socket]:
    """An API server as far as a joining machine's first look goes: something that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        guest.environment["CAPN_ENDPOINT_PORT"] = str(server.getsockname()[1])
        yield server


def test_init_reports_each_stage_once_and_its_success(guest: GuestSandbox) -> None:
    guest.program("kubeadm", f'echo "$@" >{guest.root}/arguments\n{INIT_OUTPUT}')
    assert guest.run() == 0
    reports = guest.reports()
    assert [report.stage for report in reports] == [
        "cloud-init", "network", "runtime", "kubeadm/preflight", "kubeadm/init", "kubeadm/preflight", "kubeadm/certs",
        "kubeadm/etcd", "kubeadm/addons", "done",
    ]  # fmt: skip
    assert reports[-1].state is ReportState.SUCCEEDED
    assert all(report.state is ReportState.RUNNING for report in reports[:-1])
    assert [report.seq for report in reports] == list(range(1, len(reports) + 1))
    assert (guest.root / "arguments").read_text().strip() == f"init --config {guest.root}/etc/capn/kubeadm.yaml"


def test_success_removes_secrets_and_ends_cloud_init(guest: GuestSandbox) -> None:
    assert guest.run() == 0
    assert not (guest.root / "etc/capn/kubeadm.yaml").exists()
    assert list((guest.root / "var/lib/cloud/instance").iterdir()) == []
    assert (guest.root / "etc/cloud/cloud-init.disabled").exists()
    leaks = [path for path in guest.root.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert leaks == []


def test_a_second_run_does_nothing_but_say_so(guest: GuestSandbox) -> None:
    assert guest.run() == 0
    first = guest.reports()
    guest.program("kubeadm", "exit 9")
    assert guest.run() == 0
    second = guest.reports()[len(first) :]
    assert [(report.stage, report.state) for report in second] == [("done", ReportState.SUCCEEDED)]
    assert second[0].seq == first[-1].seq + 1


def test_a_failing_preflight_is_reported_at_once_and_not_tried_again(guest: GuestSandbox) -> None:
    guest.program(
        "kubeadm",
        f"echo try >>{guest.root}/tries\n"
        "echo '[preflight] Running pre-flight checks'\n"
        "echo 'error execution phase preflight: [preflight] Some fatal errors occurred:' >&2\n"
        "echo '	[ERROR Port-6443]: Port 6443 is in use' >&2\n"
        "exit 1",
    )
    started = time.monotonic()
    assert guest.run() == 1
    assert time.monotonic() - started < 10
    last = guest.reports()[-1]
    assert (last.stage, last.state) == ("kubeadm/preflight", ReportState.FAILED)
    assert "[ERROR Port-6443]: Port 6443 is in use" in last.tail
    assert diagnose(last).reason == "PortInUse"
    assert (guest.root / "tries").read_text() == "try\n"
    assert (guest.root / "etc/capn/kubeadm.yaml").exists(), "a later boot must be able to try again"


def test_init_waits_for_the_address_that_it_is_to_hold(guest: GuestSandbox) -> None:
    guest.environment = {"CAPN_HOLDS_ENDPOINT": "yes"}
    guest.program("ip", 'case "$*" in *" to 127.0.0.1"*) ;; *) echo "2: eth0 inet 10.89.0.11/24" ;; esac')
    guest.program("journalctl", 'echo "words of $*"')
    assert guest.run() == 1
    last = guest.reports()[-1]
    assert (last.stage, last.state) == ("network", ReportState.FAILED)
    assert "did not get the cluster's address 127.0.0.1" in last.tail
    assert "words of -u keepalived" in last.tail


def test_init_goes_on_once_it_holds_the_address(guest: GuestSandbox) -> None:
    guest.environment = {"CAPN_HOLDS_ENDPOINT": "yes"}
    assert guest.run() == 0
    assert guest.reports()[-1].stage == "done"


def test_join_is_tried_again_while_the_network_is_bad(guest: GuestSandbox, endpoint: socket.socket) -> None:
    guest.mode = "join-worker"
    guest.program(
        "kubeadm",
        f'echo "$@" >>{guest.root}/tries\n'
        "echo '[preflight] Running'\n"
        f"[ $(wc -l <{guest.root}/tries) -lt 3 ] || exit 0\n"
        f"echo 'error: token {TOKEN}: dial tcp 10.0.0.1:6443: connect: connection refused' >&2\n"
        "exit 1",
    )
    assert guest.run() == 0
    tries = (guest.root / "tries").read_text().splitlines()
    assert len(tries) == 3
    assert "ignore-preflight-errors" not in tries[0]
    assert "FileAvailable--etc-kubernetes-kubelet.conf" in tries[1]
    retried = [report for report in guest.reports() if report.state is ReportState.RUNNING and report.tail]
    assert len(retried) == 2
    assert "connection refused" in retried[0].tail
    assert TOKEN not in retried[0].tail
    assert guest.reports()[-1].state is ReportState.SUCCEEDED
    assert endpoint.fileno() >= 0


@pytest.mark.parametrize(
    ("mode", "stage", "tries"), [("join-worker", "discovery", 3), ("init", "etcd", 1), ("init", "addons", 3)]
)
def test_attempts_are_limited(guest: GuestSandbox, endpoint: socket.socket, mode: str, stage: str, tries: int) -> None:
    guest.mode = mode
    guest.program(
        "kubeadm",
        f"echo try >>{guest.root}/tries\necho '[{stage}] text'\necho 'error: context deadline exceeded'\nexit 1",
    )
    assert guest.run() == 1
    assert len((guest.root / "tries").read_text().splitlines()) == tries
    assert guest.reports()[-1].state is ReportState.FAILED
    assert guest.reports()[-1].stage == f"kubeadm/{stage}"
    assert endpoint.fileno() >= 0


def test_a_static_pod_that_cannot_start_ends_the_wait(guest: GuestSandbox) -> None:
    pod = guest.root / "var/log/pods/kube-system_kube-apiserver-demo_1/kube-apiserver"
    guest.program(
        "kubeadm",
        f"echo '[wait-control-plane] Waiting'\nmkdir -p {pod}\n"
        f"echo '{UNKNOWN_FLAG.strip()}' >{pod}/0.log\nexec sleep 300",
    )
    started = time.monotonic()
    assert guest.run() == 1
    assert time.monotonic() - started < 10
    last = guest.reports()[-1]
    assert (last.stage, last.state) == ("kubeadm/wait-control-plane", ReportState.FAILED)
    diagnosis = diagnose(last)
    assert diagnosis.reason == "InvalidArgument"
    assert "Error: unknown flag: --no-such-flag" in diagnosis.message
    assert "kube-apiserver does not start" in last.tail


def test_a_static_pod_that_crashes_again_and_again_ends_the_wait(guest: GuestSandbox) -> None:
    pod = guest.root / "var/log/pods/kube-system_etcd-demo_1/etcd"
    guest.program(
        "kubeadm",
        f"echo '[wait-control-plane] Waiting'\nmkdir -p {pod}\n"
        f"echo '2026-11-23T13:00:00Z stderr F panic: bad data dir' >{pod}/4.log\nexec sleep 300",
    )
    assert guest.run() == 1
    assert "panic: bad data dir" in guest.reports()[-1].tail
    assert diagnose(guest.reports()[-1]).reason == "ComponentUnhealthy"


def test_a_few_restarts_are_normal(guest: GuestSandbox) -> None:
    pod = guest.root / "var/log/pods/kube-system_kube-apiserver-demo_1/kube-apiserver"
    guest.program(
        "kubeadm",
        f"echo '[wait-control-plane] Waiting'\nmkdir -p {pod}\n"
        f'echo \'"command failed" err="context deadline exceeded"\' | tee {pod}/0.log >{pod}/3.log\nsleep 1.5',
    )
    assert guest.run() == 0
    assert guest.reports()[-1].state is ReportState.SUCCEEDED


def configure_kubelet(guest: GuestSandbox) -> None:
    (guest.root / "var/lib/kubelet").mkdir(parents=True)
    (guest.root / "var/lib/kubelet/kubeadm-flags.env").touch()
    guest.program(
        "journalctl",
        f"touch {guest.root}/asked\n"
        'echo \'E1123 13:35:22.839453 19324 run.go:72] "command failed" '
        'err="failed to parse kubelet flag: unknown flag: --no-such-flag"\'',
    )


def test_a_kubelet_with_a_wrong_flag_ends_the_wait(guest: GuestSandbox) -> None:
    configure_kubelet(guest)
    guest.program("kubeadm", "echo '[kubelet-check] Waiting'\nexec sleep 300")
    assert guest.run() == 1
    assert diagnose(guest.reports()[-1]).reason == "InvalidArgument"


def test_a_running_kubelet_is_not_looked_into(guest: GuestSandbox) -> None:
    configure_kubelet(guest)
    processes = guest.root / "sys/fs/cgroup/system.slice/kubelet.service/cgroup.procs"
    processes.parent.mkdir(parents=True)
    processes.write_text("4711\n")
    guest.program("kubeadm", "echo '[kubelet-check] Waiting'\nsleep 1.5")
    assert guest.run() == 0
    assert not (guest.root / "asked").exists()


def test_secrets_never_reach_the_console(guest: GuestSandbox) -> None:
    key = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIKEYKEYKEY\n-----END EC PRIVATE KEY-----"
    secret = "Zm9vYmFy" * 20
    (guest.root / "said").write_text(
        f"kubeadm join --token {TOKEN} --certificate-key=c0ffee\nuses {TOKEN}\n{key}\n"
        f'    client-key-data: c2VjcmV0\n{secret}\nerror: it failed \\ "here"\n'
    )
    guest.program("kubeadm", f"cat {guest.root}/said\nexit 1")
    assert guest.run() == 1
    last = guest.reports()[-1]
    assert last.tail.endswith('error: it failed \\ "here"')
    for canary in (TOKEN, "0123456789abcdef", "c0ffee", "KEYKEY", "c2VjcmV0", secret[:40]):
        assert canary not in last.tail
        assert canary not in guest.log()
    assert "kubeadm join --token [redacted] --certificate-key=[redacted]" in last.tail


def test_what_is_told_of_a_long_log_begins_with_a_whole_line(guest: GuestSandbox) -> None:
    guest.program("kubeadm", "seq -f 'line %05g of a long log' 1 500\nexit 1")
    assert guest.run() == 1
    lines = guest.reports()[-1].tail.splitlines()
    assert lines[0].startswith("line 00")
    assert lines[-1] == "line 00500 of a long log"
    assert len(lines) == 2900 // len("line 00500 of a long log\n")


def test_patches_are_no_stage(guest: GuestSandbox) -> None:
    guest.program("kubeadm", "echo '[etcd] Creating'\necho '[patches] Applied patch'\necho 'error: no' >&2\nexit 1")
    assert guest.run() == 1
    assert guest.reports()[-1].stage == "kubeadm/etcd"


def test_a_hostile_log_stays_within_one_line(guest: GuestSandbox) -> None:
    noise = b"".join(bytes([byte]) for byte in range(256)) * 40 + b'"\\' * 4000
    (guest.root / "noise").write_bytes(noise)
    guest.program("kubeadm", f"cat {guest.root}/noise\nexit 1")
    assert guest.run() == 1
    last = guest.reports()[-1]
    assert last.state is ReportState.FAILED
    assert len(last.tail) <= MAX_TAIL
    assert last.tail.endswith('"\\"\\')


def test_no_address_is_explained(guest: GuestSandbox) -> None:
    guest.program("ip", "exit 0")
    assert guest.run() == 1
    last = guest.reports()[-1]
    assert (last.stage, last.state) == ("network", ReportState.FAILED)
    assert diagnose(last).reason == "NetworkUnavailable"


def test_an_unreachable_endpoint_is_explained(guest: GuestSandbox, endpoint: socket.socket) -> None:
    endpoint.close()
    guest.mode = "join-control-plane"
    assert guest.run() == 1
    last = guest.reports()[-1]
    assert last.stage == "network"
    assert "cannot connect to the API server at 127.0.0.1:" in last.tail
    assert diagnose(last).reason == "NetworkUnavailable"


def test_a_dead_containerd_is_explained(guest: GuestSandbox) -> None:
    guest.program("ctr", "echo 'dial unix /run/containerd/containerd.sock: no such file' >&2; exit 1")
    guest.program("journalctl", "echo 'containerd: failed to load plugin'; exit 1")
    assert guest.run() == 1
    last = guest.reports()[-1]
    assert last.stage == "runtime"
    assert "failed to load plugin" in last.tail
    assert diagnose(last).reason == "RuntimeUnavailable"


def test_a_missing_configuration_is_explained(guest: GuestSandbox) -> None:
    (guest.root / "etc/capn/kubeadm.yaml").unlink()
    (guest.root / "var/log").mkdir()
    (guest.root / "var/log/cloud-init.log").write_text("DEBUG fine\nutil.py[ERROR]: write_files failed: no space\n")
    assert guest.run() == 1
    last = guest.reports()[-1]
    assert (last.stage, last.state) == ("cloud-init", ReportState.FAILED)
    assert "write_files failed" in last.tail
    assert "DEBUG" not in last.tail
    assert diagnose(last).reason == "CloudInitFailed"


def test_an_unknown_mode_is_explained(guest: GuestSandbox) -> None:
    guest.mode = "dance"
    assert guest.run() == 1
    assert "CAPN_MODE is 'dance'" in guest.reports()[-1].tail


def test_a_missing_kubeadm_is_explained(guest: GuestSandbox) -> None:
    (guest.root / "bin/kubeadm").unlink()
    guest.environment["PATH"] = f"{guest.root / 'bin'}:/usr/bin:/bin"
    assert shutil.which("kubeadm", path="/usr/bin:/bin") is None
    assert guest.run() == 1
    assert "kubeadm: not found" in guest.reports()[-1].tail


def test_an_unexpected_end_is_a_failure(guest: GuestSandbox) -> None:
    # A broken library function is as good an accident as any.
    library = guest.root / "lib/bootstrap.sh"
    library.write_text(read_guest_program("bootstrap.sh").replace("    wait_runtime\n", "    exit 7\n"))
    assert guest.run() == 7
    last = guest.reports()[-1]
    assert (last.stage, last.state) == ("network", ReportState.FAILED)
    assert "ended unexpectedly with status 7" in last.tail


def test_a_reboot_in_mid_bootstrap_is_no_failure_and_goes_on(guest: GuestSandbox) -> None:
    guest.program("kubeadm", "echo '[certs] making'\nexec sleep 300")
    process = guest.start()
    try:
        wait_until(lambda: "kubeadm/certs" in guest.stages())
        process.send_signal(signal.SIGTERM)
        (guest.root / "bin/kubeadm").unlink()
        assert process.wait(20) == 143
    finally:
        end_session(process)
    assert all(report.state is ReportState.RUNNING for report in guest.reports())
    guest.program("kubeadm", f'echo "$@" >{guest.root}/arguments')
    assert guest.run() == 0
    arguments = (guest.root / "arguments").read_text()
    assert "FileAvailable--etc-kubernetes-manifests-kube-apiserver.yaml" in arguments
    assert "DirAvailable--var-lib-etcd" in arguments


def test_a_worker_that_joined_before_the_reboot_is_done(guest: GuestSandbox, endpoint: socket.socket) -> None:
    guest.mode = "join-worker"
    for name in ("etc/kubernetes/kubelet.conf", "var/lib/kubelet/pki/kubelet-client-current.pem"):
        (guest.root / name).parent.mkdir(parents=True)
        (guest.root / name).touch()
    guest.program("kubeadm", "exit 1")
    assert guest.run() == 0
    assert guest.stages() == ["cloud-init", "network", "runtime", "done"]
    assert endpoint.fileno() >= 0


def test_the_loop_repeats_the_last_report_and_survives_its_absence(guest: GuestSandbox) -> None:
    process = guest.start("report.sh", "loop")
    try:
        time.sleep(0.3)
        assert guest.console_bytes() == b""
        assert guest.run() == 0
        said = len(guest.reports())
        wait_until(lambda: len(guest.reports()) >= said + 2)
    finally:
        end_session(process)
    assert {report.stage for report in guest.reports()[said:]} == {"done"}


def test_the_loop_slows_down_when_done(guest: GuestSandbox) -> None:
    guest.environment["CAPN_INTERVAL_DONE"] = "60"
    assert guest.run() == 0
    process = guest.start("report.sh", "loop")
    try:
        wait_until(lambda: len([report for report in guest.reports() if report.stage == "done"]) == 2)
        time.sleep(0.5)
        assert len([report for report in guest.reports() if report.stage == "done"]) == 2
    finally:
        end_session(process)


def test_shellcheck_is_content() -> None:
    shellcheck = shutil.which("shellcheck")
    assert shellcheck, "shellcheck is missing: apt-get install shellcheck"
    directory = Path(__file__).resolve().parents[3] / "capn/build/guest"
    generators = sorted((recipe.ROOTFS_DIR / "etc/systemd/system-generators").iterdir())
    assert generators
    result = subprocess.run(
        [shellcheck, "-x", *sorted(path.name for path in directory.glob("*.sh")), *generators],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
