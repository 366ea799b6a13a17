"""The firewall rules of a node, loaded by the real nft in a network namespace of the test's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from capn.build.service_guard import build_service_guard

# Says what became of a connection to a Service's address: 'open' or the error's name.
_CONNECT = """
import errno, socket, sys
try:
    socket.create_connection((sys.argv[1], 443), timeout=2).close()
    print("open")
except OSError as error:
    print(errno.errorcode.get(error.errno, "TIMEOUT"))
"""
# A server on 7443, and a default route (to a neighbour that never answers) as a node has one.
_NODE = """
set -e
ip link set lo up
ip link add up0 type veth peer name up1
ip address add 192.0.2.10/24 dev up0
ip link set up0 up
ip link set up1 up
ip route add default via 192.0.2.1
python3 -m http.server --bind 192.0.2.10 7443 >/dev/null 2>&1 &
server=$!
trap 'kill $server' EXIT
until ss -Htln | grep -q :7443; do sleep 0.1; done
"""


def run_in_a_node(script: str, *, guard: Path, connect: Path) -> list[str]:
    """Output lines of `script`, run with a network of its own in which GUARD and CONNECT name the files."""
    finished = subprocess.run(
        ["unshare", "--net", "--", "sh", "-c", _NODE + script],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "GUARD": str(guard), "CONNECT": f"python3 {connect}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.split()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    guard, connect = tmp_path / "services.nft", tmp_path / "connect.py"
    guard.write_text(build_service_guard("10.96.0.0/16"))
    connect.write_text(_CONNECT)
    return {"guard": guard, "connect": connect}


def test_a_service_that_nobody_serves_is_refused_at_once_instead_of_leaving_the_node(files: dict[str, Path]) -> None:
    lines = run_in_a_node("$CONNECT 10.96.0.1; nft -f $GUARD; $CONNECT 10.96.0.1; $CONNECT 10.97.0.1", **files)
    # The neighbour never answers: what left the node ends with one of two errors, and late.
    assert lines[1] == "ECONNREFUSED"
    assert {lines[0], lines[2]} <= {"TIMEOUT", "EHOSTUNREACH"}


def test_a_service_that_is_served_is_not_touched(files: dict[str, Path]) -> None:
    dnat = (
        "nft 'table ip proxy { chain output { type nat hook output priority -100;"
        " ip daddr 10.96.0.1 tcp dport 443 dnat to 192.0.2.10:7443; }; }'"
    )
    assert run_in_a_node(f"nft -f $GUARD; {dnat}; $CONNECT 10.96.0.1; $CONNECT 10.96.0.2", **files) == [
        "open",
        "ECONNREFUSED",
    ]


def test_loading_it_again_changes_nothing(files: dict[str, Path]) -> None:
    script = "nft -f $GUARD; nft list ruleset | md5sum; nft -f $GUARD; nft list ruleset | md5sum"
    first, _, second, _ = run_in_a_node(script, **files)
    assert first == second
