"""Sizes as Kubernetes writes them."""

from __future__ import annotations

import pytest

from capn.build.quantity import parse_quantity


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("10Gi", 10 << 30),
        ("4G", 4 * 10**9),
        ("5368709120", 5 << 30),
        ("1.5Ki", 1536),
        ("1e3", 1000),
        ("2E", 2 * 10**18),
    ],
)
def test_a_quantity_is_its_number(text: str, number: int) -> None:
    assert parse_quantity(text) == number


@pytest.mark.parametrize("text", ["", "ten", "10GiB", "10 Gi", "Gi"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        parse_quantity(text)
