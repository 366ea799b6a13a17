"""Sizes as Kubernetes writes them.

Role: pure. Format: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/. Must not: know
which sizes capn allows (`capn.api.checks`).
"""

from __future__ import annotations

import re
from decimal import Decimal

_BINARY = {suffix: Decimal(1024) ** power for power, suffix in enumerate(("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))}
_DECIMAL = {suffix: Decimal(1000) ** power for power, suffix in enumerate(("", "k", "M", "G", "T", "P", "E"))}
_FACTORS = _BINARY | _DECIMAL | {"m": Decimal("0.001")}
_PATTERN = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([A-Za-z]*)")


def parse_quantity(text: str) -> Decimal:
    """The number, such as bytes, of a quantity as a server returned it. ValueError for other text."""
    found = _PATTERN.fullmatch(text)
    if found is None or found[2] not in _FACTORS:
        raise ValueError(f"{text!r} is no quantity such as 10Gi")
    return Decimal(found[1]) * _FACTORS[found[2]]
