from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from capn.build.cloudinit import KUBEADM_CONFIG_PATH, BootstrapMode, build_meta_data, build_user_data
from capn.build.pki import generate_pki
from capn.build.report import Report, ReportParser, ReportState
from capn.errors import InvalidSpecError
from tests.unit.build.samples import NOW, make_user_data_input


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
    assert environment == "CAPN_MODE=join-worker\nCAPN_ENDPOINT_HOST=10.89.0.10\nCAPN_ENDPOINT_PORT=6443\n"


def test_the_first_words_are_reports() -> None:
    document = load(BootstrapMode.INIT)
    said = document["bootcmd"][0][-1].split("'")[1]
    assert ReportParser().feed(said.encode() + b"\n") == [Report("boot", ReportState.RUNNING)]
    lost = document["runcmd"][0][-1].split("'")[1]
    (report,) = ReportParser().feed(lost.encode() + b"\n")
    assert (report.stage, report.state) == ("cloud-init", ReportState.FAILED)


def test_it_is_small_with_real_keys() -> None:
    pki = generate_pki(now=NOW, cluster="demo")
    assert len(build_user_data(make_user_data_input(BootstrapMode.INIT, pki=pki))) < 32 * 1024


@pytest.mark.parametrize("hostname", ["", "-x", "X", "a.b", "a" * 64, "x\n", "x;reboot", "$(reboot)"])
def test_a_hostname_that_is_none_is_refused(hostname: str) -> None:
    with pytest.raises(InvalidSpecError, match=r"^metadata\.name: "):
        load(BootstrapMode.INIT, hostname=hostname)


@pytest.mark.parametrize("host", ["", "a b", "x\nCAPN_MODE=init", "$(reboot)", "a;b", "a'b", "-x"])
def test_an_endpoint_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(InvalidSpecError, match=r"^status\.endpoint\.host: "):
        load(BootstrapMode.INIT, endpoint_host=host)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029\ufeff"), max_size=60))
@settings(deadline=None, max_examples=40)
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
