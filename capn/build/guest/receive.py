"""Takes a snapshot of etcd over TLS, before there is an API server on this machine, then ends.

Run in a guest by bootstrap.sh, with the standard library of Python alone. Listens where the API server will, asks every
client for a certificate of the cluster's CA, and obeys those of its administrators. `GET /capn/restore` tells how it
stands; `PUT /capn/restore` with Content-Length and X-Capn-SHA256 brings the file, which is there (201) only when it is
whole and on disk. Must not: answer anybody else, keep half a file, or know what is in it (etcdutl checks that).
"""

from __future__ import annotations

import argparse
import hashlib
import http.server
import json
import os
import re
import shutil
import socket
import ssl
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO, cast

ADDRESS = "/capn/restore"
GROUP = "system:masters"
MAX_BYTES = 16 << 30
# The file itself and the data that is made of it.
COPIES = 2
HANDSHAKE_S, SILENCE_S = 10.0, 60.0
_PIECE = 1 << 20
_BUSY = "another upload goes on"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class RefusedError(Exception):
    """The upload is not taken: an HTTP status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Inbox:
    """The one file: nowhere, on its way, or there."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.received = 0
        self.digest = ""
        self._one_at_a_time = threading.Lock()

    @property
    def state(self) -> str:
        """As `GET` tells it."""
        if self.digest:
            return "received"
        return "receiving" if self._one_at_a_time.locked() else "waiting"

    def check(self, size: int, digest: str) -> None:
        """RefusedError when a file need not even begin to come."""
        if self._one_at_a_time.locked():
            raise RefusedError(409, _BUSY)
        self._check_room(size, digest)

    def _check_room(self, size: int, digest: str) -> None:
        if self.digest not in {"", digest}:
            raise RefusedError(409, "there is another file already")
        if shutil.disk_usage(self.target.parent).free < COPIES * size:
            raise RefusedError(507, "no space left on device: give the machine a larger disk")

    def take(self, stream: BinaryIO, size: int, digest: str) -> int:
        """Store the file; the HTTP status of having it. RefusedError when it does not come whole."""
        if not self._one_at_a_time.acquire(blocking=False):
            raise RefusedError(409, _BUSY)
        try:
            self._check_room(size, digest)
            if self.digest == digest:
                return 200
            self._store(stream, size, digest)
            self.digest = digest
            return 201
        finally:
            self.received = 0 if not self.digest else self.received
            self._one_at_a_time.release()

    def _store(self, stream: BinaryIO, size: int, digest: str) -> None:
        part = self.target.with_suffix(".part")
        found = hashlib.sha256()
        try:
            with part.open("wb") as file:
                while self.received < size:
                    piece = stream.read(min(_PIECE, size - self.received))
                    if not piece:
                        raise RefusedError(400, f"only {self.received} of {size} bytes came")
                    found.update(piece)
                    file.write(piece)
                    self.received += len(piece)
                if found.hexdigest() != digest:
                    raise RefusedError(422, "these bytes have another SHA-256")
                file.flush()
                os.fsync(file.fileno())
            part.rename(self.target)
            _sync(self.target.parent)
        finally:
            part.unlink(missing_ok=True)


class Server(http.server.ThreadingHTTPServer):
    """A server that speaks TLS with clients of the CA only."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, inbox: Inbox) -> None:
        self.context = context
        self.inbox = inbox
        self.done = threading.Event()
        super().__init__(address, Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection; the handshake is the handler's, so that a slow client holds up nobody."""
        plain, peer = super().get_request()
        return self.context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), peer

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002 - the base class's
        """One line: strangers and cut connections are nothing to be long about."""
        say(f"{client_address[0]}: {sys.exc_info()[1]}")


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection, one request."""

    protocol_version = "HTTP/1.1"
    timeout = SILENCE_S

    def setup(self) -> None:
        """Shake hands."""
        secure = cast("ssl.SSLSocket", self.request)
        secure.settimeout(HANDSHAKE_S)
        secure.do_handshake()
        super().setup()

    def do_GET(self) -> None:
        """Tell how it stands."""
        try:
            self._check_client()
        except RefusedError as refused:
            self._refuse(refused)
            return
        inbox = self._inbox
        self._answer(200, {"capn": "restore", "state": inbox.state, "received": inbox.received})

    def handle_expect_100(self) -> bool:
        """Refuse before the body comes, to a client that asks first: else it would hear of a broken connection only."""
        try:
            self._inbox.check(*self._read_headers())
        except RefusedError as refused:
            self._refuse(refused)
            return False
        return super().handle_expect_100()

    def do_PUT(self) -> None:
        """Take the file."""
        try:
            size, digest = self._read_headers()
            status = self._inbox.take(cast("BinaryIO", self.rfile), size, digest)
        except RefusedError as refused:
            self._refuse(refused)
            return
        say(f"received {size} bytes")
        self._answer(status, {"capn": "restore", "state": "received"})
        cast("Server", self.server).done.set()

    def _check_client(self) -> None:
        certificate = cast("ssl.SSLSocket", self.request).getpeercert() or {}
        subject = cast("tuple[tuple[tuple[str, str], ...], ...]", certificate.get("subject", ()))
        groups = {value for part in subject for key, value in part if key == "organizationName"}
        if GROUP not in groups:
            raise RefusedError(403, f"this is for {GROUP}")
        if self.path != ADDRESS:
            raise RefusedError(404, "there is no API server here yet")

    def _read_headers(self) -> tuple[int, str]:
        """Size and SHA-256 of what comes."""
        self._check_client()
        size, digest = self.headers.get("Content-Length", ""), self.headers.get("X-Capn-SHA256", "")
        if not (size.isascii() and size.isdigit() and 0 < int(size) <= MAX_BYTES and _SHA256.fullmatch(digest)):
            raise RefusedError(400, "Content-Length and X-Capn-SHA256 must say what comes")
        return int(size), digest

    def _refuse(self, refused: RefusedError) -> None:
        if self.command == "PUT":
            say(f"refused: {refused}")
        self._answer(refused.status, {"why": str(refused)})

    @property
    def _inbox(self) -> Inbox:
        return cast("Server", self.server).inbox

    def _answer(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
        """Nothing for each request: kubelets ask again and again."""


def say(text: str) -> None:
    """A line for the bootstrap's log."""
    sys.stderr.write(f"receive: {text}\n")
    sys.stderr.flush()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def build_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS with our certificate, for clients of that CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def main() -> None:
    """Serve until the file is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="")
    parser.add_argument("--port", type=int, required=True)
    for name in ("ca", "certificate", "key", "target"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    context = build_context(options.ca, options.certificate, options.key)
    with Server((options.address, options.port), context, Inbox(options.target)) as server:
        say(f"waiting on port {server.server_address[1]}")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()
        server.done.wait()
        server.shutdown()


if __name__ == "__main__":
    main()
