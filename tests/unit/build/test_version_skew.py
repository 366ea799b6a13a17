from __future__ import annotations

import pytest

from capn.api.machine import NestedMachine
from capn.build.version_skew import compute_worker_version, find_skew, have_version
from tests.unit.build.pool_samples import make_worker
from tests.unit.build.samples import make_machine


def planes(*versions: str) -> list[NestedMachine]:
    return [make_machine(version=version) for version in versions]


@pytest.mark.parametrize(
    ("versions", "has", "workers"),
    [
        ((), False, "v1.38.0"),
        (("v1.38.0", "v1.38.0"), True, "v1.38.0"),
        (("v1.38.0", "v1.37.10", "v1.37.9"), False, "v1.37.9"),
        (("v1.37.2",), False, "v1.37.2"),
    ],
)
def test_workers_go_to_a_version_when_every_control_plane_has_it(
    versions: tuple[str, ...],
    has: bool,  # noqa: FBT001 - a column of the table above
    workers: str,
) -> None:
    assert have_version(planes(*versions), "v1.38.0") is has
    assert compute_worker_version(planes(*versions), "v1.38.0") == workers


@pytest.mark.parametrize(
    ("worker", "words"),
    [
        ("v1.38.0", None),
        ("v1.35.9", None),
        ("v1.34.0", "at most 3 minors older"),
        ("v1.38.1", "may not be newer"),
        ("v1.39.0", "may not be newer"),
    ],
)
def test_the_rule_is_named(worker: str, words: str | None) -> None:
    found = find_skew([make_worker(0, version="v1.38.0"), make_worker(1, version=worker)], "v1.38.0")
    assert (found is None) is (words is None)
    if words is not None and found is not None:
        assert words in found
        assert "demo-md-1 runs" in found
        assert "version skew policy" in found
