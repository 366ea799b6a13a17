"""The program that renews a control plane's certificates, run for real on real certificates."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from capn import names
from capn.build.cloudinit import BootstrapMode, build_user_data, read_guest_program
from capn.build.kubeadm import build_init_config
from tests.unit.build.control_plane_sandbox import DAY, YEAR, ControlPlane
from tests.unit.build.guest_sandbox import end_session, wait_until
from tests.unit.build.samples import make_init_input, make_user_data_input

DUE = 250 * DAY  # of a year: less than a third is left
ACCEPTED = "kubectl --kubeconfig /etc/kubernetes/{}.conf get --raw /livez"


def end_of(age: timedelta, life: timedelta, plane: ControlPlane) -> str:
    return f"{plane.now - age + life:%Y-%m-%dT%H:%M:%SZ}"


def test_nothing_is_done_before_the_last_third(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=240 * DAY)
    assert plane.run() == 0
    assert plane.leaves() == plane.before
    assert plane.calls("kubeadm") == plane.calls("crictl") == []
    assert plane.told() == [
        f"capn.dev/certificates-failure- capn.dev/certificates-end={end_of(240 * DAY, YEAR, plane)}"
    ]
    assert plane.run() == 0
    assert len(plane.told()) == 1, "the same is not told again"


def test_what_is_due_is_renewed_and_loaded_one_after_the_other(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=DUE)
    assert plane.run() == 0
    assert plane.leaves() == plane.renewed() != plane.before
    *calls, told = plane.calls()
    assert calls == [
        "kubeadm certs renew all",
        *(ACCEPTED.format(name) for name in ("admin", "controller-manager", "scheduler")),
        "crictl ps -q --label io.kubernetes.container.name=kube-controller-manager",
        "crictl stop --timeout 30 of-kube-controller-manager",
        "healthz 127.0.0.1:10257",
        "crictl ps -q --label io.kubernetes.container.name=kube-scheduler",
        "crictl stop --timeout 30 of-kube-scheduler",
        "healthz 127.0.0.1:12345",
    ]
    assert told.endswith(f"certificates-failure- capn.dev/certificates-end={end_of(0 * DAY, YEAR, plane)}")
    assert told.startswith("kubectl --kubeconfig /etc/kubernetes/kubelet.conf annotate --overwrite node ")
    assert plane.is_settled()
    assert not (plane.root / "var/lib/capn/certificates/old").exists(), "no keys are left about"
    before = plane.calls()
    assert plane.run() == 0
    assert plane.calls() == before, "a second run has nothing to do"


def test_a_single_certificate_that_is_due_is_enough(tmp_path: Path) -> None:
    old, plane = ControlPlane(tmp_path / "old", age=DUE), ControlPlane(tmp_path / "plane", age=DAY)
    (plane.kubernetes / "scheduler.conf").write_bytes((old.kubernetes / "scheduler.conf").read_bytes())
    assert plane.run() == 0
    assert plane.leaves() == plane.renewed()


def test_it_can_be_asked_for(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=DAY)
    assert plane.run("now") == 0
    assert plane.leaves() == plane.renewed()
    assert len(plane.calls("crictl stop")) == 2


def test_it_waits_for_the_api_server_and_for_each_component(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=DUE)
    plane.sandbox.environment["CAPN_WAIT_S"] = "30"
    (plane.root / "served").write_bytes(plane.before["pki/apiserver.crt"])
    plane.program("healthz", '<usual>\n[ "$(grep -c "$1" "$ROOT/calls")" -ge 3 ]')
    process = plane.sandbox.start("certificates.sh")
    try:
        wait_until(lambda: plane.calls("kubeadm") != [] and plane.leaves() == plane.renewed())
        assert process.poll() is None
        assert plane.calls("kubectl") == [], "nobody is asked or restarted before the API server has its certificate"
        (plane.root / "served").unlink()
        assert process.wait(60) == 0
    finally:
        end_session(process)
    assert [call.split()[0] for call in plane.calls() if "kubectl" not in call and "crictl ps" not in call] == [
        "kubeadm", "crictl", *["healthz"] * 3, "crictl", *["healthz"] * 3,
    ]  # fmt: skip


@pytest.mark.parametrize(("component", "port"), [("kube-controller-manager", 10257), ("kube-scheduler", 12345)])
def test_a_component_that_does_not_come_back_has_everything_put_back(tmp_path: Path, component: str, port: int) -> None:
    plane = ControlPlane(tmp_path, age=DUE)
    # Healthy only with the certificates of before.
    plane.program(
        "healthz",
        f'<usual>\n[ "$1" != 127.0.0.1:{port} ] || cmp -s "$ROOT/admin" $ROOT/etc/*/admin.conf',
    )
    (plane.root / "admin").write_bytes(plane.before["admin.conf"])
    assert plane.run() == 1
    assert plane.leaves() == plane.before
    assert plane.is_settled()
    stopped = [call.rpartition("of-")[2] for call in plane.calls("crictl stop")]
    touched = ["kube-controller-manager", "kube-scheduler"][: 1 if component == "kube-controller-manager" else 2]
    assert stopped == touched * 2, "all that had the new ones have those of before again"
    (told,) = plane.told()
    assert told.startswith(f"capn.dev/certificates-failure={component} does not come back with its new certificate ")
    assert told.endswith(end_of(DUE, YEAR, plane))
    assert "either" not in plane.log()
    plane.program("healthz", "<usual>")
    assert plane.run() == 0, "the next day it is tried again"
    assert plane.leaves() == plane.renewed()
    assert plane.told()[-1].startswith("capn.dev/certificates-failure- ")


def test_certificates_that_the_api_server_refuses_are_put_back(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=DUE)
    plane.program("kubectl", '<usual>\ncase "$*" in *controller-manager.conf*) exit 1 ;; esac')
    assert plane.run() == 1
    assert plane.leaves() == plane.before
    assert plane.calls("crictl") == [], "what works is not restarted"
    assert "does not accept the new certificate of controller-manager.conf" in plane.told()[0]


@pytest.mark.parametrize("what", ["etcd", "the API server"])
def test_a_server_that_does_not_load_its_certificate_is_told(tmp_path: Path, what: str) -> None:
    plane = ControlPlane(tmp_path, age=DUE)
    name = {"etcd": "etcd/server", "the API server": "apiserver"}[what]
    (plane.root / "stale").write_bytes(plane.before[f"pki/{name}.crt"])
    port = 2379 if what == "etcd" else 6443
    plane.program("openssl", f'case "$3" in *:{port}) exec cat "$ROOT/stale" ;; esac\n<usual>')
    assert plane.run() == 1
    assert plane.leaves() == plane.before
    assert plane.told()[0].startswith(f"capn.dev/certificates-failure={what} does not serve its new certificate")


def test_a_kubeadm_that_fails_half_way_changes_nothing_and_is_quoted_without_secrets(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=DUE)
    plane.program("kubeadm", 'case "$*" in version*) exit ;; esac\ncp $ROOT/new/pki/*.key "$ROOT/etc/kubernetes/pki"\n'
                  "echo 'disk full; token: abcdef.0123456789abcdef'; exit 1")  # fmt: skip
    assert plane.run() == 1
    assert plane.leaves() == plane.before
    assert plane.told()[0].startswith(
        "capn.dev/certificates-failure=kubeadm certs renew all: disk full; token: [redacted]"
    )


def test_a_kubeadm_that_renews_not_all_is_a_failure(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=DUE)
    plane.program(
        "kubeadm", '<usual>\n[ -e "$ROOT/config" ] && cp -p "$ROOT/kept" "$ROOT/etc/kubernetes/pki/etcd/peer.crt"'
    )
    (plane.root / "kept").write_bytes(plane.before["pki/etcd/peer.crt"])
    assert plane.run() == 1
    assert plane.leaves() == plane.before
    assert "left /etc/kubernetes/pki/etcd/peer.crt as it was" in plane.told()[0]


@pytest.mark.parametrize("ca", ["ca", "etcd/ca", "front-proxy-ca"])
def test_a_missing_key_of_a_ca_is_told_before_anything_is_done(tmp_path: Path, ca: str) -> None:
    plane = ControlPlane(tmp_path, age=DUE)
    (plane.kubernetes / f"pki/{ca}.key").unlink()
    assert plane.run() == 1
    assert plane.calls("kubeadm") == []
    assert f"the key of the CA is not there: /etc/kubernetes/pki/{ca}.key" in plane.told()[0]


def test_a_certificate_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=DAY)
    (plane.kubernetes / "pki/front-proxy-client.crt").write_text("")
    assert plane.run() == 1
    assert plane.calls("kubeadm") == []
    assert plane.told() == ["capn.dev/certificates-failure=a certificate in /etc/kubernetes cannot be read"]


def test_a_clock_before_the_ca_makes_nothing(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=DUE)
    plane.program("date", '[ "$*" = +%s ] && exec echo 86400\nexec /bin/date "$@"')
    assert plane.run() == 1
    assert plane.leaves() == plane.before
    assert "clock is wrong" in plane.told()[0]


def test_certificates_of_the_future_are_made_again_when_the_clock_is_right(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=-300 * DAY)
    assert plane.run() == 0
    assert plane.leaves() == plane.renewed()


def test_a_machine_that_is_no_node_yet_is_left_alone(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=DUE)
    (plane.root / "var/lib/capn/done").unlink()
    assert plane.run() == plane.run("boot") == 0
    assert plane.leaves() == plane.before


def test_at_boot_what_ended_is_renewed_before_anything_runs(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=YEAR + 30 * DAY)
    assert plane.run("boot") == 0
    assert plane.leaves() == plane.renewed()
    assert plane.calls() == ["kubeadm certs renew all"], "there is nobody to ask or to restart"
    assert plane.is_settled()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=DUE)
    plane.program("kubeadm", 'case "$*" in version*) exit ;; esac\necho "kubeadm" >>"$ROOT/calls"\nexec sleep 300')
    process = plane.sandbox.start("certificates.sh")
    try:
        wait_until(lambda: plane.calls("kubeadm") != [])
        assert plane.run() == 0
        assert len(plane.calls("kubeadm")) == 1
        assert process.poll() is None
    finally:
        end_session(process)


@pytest.mark.parametrize("mode", ["boot", "daily"])
def test_power_lost_between_key_and_certificate_is_undone(tmp_path: Path, mode: str) -> None:
    """kubeadm writes a key, then its certificate; with one of each an API server does not start any more."""
    plane = ControlPlane(tmp_path, age=DUE)
    plane.program("kubeadm", 'case "$*" in version*) exit ;; esac\ncp $ROOT/new/pki/*.key "$ROOT/etc/kubernetes/pki"\n'
                  "touch $ROOT/half; exec sleep 300")  # fmt: skip
    process = plane.sandbox.start("certificates.sh")
    try:
        wait_until((plane.root / "half").exists)
    finally:
        end_session(process)
    assert process.returncode == -signal.SIGKILL
    assert not plane.pairs_match()
    plane.program("kubeadm", "exit 1")
    assert plane.run(*([mode] if mode == "boot" else [])) == 1
    assert plane.leaves() == plane.before
    assert plane.is_settled()


# Between any two changes: the program dies before or after the n-th use of a command.
SWEEP = [
    ("cp", 1, "before"),
    ("cp", 1, "after"),
    ("mv", 1, "before"),
    ("mv", 1, "after"),
    ("kubeadm", 2, "after"),
    ("mv", 2, "before"),
    ("mv", 2, "after"),
    ("kubectl", 2, "before"),
    ("crictl", 2, "after"),
    ("rm", 2, "before"),
    ("rm", 3, "before"),
]


@pytest.mark.parametrize(("command", "nth", "when"), SWEEP)
def test_whatever_it_died_of_the_next_boot_and_run_make_it_whole(
    tmp_path: Path, command: str, nth: int, when: str
) -> None:
    plane = ControlPlane(tmp_path, age=DUE)
    own = plane.root / "bin" / command
    real = own.rename(plane.root / command) if own.exists() else Path("/bin") / command
    use = f'{real} "$@" || exit\n'
    die = f'echo x >>"$ROOT/uses"; [ "$(grep -c x "$ROOT/uses")" != {nth} ] || kill -KILL 0\n'
    plane.program(command, f"{die}{use}" if when == "before" else f"{use}{die}")
    assert plane.run() == -signal.SIGKILL
    plane.program(command, use)
    assert plane.run("boot") == 0
    assert plane.pairs_match(), "the kubelet starts the API server next"
    assert plane.is_settled()
    assert plane.run() == 0
    assert plane.leaves() == plane.renewed()
    assert plane.told()[-1].endswith(end_of(0 * DAY, YEAR, plane))


def test_a_put_back_that_was_interrupted_is_repeated(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=DUE)
    plane.program("kubectl", '<usual>\ncase "$*" in *livez*) exit 1 ;; esac')
    plane.program("mv", 'case "$3" in */peer.crt) kill -KILL 0 ;; esac\nexec /bin/mv "$@"')
    assert plane.run() == -signal.SIGKILL
    assert plane.leaves() not in (plane.before, plane.renewed())
    (plane.root / "bin/mv").unlink()
    plane.program("kubeadm", "exit 1")
    assert plane.run("boot") == 1
    assert plane.leaves() == plane.before
    assert plane.is_settled()


def test_renewed_but_not_loaded_goes_on_at_the_next_run(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=DUE)
    plane.program("crictl", "kill -KILL 0")
    assert plane.run() == -signal.SIGKILL
    assert plane.leaves() == plane.renewed()
    plane.program("crictl", "<usual>")
    assert plane.run() == 0
    assert len(plane.calls("kubeadm")) == 1
    assert len(plane.calls("crictl stop")) == 2
    assert plane.is_settled()


def test_what_cannot_be_told_is_told_the_next_day(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=DAY)
    plane.program("kubectl", "<usual>\nexit 1")
    assert plane.run() == plane.run() == 0
    assert len(plane.told()) == 2


def test_it_says_what_the_rest_of_capn_says(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=DUE)
    assert plane.run() == 0
    _, config = yaml.safe_load_all((plane.root / "config").read_text())
    cluster = next(
        document
        for document in yaml.safe_load_all(build_init_config(make_init_input()))
        if document["kind"] == "ClusterConfiguration"
    )
    assert {key: cluster[key] for key in ("apiVersion", "kind", "encryptionAlgorithm")} | {
        "kubernetesVersion": "v1.37.2"
    } == config
    program = read_guest_program("certificates.sh")
    assert f"{names.ANNOTATION_CERTIFICATES_END}=" in program
    assert f"{names.ANNOTATION_CERTIFICATES_FAILURE}=" in program


@pytest.mark.parametrize("mode", BootstrapMode)
def test_control_planes_have_it_and_workers_do_not(mode: BootstrapMode) -> None:
    document = yaml.safe_load(build_user_data(make_user_data_input(mode)))
    files = {entry["path"]: entry["content"] for entry in document["write_files"]}
    paths = [path for path in files if "certificates" in path]
    if mode is BootstrapMode.JOIN_WORKER:
        assert paths == []
        assert "capn-certificates" not in document["runcmd"][0][-1]
        return
    units = "/etc/systemd/system/capn-certificates"
    assert paths == [
        "/usr/local/lib/capn/certificates.sh", f"{units}.service", f"{units}.timer", f"{units}-boot.service",
    ]  # fmt: skip
    assert "capn-certificates-boot.service capn-certificates.timer" in document["runcmd"][0][-1]
    assert "/usr/local/lib/capn/certificates.sh boot" in files[f"{units}-boot.service"]
    assert "Before=kubelet.service" in files[f"{units}-boot.service"]


def test_the_samples_are_as_they_say(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, age=DUE)
    assert plane.pairs_match()
    assert datetime.now(UTC) - plane.now < DAY
