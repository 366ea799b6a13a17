from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from capn.build.cloudinit import (
    KUBEADM_CONFIG_PATH,
    BootstrapMode,
    RestoreInput,
    build_meta_data,
    build_user_data,
    read_guest_program,
)
from capn.build.diagnosis import diagnose
from capn.build.pki import generate_pki
from capn.build.report import Report, ReportParser, ReportState
from capn.errors import InvalidSpecError
from tests.unit.build.guest_sandbox import end_session, wait_until
from tests.unit.build.samples import NOW, make_fixed_pair, make_user_data_input


def load(mode: BootstrapMode, **fields: object) -> dict[str, Any]:
    data = build_user_data(make_user_data_input(mode, **fields))
    assert data.startswith(b"#cloud-config\n")
    document: dict[str, Any] = yaml.safe_load(data)
    return document


def files_of(document: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {entry["path"]: entry for entry in document["write_files"]}


@pytest.mark.parametrize("mode", BootstrapMode)
def test_cloud_inits_own_schema_accepts_it(mode: BootstrapMode, cloud_config_schema: dict[str, Any]) -> None:
    validator = jsonschema.Draft4Validator(cloud_config_schema)
    document = load(mode)
    assert [error.message for error in validator.iter_errors(document)] == []
    document["write_files"] = "x"
    assert list(validator.iter_errors(document)), "the schema must not accept everything"


@pytest.mark.parametrize("mode", BootstrapMode)
def test_nobody_can_log_in(mode: BootstrapMode) -> None:
    document = load(mode)
    assert document["users"] == {}
    assert document["ssh_pwauth"] is False
    assert document["disable_root"] is True
    assert not {"password", "chpasswd", "ssh_authorized_keys", "ssh_import_id", "ssh_keys"} & set(document)


def test_a_control_plane_gets_the_pki_with_tight_permissions() -> None:
    files = files_of(load(BootstrapMode.INIT))
    for name in ("ca", "etcd/ca", "front-proxy-ca"):
        assert files[f"/etc/kubernetes/pki/{name}.crt"]["permissions"] == "0640"
        assert files[f"/etc/kubernetes/pki/{name}.key"]["permissions"] == "0600"
    assert files["/etc/kubernetes/pki/sa.pub"]["permissions"] == "0640"
    assert files["/etc/kubernetes/pki/sa.key"]["permissions"] == "0600"
    assert files[KUBEADM_CONFIG_PATH]["permissions"] == "0600"
    assert files["/etc/kubernetes/pki/ca.key"]["content"].startswith("-----BEGIN EC PRIVATE KEY-----\nca\n")
    assert {entry["owner"] for entry in files.values()} == {"root:root"}


def test_secrets_are_in_private_files_only() -> None:
    for mode in BootstrapMode:
        for entry in load(mode)["write_files"]:
            secret = "PRIVATE KEY-----\n" in entry["content"] or "0123456789abcdef" in entry["content"]
            assert not secret or entry["permissions"] == "0600", entry["path"]


def test_a_worker_gets_no_pki() -> None:
    files = files_of(load(BootstrapMode.JOIN_WORKER))
    assert not [path for path in files if path.startswith("/etc/kubernetes")]
    with pytest.raises(ValueError, match="must not get it"):
        load(BootstrapMode.JOIN_WORKER, pki=generate_pki(now=NOW, cluster="demo"))
    with pytest.raises(ValueError, match="needs the PKI"):
        load(BootstrapMode.JOIN_CONTROL_PLANE, pki=None)


def test_the_environment_tells_the_program_what_to_do() -> None:
    environment = files_of(load(BootstrapMode.JOIN_WORKER))["/etc/capn/bootstrap.env"]["content"]
    assert environment.splitlines() == [
        "CAPN_MODE=join-worker",
        "CAPN_ENDPOINT_HOST=10.89.0.10",
        "CAPN_ENDPOINT_PORT=6443",
        "CAPN_HOLDS_ENDPOINT=",
    ]


def test_a_control_plane_that_holds_the_endpoint_runs_keepalived_and_waits_for_the_address() -> None:
    document = load(BootstrapMode.JOIN_CONTROL_PLANE, holds_endpoint=True)
    files = files_of(document)
    assert "10.89.0.10/32" in files["/etc/keepalived/keepalived.conf"]["content"]
    check = files["/usr/local/lib/capn/endpoint-check.sh"]
    assert check["permissions"] == "0755"
    assert check["path"] in files["/etc/keepalived/keepalived.conf"]["content"]
    assert "CAPN_HOLDS_ENDPOINT=yes\n" in files["/etc/capn/bootstrap.env"]["content"]
    assert "keepalived.service" in document["runcmd"][0][-1]
    assert "/etc/keepalived/keepalived.conf" not in files_of(load(BootstrapMode.INIT))


def in_directory(script: str, directory: Path) -> str:
    """The same shell text, with the guest's paths below a directory."""
    return script.replace("/var/lib/capn", f"{directory}/capn").replace("/dev/ttyS0", f"{directory}/console")


def test_boot_is_said_until_the_bootstrap_has_a_word_of_its_own(tmp_path: Path) -> None:
    command = load(BootstrapMode.INIT)["bootcmd"][0]
    assert command[:4] == ["cloud-init-per", "once", "capn-boot", "sh"]
    script = in_directory(command[-1], tmp_path).replace("sleep 3", "sleep 0.1")
    subprocess.run(["/bin/sh", "-c", script], check=True, timeout=10, env={"PATH": "/usr/bin:/bin"})
    console = tmp_path / "console"
    wait_until(lambda: console.exists() and console.read_bytes().count(b"\n") >= 3)
    assert set(ReportParser().feed(console.read_bytes())) == {Report("boot", ReportState.RUNNING)}
    (tmp_path / "capn").mkdir()
    (tmp_path / "capn/report").touch()
    time.sleep(0.5)
    said = console.read_bytes()
    time.sleep(0.5)
    assert console.read_bytes() == said


def test_missing_files_are_a_failure(tmp_path: Path) -> None:
    script = in_directory(load(BootstrapMode.INIT)["runcmd"][0][-1], tmp_path)
    (tmp_path / "systemctl").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "systemctl").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    process = subprocess.Popen(["/bin/sh", "-c", script], env=environment, start_new_session=True)
    try:
        wait_until(lambda: (tmp_path / "console").exists() and (tmp_path / "console").stat().st_size > 0)
    finally:
        end_session(process)
    (report,) = ReportParser().feed((tmp_path / "console").read_bytes())
    assert (report.stage, report.state) == ("cloud-init", ReportState.FAILED)
    assert diagnose(report).reason == "CloudInitFailed"
    assert (tmp_path / "capn/report").exists(), "the loop of `boot` must end"


def test_it_is_small_with_real_keys() -> None:
    pki = generate_pki(now=NOW, cluster="demo")
    assert len(build_user_data(make_user_data_input(BootstrapMode.INIT, pki=pki))) < 48 * 1024


@pytest.mark.parametrize("hostname", ["", "-x", "X", "a.b", "a" * 64, "x\n", "x;reboot", "$(reboot)"])
def test_a_hostname_that_is_none_is_refused(hostname: str) -> None:
    with pytest.raises(InvalidSpecError, match=r"^metadata\.name: "):
        load(BootstrapMode.INIT, hostname=hostname)


@pytest.mark.parametrize("host", ["", "a b", "x\nCAPN_MODE=init", "$(reboot)", "a;b", "a'b", "-x"])
def test_an_endpoint_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(InvalidSpecError, match=r"^status\.endpoint\.host: "):
        load(BootstrapMode.INIT, endpoint_host=host)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029\ufeff"), max_size=60))
@settings(max_examples=40)
def test_a_configuration_stays_inside_its_file(text: str) -> None:
    config = f"a: 1\n{text}\nruncmd: [reboot]\n"
    document = load(BootstrapMode.INIT, kubeadm_config=config)
    assert files_of(document)[KUBEADM_CONFIG_PATH]["content"] == config
    clean = load(BootstrapMode.INIT)
    files_of(clean)[KUBEADM_CONFIG_PATH]["content"] = config
    assert document == clean


def test_meta_data_is_one_instance_a_machine() -> None:
    assert yaml.safe_load(build_meta_data("uid-1", "demo-cp-0")) == {
        "instance-id": "uid-1", "local-hostname": "demo-cp-0", "dsmode": "local"
    }  # fmt: skip


def test_a_machine_that_is_restored_gets_what_it_receives_the_snapshot_with() -> None:
    restore = RestoreInput(make_fixed_pair("serving"), "10.89.0.10")
    files = files_of(load(BootstrapMode.INIT, restore=restore))
    assert files["/usr/local/lib/capn/receive.py"]["content"] == read_guest_program("receive.py")
    assert files["/etc/capn/receive.crt"]["content"] == restore.serving.cert_pem.decode()
    assert files["/etc/capn/receive.key"]["permissions"] == "0600"
    environment = files["/etc/capn/bootstrap.env"]["content"].splitlines()
    assert environment[-3:] == ["CAPN_RESTORE=yes", "CAPN_NODE_NAME=demo-cp-0", "CAPN_ADVERTISE_ADDRESS=10.89.0.10"]
    own = files_of(load(BootstrapMode.INIT, restore=RestoreInput(restore.serving, None)))
    assert own["/etc/capn/bootstrap.env"]["content"].endswith("\nCAPN_ADVERTISE_ADDRESS=\n")
    plain = files_of(load(BootstrapMode.INIT))
    assert not [path for path in plain if "receive" in path]
    assert "CAPN_RESTORE" not in plain["/etc/capn/bootstrap.env"]["content"]


def test_only_the_machine_that_initializes_the_cluster_is_restored() -> None:
    restore = RestoreInput(make_fixed_pair("serving"), None)
    with pytest.raises(ValueError, match="initializes"):
        build_user_data(make_user_data_input(BootstrapMode.JOIN_CONTROL_PLANE, restore=restore))
