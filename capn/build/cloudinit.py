"""cloud-init user-data and meta-data of a machine.

Role: pure. Inputs: a kubeadm configuration and, for control planes, the PKI; outputs: bytes. The result is secret: it
belongs in a Secret and in the seed image, nowhere else. Must not: set up users, passwords or SSH keys, or put values
into shell text (the guest's programs are constant; values reach them as files and environment).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any

from capn.api.machine_template import RFC1123_LABEL
from capn.build.calm import PATCHES_PATH, build_patches
from capn.build.leaf_certificates import CERTIFICATES_PROGRAM, CERTIFICATES_UNIT_NAMES, CERTIFICATES_UNITS
from capn.build.node_address import ADDRESS_UNIT_NAME, build_address_unit
from capn.build.pki import ClusterPki, KeyPair
from capn.build.report import Report, ReportState, encode_report
from capn.build.service_guard import GUARD_PATH, GUARD_UNIT, build_service_guard
from capn.build.virtual_address import (
    CHECK_PATH,
    ENDPOINT_CHECK,
    KEEPALIVED_DROP_IN,
    KEEPALIVED_DROP_IN_PATH,
    KEEPALIVED_PATH,
    KEEPALIVED_UNIT,
    LEAVE_PATH,
    LEAVE_UNIT,
    LEAVE_UNITS,
    build_keepalived,
)
from capn.build.yaml_text import build_yaml
from capn.errors import InvalidSpecError

KUBEADM_CONFIG_PATH = "/etc/capn/kubeadm.yaml"
ENVIRONMENT_PATH = "/etc/capn/bootstrap.env"
LIBRARY_PATH = "/usr/local/lib/capn"
PKI_PATH = "/etc/kubernetes/pki"
RECEIVE_PATH = "/etc/capn/receive"
REPORT_PATH = "/var/lib/capn/report"
CONSOLE = "/dev/ttyS0"
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")
_HOSTNAME = re.compile(RFC1123_LABEL)
_MAX_HOSTNAME = 63

_BOOTSTRAP_UNIT = f"""\
[Unit]
Description=capn: make this machine a Kubernetes node
Wants=containerd.service
After=containerd.service capn-address.service

[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile={ENVIRONMENT_PATH}
Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=/bin/sh {LIBRARY_PATH}/bootstrap.sh
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
"""

_REPORT_UNIT = f"""\
[Unit]
Description=capn: repeat the last bootstrap report on the serial console

[Service]
ExecStart=/bin/sh {LIBRARY_PATH}/report.sh loop
Restart=always
RestartSec=3

[Install]
WantedBy=multi-user.target
"""


class BootstrapMode(StrEnum):
    """What the machine does with kubeadm; the values are those that bootstrap.sh knows."""

    INIT = "init"
    JOIN_CONTROL_PLANE = "join-control-plane"
    JOIN_WORKER = "join-worker"


@dataclass(frozen=True, slots=True)
class RestoreInput:
    """What a machine needs that begins with a snapshot.

    `serving`: what it shows of itself where it receives that, signed by the cluster's CA. `advertised`: its address as
    etcd's member; None: that of the interface with the default route.
    """

    serving: KeyPair
    advertised: str | None


@dataclass(frozen=True, slots=True)
class UserDataInput:
    """What a machine needs to bootstrap. `pki` is for control planes only.

    `node_address` is for machines whose network card has another address than the one that leads to them.
    `holds_endpoint`: the control planes hold the endpoint's address among themselves, and this is one of them.
    """

    hostname: str
    mode: BootstrapMode
    endpoint_host: str
    endpoint_port: int
    service_cidr: str
    kubeadm_config: str = field(repr=False)
    pki: ClusterPki | None = None
    node_address: str | None = None
    holds_endpoint: bool = False
    restore: RestoreInput | None = None


def build_user_data(machine: UserDataInput) -> bytes:
    """`#cloud-config` for the machine. InvalidSpecError for a hostname or endpoint that cannot be one."""
    _check(machine)
    document = {
        "hostname": machine.hostname,
        "fqdn": machine.hostname,
        "preserve_hostname": False,
        "manage_etc_hosts": "localhost",
        # No users, not even the distribution's default one. The schema of cloud-init 22.4 refuses an empty list here.
        "users": {},
        "ssh_pwauth": False,
        "disable_root": True,
        "package_update": False,
        "package_upgrade": False,
        "bootcmd": [_build_boot_command()],
        "write_files": [*_build_files(machine)],
        "runcmd": _build_run_commands(_list_units(machine)),
    }
    return b"#cloud-config\n" + build_yaml(document).encode()


def build_meta_data(machine_uid: str, hostname: str) -> bytes:
    """NoCloud meta-data: the machine's UID is the instance id, so that cloud-init runs once a machine."""
    return build_yaml({"instance-id": machine_uid, "local-hostname": hostname, "dsmode": "local"}).encode()


def _check(machine: UserDataInput) -> None:
    if not _HOSTNAME.fullmatch(machine.hostname) or len(machine.hostname) > _MAX_HOSTNAME:
        raise InvalidSpecError("metadata.name", "must be an RFC 1123 label: at most 63 of a-z, 0-9, '-'")
    if not _HOST.fullmatch(machine.endpoint_host):
        raise InvalidSpecError("status.endpoint.host", "must be a DNS name or an address")
    needs_pki = machine.mode is not BootstrapMode.JOIN_WORKER
    if needs_pki != (machine.pki is not None):
        raise ValueError("a control plane needs the PKI, and a worker must not get it")
    if machine.restore is not None and machine.mode is not BootstrapMode.INIT:
        raise ValueError("only a machine that initializes the cluster begins with a snapshot")


def _build_boot_command() -> list[str]:
    """Say `boot` from as early as cloud-init can until bootstrap.sh has a word of its own, which may take a minute.

    At the first boot only: later ones repeat what the guest last said.
    """
    line = _text_of(Report(stage="boot", state=ReportState.RUNNING))
    loop = f"until [ -e {REPORT_PATH} ]; do echo '{line}' >>{CONSOLE}; sleep 3; done"
    return ["cloud-init-per", "once", "capn-boot", "sh", "-c", f"{loop} </dev/null >/dev/null 2>&1 &"]


def _list_units(machine: UserDataInput) -> list[str]:
    address = [ADDRESS_UNIT_NAME] if machine.node_address else []
    endpoint = [KEEPALIVED_UNIT, LEAVE_UNIT] if machine.holds_endpoint else []
    renewal = CERTIFICATES_UNIT_NAMES if machine.pki is not None else ()
    return ["capn-services.service", *address, *endpoint, *renewal, "capn-report.service", "capn-bootstrap.service"]


def _build_run_commands(units: list[str]) -> list[list[str]]:
    lost = _text_of(
        Report(
            stage="cloud-init",
            state=ReportState.FAILED,
            seq=1,
            tail=f"error: cloud-init did not write {LIBRARY_PATH}/bootstrap.sh or its units",
        )
    )
    start = f"systemctl enable --now --no-block {' '.join(units)}"
    # If the files are not there, this is the only one left to say so. (The empty report ends the loop of `boot`.)
    complain = f"while :; do echo '{lost}' >>{CONSOLE}; sleep 10; done"
    return [["sh", "-c", f"{start} || {{ mkdir -p /var/lib/capn; : >>{REPORT_PATH}; {complain}; }}"]]


def _text_of(report: Report) -> str:
    return encode_report(report).decode().strip()


def _build_files(machine: UserDataInput) -> Iterator[dict[str, Any]]:
    environment = (
        f"CAPN_MODE={machine.mode.value}\n"
        f"CAPN_ENDPOINT_HOST={machine.endpoint_host}\n"
        f"CAPN_ENDPOINT_PORT={machine.endpoint_port}\n"
        f"CAPN_HOLDS_ENDPOINT={'yes' if machine.holds_endpoint else ''}\n"
    )
    if machine.restore is not None:
        environment += (
            "CAPN_RESTORE=yes\n"
            f"CAPN_NODE_NAME={machine.hostname}\n"
            f"CAPN_ADVERTISE_ADDRESS={machine.restore.advertised or ''}\n"
        )
    yield _file(f"{LIBRARY_PATH}/report.sh", read_guest_program("report.sh"), "0755")
    yield _file(f"{LIBRARY_PATH}/bootstrap.sh", read_guest_program("bootstrap.sh"), "0755")
    yield _file("/etc/systemd/system/capn-report.service", _REPORT_UNIT, "0644")
    yield _file("/etc/systemd/system/capn-bootstrap.service", _BOOTSTRAP_UNIT, "0644")
    yield _file("/etc/systemd/system/capn-services.service", GUARD_UNIT, "0644")
    yield _file(GUARD_PATH, build_service_guard(machine.service_cidr), "0644")
    if machine.node_address:
        yield _file(f"/etc/systemd/system/{ADDRESS_UNIT_NAME}", build_address_unit(machine.node_address), "0644")
    if machine.holds_endpoint:
        yield _file(KEEPALIVED_PATH, build_keepalived(machine.endpoint_host), "0644")
        yield _file(KEEPALIVED_DROP_IN_PATH, KEEPALIVED_DROP_IN, "0644")
        yield _file(CHECK_PATH, ENDPOINT_CHECK, "0755")
        yield _file(LEAVE_PATH, read_guest_program("leave.sh"), "0755")
        for path, unit in LEAVE_UNITS.items():
            yield _file(path, unit, "0644")
    yield _file(ENVIRONMENT_PATH, environment, "0644")
    yield _file(KUBEADM_CONFIG_PATH, machine.kubeadm_config, "0600")
    if machine.restore is not None:
        yield _file(f"{LIBRARY_PATH}/receive.py", read_guest_program("receive.py"), "0755")
        yield _file(f"{RECEIVE_PATH}.crt", machine.restore.serving.cert_pem.decode(), "0644")
        yield _file(f"{RECEIVE_PATH}.key", machine.restore.serving.key_pem.decode(), "0600")
    if machine.pki is not None:
        for name, patch in build_patches().items():
            yield _file(f"{PATCHES_PATH}/{name}", patch, "0644")
        yield _file(f"{LIBRARY_PATH}/{CERTIFICATES_PROGRAM}", read_guest_program(CERTIFICATES_PROGRAM), "0755")
        for name, unit in CERTIFICATES_UNITS.items():
            yield _file(f"/etc/systemd/system/{name}", unit, "0644")
        yield from _build_pki_files(machine.pki)


def _build_pki_files(pki: ClusterPki) -> Iterator[dict[str, Any]]:
    for name, pair in (("ca", pki.ca), ("etcd/ca", pki.etcd_ca), ("front-proxy-ca", pki.proxy_ca)):
        yield _file(f"{PKI_PATH}/{name}.crt", pair.cert_pem.decode(), "0640")
        yield _file(f"{PKI_PATH}/{name}.key", pair.key_pem.decode(), "0600")
    yield _file(f"{PKI_PATH}/sa.pub", pki.sa.cert_pem.decode(), "0640")
    yield _file(f"{PKI_PATH}/sa.key", pki.sa.key_pem.decode(), "0600")


def _file(path: str, content: str, permissions: str) -> dict[str, Any]:
    return {"path": path, "owner": "root:root", "permissions": permissions, "content": content}


@cache
def read_guest_program(name: str) -> str:
    """Text of a program such as `bootstrap.sh`, as the package holds it."""
    return (files("capn.build") / "guest" / name).read_text()
