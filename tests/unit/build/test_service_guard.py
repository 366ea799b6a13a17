from __future__ import annotations

import pytest

from capn.build.service_guard import build_service_guard
from capn.errors import InvalidSpecError


def test_the_family_follows_the_network() -> None:
    assert "ip daddr 10.96.0.0/16 reject" in build_service_guard("10.96.0.0/16")
    assert "ip6 daddr fd00:10::/112 reject" in build_service_guard("fd00:10::/112")


@pytest.mark.parametrize("text", ["", "10.96.0.1/16", "10.96.0.0/33", '10.96.0.0/16 accept"'])
def test_anything_but_a_network_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpecError, match=r"spec\.network\.serviceCIDR"):
        build_service_guard(text)
