from __future__ import annotations

import pytest

from capn.build.virtual_address import build_keepalived
from capn.errors import InvalidSpecError


def test_the_router_id_is_the_addresss_last_byte_and_never_zero() -> None:
    assert "virtual_router_id 10\n" in build_keepalived("10.89.7.10")
    assert "virtual_router_id 1\n" in build_keepalived("10.89.8.0")


def test_no_control_plane_has_a_better_priority_than_another() -> None:
    text = build_keepalived("10.89.7.10")
    assert "state BACKUP" in text
    assert text.count("priority") == 1
    priority = int(text.partition("priority ")[2].split()[0])
    penalty = int(text.partition("weight ")[2].split()[0])
    # One that lost its API server goes below the others, and holds the address all the same when it is alone.
    assert 0 < priority + penalty < priority


@pytest.mark.parametrize("host", ["api.example", "10.0.0.1 }", "fd00::1"])
def test_what_is_no_ipv4_address_is_refused(host: str) -> None:
    with pytest.raises(InvalidSpecError, match=r"status\.endpoint\.host"):
        build_keepalived(host)
