"""One of the machines that can hold it has the endpoint: real keepalived, network namespaces for machines."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import time
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from capn.build.virtual_address import ENDPOINT_CHECK
from capn.dev.parent import Parent
from tests.harness.endpoint_holder import Holder, on_a_network

SUBNET = IPv4Network("10.123.45.0/24")
LIMIT_S = 60.0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root")


def wait_for(what: str, check: Callable[[], bool], *holders: Holder) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not check():
        logs = "\n".join(f"--- {holder.name}\n{holder.log}" for holder in holders)
        assert time.monotonic() < deadline, f"not within {LIMIT_S:.0f} s: {what}\n{logs}"
        time.sleep(0.2)


def test_the_address_is_held_by_one_and_goes_over_when_it_dies_or_its_api_server_does(tmp_path: Path) -> None:
    mark = os.getpid() % 10_000
    with on_a_network(SUBNET, tmp_path, (f"kaa{mark}", f"kab{mark}")) as (first, second):
        # As after a reboot: keepalived is there before the card. It is the only one, and its API server isn't up yet.
        first.start()
        wait_for("keepalived has read its configuration", lambda: "endpoint" in first.log, first)
        first.plug_in()
        wait_for("the only one has the address", lambda: first.holds_endpoint, first)

        first.answer(ready=True)
        second.answer(ready=True)
        second.plug_in()
        second.start()
        wait_for("the second knows of the first", lambda: "BACKUP STATE" in second.log, second)
        assert not second.holds_endpoint

        first.answer(ready=False)  # the machine lives, its API server does not
        wait_for("the second has the address", lambda: second.holds_endpoint, first, second)
        wait_for("the first has given it up", lambda: not first.holds_endpoint, first, second)

        first.answer(ready=True)
        wait_for("the first is well again", lambda: "succeeded" in first.log, first)
        assert second.holds_endpoint  # who has it keeps it

        second.power_off()
        wait_for("the first has the address again", lambda: first.holds_endpoint, first, second)
        assert first.runs


def test_the_check_knows_a_ready_api_server_from_none(parent: Parent, tmp_path: Path) -> None:
    config = yaml.safe_load(parent.kubeconfig.read_text())
    user = config["users"][0]["user"]
    for name, key in (("crt", "client-certificate-data"), ("key", "client-key-data")):
        (tmp_path / f"apiserver-kubelet-client.{name}").write_bytes(base64.b64decode(user[key]))
    port = urlsplit(config["clusters"][0]["cluster"]["server"]).port
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        for asked, status in ((port, 0), (silent.getsockname()[1], 1)):
            env = {**os.environ, "CAPN_PKI": str(tmp_path), "CAPN_API_PORT": str(asked)}
            done = subprocess.run(["sh", "-c", ENDPOINT_CHECK], env=env, capture_output=True, timeout=60, check=False)
            assert done.returncode == status, done
