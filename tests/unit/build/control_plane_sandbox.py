"""A control plane with real certificates, below a directory, with stand-ins for what only a node runs.

The stand-ins note in `calls` what they were asked. `served` is what the API server and etcd have loaded: they read what
is on the disk when they are asked, unless a test keeps something else there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from capn.build.kubeconfig import ServerAddress, build_kubeconfig
from capn.build.pki import ClusterPki, KeyPair, certificate_matches_key, generate_pki, issue_client, issue_server
from tests.unit.build.guest_sandbox import GuestSandbox

DAY = timedelta(days=1)
YEAR = 365 * DAY
PAIRS = (
    "apiserver",
    "apiserver-kubelet-client",
    "apiserver-etcd-client",
    "front-proxy-client",
    "etcd/server",
    "etcd/peer",
    "etcd/healthcheck-client",
)
CONFIGS = ("admin", "super-admin", "controller-manager", "scheduler")
PKI = generate_pki(now=datetime.now(UTC) - 2 * YEAR, cluster="demo")
_STAND_INS: Mapping[str, str] = {
    "kubeadm": """
case "$*" in version*) echo v1.37.2; exit 0 ;; esac
echo "kubeadm $1 $2 $3" >>"$ROOT/calls"
cat "$5" >"$ROOT/config"
cp -R "$ROOT/new/." "$ROOT/etc/kubernetes"
""",
    "openssl": """
[ "$1" = s_client ] || exec /usr/bin/openssl "$@"
[ "$2" != -quiet ] || { healthz "$4" && echo "HTTP/1.0 200 OK"; exit; }
case "$3" in *:2379) file=etcd/server ;; *) file=apiserver ;; esac
cat "$ROOT/served" 2>/dev/null || cat "$ROOT/etc/kubernetes/pki/$file.crt"
""",
    "kubectl": 'echo "kubectl $@" | sed "s|$ROOT||; s|--request-timeout 60s ||" >>"$ROOT/calls"',
    "crictl": 'echo "crictl $@" >>"$ROOT/calls"; case "$1" in ps) echo "of-${4##*=}" ;; esac',
    "sync": "exit 0",  # on a busy disk it takes seconds
    "healthz": 'echo "healthz $1" >>"$ROOT/calls"',
}


class ControlPlane:
    """`born` and `life` are those of the certificates that are there; kubeadm makes ones that live a year from now."""

    def __init__(self, root: Path, *, age: timedelta, life: timedelta = YEAR) -> None:
        self.sandbox = GuestSandbox(root)
        self.root, self.now = root, datetime.now(UTC)
        self.kubernetes = root / "etc/kubernetes"
        self.sandbox.environment["ROOT"] = str(root)
        self.sandbox.environment["CAPN_PAUSE_S"] = "0.05"
        for name, script in _STAND_INS.items():
            self.sandbox.program(name, script)
        self._write(self.kubernetes, born=self.now - age, life=life)
        self._write(root / "new", born=self.now, life=YEAR)
        for path, pair in (("ca", PKI.ca), ("etcd/ca", PKI.etcd_ca), ("front-proxy-ca", PKI.proxy_ca)):
            self._write_pair(self.kubernetes / "pki" / path, pair)
        for component, port in (("kube-controller-manager", 10257), ("kube-scheduler", 12345)):
            manifest = self.kubernetes / f"manifests/{component}.yaml"
            manifest.parent.mkdir(exist_ok=True)
            manifest.write_text(f"    - --bind-address=127.0.0.1\n    - --secure-port={port}\n" if port > 12000 else "")
        (root / "var/lib/capn").mkdir()
        (root / "var/lib/capn/done").touch()
        self.before = self.leaves()

    def program(self, name: str, script: str) -> None:
        """Another stand-in; `<usual>` in it is what the usual one does."""
        self.sandbox.program(name, script.replace("<usual>", _STAND_INS.get(name, "")))

    def run(self, *arguments: str) -> int:
        return self.sandbox.run("certificates.sh", *arguments)

    def calls(self, name: str = "") -> list[str]:
        path = self.root / "calls"
        return [line for line in (path.read_text().splitlines() if path.exists() else []) if line.startswith(name)]

    def told(self) -> list[str]:
        """What was put on the node, an entry a time."""
        begin = f"annotate --overwrite node {os.uname().nodename} "
        return [line.partition(begin)[2] for line in self.calls("kubectl") if begin in line]

    def leaves(self) -> dict[str, bytes]:
        """Content by path, of all that kubeadm renews."""
        return _read_leaves(self.kubernetes)

    def renewed(self) -> dict[str, bytes]:
        """What kubeadm makes."""
        return _read_leaves(self.root / "new")

    def pairs_match(self) -> bool:
        """Whether each certificate has its own key beside it."""
        files = {path: content for path, content in self.leaves().items() if path.startswith("pki/")}
        names = [path[:-4] for path in files if path.endswith(".crt")]
        assert len(names) == len(PAIRS)
        return all(certificate_matches_key(KeyPair(files[f"{name}.crt"], files[f"{name}.key"])) for name in names)

    def is_settled(self) -> bool:
        """Whether nothing is left to be done or undone."""
        return not (self.root / "var/lib/capn/certificates/step").exists()

    def log(self) -> str:
        return (self.root / "var/log/capn-certificates.log").read_text()

    def _write(self, directory: Path, *, born: datetime, life: timedelta) -> None:
        for name in PAIRS:
            ca = _ca_of(PKI, name)
            pair = issue_server(ca, common_name=name, sans=["127.0.0.1"], now=born, valid=life)
            self._write_pair(directory / "pki" / name, pair)
        for name in CONFIGS:
            pair = issue_client(PKI.ca, common_name=name, organizations=[], now=born, valid=life)
            server = ServerAddress("https://127.0.0.1:6443")
            text = build_kubeconfig(cluster="demo", server=server, ca_pem=PKI.ca.cert_pem, client=pair)
            (directory / f"{name}.conf").write_text(text)

    @staticmethod
    def _write_pair(path: Path, pair: KeyPair) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{path.name}.crt").write_bytes(pair.cert_pem)
        path.with_name(f"{path.name}.key").write_bytes(pair.key_pem)


def _ca_of(pki: ClusterPki, name: str) -> KeyPair:
    if name == "front-proxy-client":
        return pki.proxy_ca
    return pki.etcd_ca if "etcd" in name else pki.ca


def _read_leaves(directory: Path) -> dict[str, bytes]:
    files = [f"pki/{name}.{kind}" for name in PAIRS for kind in ("crt", "key")]
    files += [f"{name}.conf" for name in CONFIGS]
    return {name: (directory / name).read_bytes() for name in files if (directory / name).exists()}
