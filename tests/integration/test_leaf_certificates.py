"""What docs/adr/0023 relies on, of the real programs: kubeadm works offline, etcd and API server read new files."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from capn.build.pki import KeyPair, issue_server
from capn.dev.parent import Parent
from capn.dev.parent_flags import LOOPBACK, ParentLayout, ParentPorts
from tests.conftest import run_async
from tests.unit.build.control_plane_sandbox import PAIRS, ControlPlane

pytestmark = pytest.mark.timeout(240)
DAY = timedelta(days=1)


def run_kubeadm(plane: ControlPlane, kubeadm: Path) -> None:
    """kubeadm itself in place of its stand-in, with the sandbox as root of the file system, and without a network."""
    plane.program(
        "kubeadm",
        f'echo "kubeadm $*" >>"$ROOT/calls"\n[ "$1" != version ] || exec {kubeadm} "$@"\n'
        f'exec unshare --map-root-user --net {kubeadm} --rootfs "$ROOT" certs renew all --config "${{5#"$ROOT"}}"',
    )


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_kubeadm_renews_before_there_is_a_network_and_keeps_every_name(
    binaries: Mapping[str, Path], tmp_path: Path
) -> None:
    plane = ControlPlane(tmp_path, age=400 * DAY)
    run_kubeadm(plane, binaries["kubeadm"])
    files = [plane.kubernetes / f"pki/{name}.crt" for name in PAIRS]
    before = [load(path) for path in files]
    assert plane.run("boot") == 0, plane.log()
    assert plane.pairs_match()
    assert plane.is_settled()
    for old, new in zip(before, map(load, files), strict=True):
        assert new.subject == old.subject
        assert new.issuer == old.issuer
        names = x509.SubjectAlternativeName
        assert new.extensions.get_extension_for_class(names) == old.extensions.get_extension_for_class(names)
        life = new.not_valid_after_utc - new.not_valid_before_utc
        assert timedelta(0) < life - 365 * DAY <= timedelta(minutes=5, seconds=1), "back-dated by five minutes"
        assert new.not_valid_before_utc < datetime.now(UTC) - timedelta(minutes=4)
        assert new.public_key().__class__ == old.public_key().__class__
    assert all(plane.leaves()[path] != plane.before[path] for path in plane.before)


def test_kubeadm_itself_says_nothing_of_a_ca_without_a_key(binaries: Mapping[str, Path], tmp_path: Path) -> None:
    """Why the program looks for the keys first and for what is left afterwards."""
    plane = ControlPlane(tmp_path, age=300 * DAY)
    (plane.kubernetes / "pki/etcd/ca.key").unlink()
    (plane.root / "config.yaml").write_text(
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: v1.37.2\n"
    )
    argv = [str(binaries["kubeadm"]), "--rootfs", str(plane.root), "certs", "renew", "all", "--config", "/config.yaml"]
    done = subprocess.run(
        ["unshare", "--map-root-user", *argv], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "can't be renewed" in done.stdout
    assert plane.leaves()["pki/etcd/peer.crt"] == plane.before["pki/etcd/peer.crt"]


def renew(layout: ParentLayout, name: str, ca: str, port: int) -> None:
    """Another certificate in the place of this one, as kubeadm does it: the key first. Waits until it is served."""
    authority = KeyPair(layout.certificate(ca).read_bytes(), layout.key(ca).read_bytes())
    now, names = datetime.now(UTC), [LOOPBACK, "localhost", "kubernetes.default"]
    pair = issue_server(authority, common_name=name, sans=names, now=now, valid=DAY)
    served = ssl.get_server_certificate((LOOPBACK, port))
    layout.key(name).write_bytes(pair.key_pem)
    layout.certificate(name).write_bytes(pair.cert_pem)
    deadline = time.monotonic() + 120
    while (found := ssl.get_server_certificate((LOOPBACK, port))) == served:
        assert time.monotonic() < deadline, "still the old one"
        time.sleep(0.5)
    assert x509.load_pem_x509_certificate(found.encode()) == load(layout.certificate(name))


def test_etcd_and_the_api_server_serve_a_renewed_certificate_without_a_restart(
    binaries: Mapping[str, Path], tmp_path: Path
) -> None:
    parent = Parent(tmp_path / "parent", binaries, dies_with_us=True)
    run_async(lambda: parent.up(print))
    try:
        pids = sorted((path.name, path.read_text()) for path in parent.layout.run.glob("*.pid"))
        assert len(pids) == 4
        ports = ParentPorts(**json.loads((parent.directory / "ports.json").read_text()))
        renew(parent.layout, "etcd-server", "etcd-ca", ports.etcd)
        renew(parent.layout, "apiserver", "ca", ports.api_server)
        assert sorted((path.name, path.read_text()) for path in parent.layout.run.glob("*.pid")) == pids
        argv = [str(binaries["kubectl"]), "--kubeconfig", str(parent.kubeconfig), "get", "--raw", "/readyz"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        assert done.stdout == "ok", done.stderr
    finally:
        run_async(parent.down)
