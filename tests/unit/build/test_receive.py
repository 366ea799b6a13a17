"""The guest's receiver of snapshots as a process of its own: whom it obeys, and that nothing half is ever kept."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from capn.build.guest.receive import MAX_BYTES, Inbox, RefusedError
from capn.build.kubeconfig import ChildCredentials
from capn.build.kubeconfig_renewal import issue_admin
from capn.build.pki import KeyPair, generate_ca, issue_client, issue_server
from capn.kube.child import connect_child
from capn.kube.http import HttpKubeClient
from tests.unit.build.guest_sandbox import wait_until

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
CA = generate_ca(common_name="kubernetes", organization="c1", now=NOW)
ADMIN = issue_admin(CA, now=NOW)
DATA = bytes(range(256)) * 8192
DIGEST = sha256(DATA).hexdigest()
PROGRAM = Path(__file__).parents[3] / "capn/build/guest/receive.py"


@dataclass
class Guest:
    directory: Path
    process: subprocess.Popen[bytes] | None = None
    port: int = 0

    @property
    def target(self) -> Path:
        return self.directory / "snapshot.db"

    def start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        words = [sys.executable, "-I", str(PROGRAM), "--address=127.0.0.1", f"--port={self.port}"]
        words += [f"--{name}={self.directory / name}" for name in ("ca", "certificate", "key")]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen([*words, f"--target={self.target}"], stderr=log)
        wait_until(lambda: f"waiting on port {self.port}" in self.log(), timeout_s=100)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def has_ended(self) -> bool:
        assert self.process is not None
        return self.process.wait(20) == 0

    def connect(self, client: KeyPair | None) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cadata=CA.cert_pem.decode())
        if client is not None:
            path = self.directory / "client.pem"
            path.write_bytes(client.cert_pem + client.key_pem)
            context.load_cert_chain(path)
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=20)

    def ask(
        self,
        body: bytes | None = None,
        *,
        client: KeyPair | None = ADMIN,
        path: str = "/capn/restore",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """GET, or PUT of a body; what it is said to be is DIGEST unless headers say otherwise."""
        method, named = ("GET", {}) if body is None else ("PUT", headers or {"X-Capn-SHA256": DIGEST})
        with contextlib.closing(self.connect(client)) as connection:
            connection.request(method, path, body=body, headers=named)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def files(self) -> set[str]:
        return {path.name for path in self.directory.iterdir()} & {"snapshot.db", "snapshot.part"}


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    server = issue_server(CA, common_name="capn-restore", sans=["127.0.0.1", "x.gate.capn.dev"], now=NOW, valid=DAY)
    (tmp_path / "ca").write_bytes(CA.cert_pem)
    (tmp_path / "certificate").write_bytes(server.cert_pem)
    (tmp_path / "key").write_bytes(server.key_pem)
    (tmp_path / "log").touch()
    guest = Guest(tmp_path)
    guest.start()
    yield guest
    guest.stop()


def test_it_takes_the_file_of_an_administrator_and_ends(guest: Guest) -> None:
    assert guest.ask() == (200, {"capn": "restore", "state": "waiting", "received": 0})
    assert guest.ask(DATA)[0] == 201
    assert guest.has_ended()
    assert guest.target.read_bytes() == DATA
    assert guest.files() == {"snapshot.db"}


def test_it_obeys_no_node_of_the_cluster(guest: Guest) -> None:
    node = issue_client(CA, common_name="system:node:w", organizations=("system:nodes",), now=NOW, valid=DAY)
    assert guest.ask(client=node)[0] == 403
    assert guest.ask(b"x", client=node)[0] == 403
    assert guest.ask(path="/api/v1/pods", client=node)[0] == 403
    assert guest.files() == set()
    assert guest.ask()[1]["state"] == "waiting"


@pytest.mark.parametrize("stranger", ["nobody", "of-another-ca", "a-server"])
def test_it_does_not_speak_with_strangers(guest: Guest, stranger: str) -> None:
    other = generate_ca(common_name="kubernetes", organization="c1", now=NOW)
    clients = {
        "nobody": None,
        "of-another-ca": issue_admin(other, now=NOW),
        "a-server": KeyPair(ADMIN.cert_pem, ADMIN.key_pem),
    }
    if stranger == "a-server":  # a certificate that has ended
        clients[stranger] = issue_admin(CA, now=NOW - timedelta(days=400))
    with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
        guest.ask(DATA, client=clients[stranger])
    assert guest.files() == set()
    assert guest.ask()[1]["state"] == "waiting"


def test_it_is_no_api_server(guest: Guest) -> None:
    assert guest.ask(path="/api/v1/namespaces/kube-system/configmaps/kubeadm-config")[0] == 404
    assert guest.ask(b"x", path="/../etc/passwd")[0] == 404
    assert guest.files() == set()


def test_other_bytes_are_refused_and_the_right_ones_taken_after_that(guest: Guest) -> None:
    status, said = guest.ask(DATA[:-1] + b"x")
    assert (status, said["why"]) == (422, "these bytes have another SHA-256")
    assert guest.files() == set()
    assert guest.ask()[1] == {"capn": "restore", "state": "waiting", "received": 0}
    assert guest.ask(DATA)[0] == 201
    assert guest.has_ended()


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Capn-SHA256": "abc"},
        {"X-Other": DIGEST},
        {"X-Capn-SHA256": DIGEST, "Content-Length": "-1"},
        {"X-Capn-SHA256": DIGEST, "Content-Length": str(1 << 40)},
        {"X-Capn-SHA256": DIGEST, "Content-Length": "0"},
    ],
)
def test_an_upload_that_does_not_say_what_it_is_is_refused(guest: Guest, headers: dict[str, str]) -> None:
    assert guest.ask(b"", headers=headers)[0] == 400
    assert guest.files() == set()


def begin_upload(guest: Guest, data: bytes) -> http.client.HTTPSConnection:
    connection = guest.connect(ADMIN)
    connection.putrequest("PUT", "/capn/restore")
    connection.putheader("Content-Length", str(len(DATA)))
    connection.putheader("X-Capn-SHA256", DIGEST)
    connection.endheaders()
    connection.send(data)
    return connection


def test_a_cut_upload_leaves_nothing_and_begins_anew(guest: Guest) -> None:
    connection = begin_upload(guest, DATA[: 1 << 20])
    wait_until(lambda: guest.ask()[1]["received"] == 1 << 20)
    assert guest.ask()[1]["state"] == "receiving"
    assert guest.ask(b"other", headers={"X-Capn-SHA256": sha256(b"other").hexdigest()})[0] == 409
    connection.close()
    wait_until(lambda: guest.ask()[1] == {"capn": "restore", "state": "waiting", "received": 0})
    assert guest.files() == set()
    assert guest.ask(DATA)[0] == 201
    assert guest.has_ended()
    assert guest.target.read_bytes() == DATA


def test_a_program_that_was_killed_in_the_middle_begins_anew(guest: Guest) -> None:
    connection = begin_upload(guest, DATA[: 1 << 20])
    wait_until(lambda: guest.ask()[1]["received"] == 1 << 20)
    guest.stop()
    connection.close()
    assert not guest.target.exists()
    guest.start()
    assert guest.ask()[1]["received"] == 0
    assert guest.ask(DATA)[0] == 201
    assert guest.has_ended()
    assert guest.files() == {"snapshot.db"}


def test_a_silent_stranger_holds_up_nobody(guest: Guest) -> None:
    with socket.create_connection(("127.0.0.1", guest.port)):
        assert guest.ask(DATA)[0] == 201
        assert guest.has_ended()


async def connect(guest: Guest) -> HttpKubeClient:
    credentials = ChildCredentials(
        server=f"https://127.0.0.1:{guest.port}",
        ca_pem=CA.cert_pem,
        cert_pem=ADMIN.cert_pem,
        key_pem=ADMIN.key_pem,
        server_name="x.gate.capn.dev",
    )
    return await connect_child(credentials, allow_loopback=True)


async def test_capns_own_client_brings_it_by_the_gates_name(guest: Guest, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(DATA)
    client = await connect(guest)
    try:
        status, body = await client.get_raw("/capn/restore")
        assert (status, json.loads(body)["state"]) == (200, "waiting")
        assert (await client.upload("/capn/restore", file, sha256="0" * 64, timeout_s=60))[0] == 422
        assert (await client.upload("/capn/restore", file, sha256=DIGEST, timeout_s=60))[0] == 201
    finally:
        await client.close()
    assert guest.has_ended()
    assert guest.target.read_bytes() == DATA


async def test_what_is_refused_is_refused_before_it_is_sent(guest: Guest, tmp_path: Path) -> None:
    """With the reason; a reset in the middle of a large body would hide that the disk is too small."""
    with (tmp_path / "large").open("wb") as large:
        large.truncate(MAX_BYTES)  # holes only; more than the disk of a test has room for twice, or busy
    uploading = begin_upload(guest, DATA[: 1 << 20])
    client = await connect(guest)
    try:
        status, body = await client.upload("/capn/restore", tmp_path / "large", sha256=DIGEST, timeout_s=60)
        assert (status, json.loads(body)["why"]) == (409, "another upload goes on")
        assert (await client.upload("/elsewhere", tmp_path / "large", sha256=DIGEST, timeout_s=60))[0] == 404
    finally:
        await client.close()
        uploading.close()


def test_a_disk_that_is_too_small_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox(tmp_path / "snapshot.db")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=2 * len(DATA) - 1))
    with pytest.raises(RefusedError, match="no space left on device") as caught:
        inbox.check(len(DATA), DIGEST)
    assert caught.value.status == 507
