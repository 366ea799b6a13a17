from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from capn import names
from capn.api.machine import LeafCertificates
from capn.build.leaf_expiry import NOTICE, find_ending_leaf, read_leaf_certificates

NOW = datetime(2026, 11, 27, tzinfo=UTC)
END = "2027-11-27T01:00:00Z"


def annotated(end: object = None, failure: object = None) -> dict[str, object]:
    values = {names.ANNOTATION_CERTIFICATES_END: end, names.ANNOTATION_CERTIFICATES_FAILURE: failure}
    return {
        "metadata": {"name": "n", "annotations": {key: value for key, value in values.items() if value is not None}}
    }


def ends(days: float, failure: str | None = None) -> LeafCertificates:
    return LeafCertificates(end=f"{NOW + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}", failure=failure)


def test_what_a_guest_said_is_read() -> None:
    assert read_leaf_certificates(annotated(END)) == LeafCertificates(end=END)
    assert read_leaf_certificates(annotated(END, "no key")) == LeafCertificates(end=END, failure="no key")
    assert read_leaf_certificates(annotated(failure="no key")) == LeafCertificates(failure="no key")


@pytest.mark.parametrize("end", ["", "soon", "2027-13-01T00:00:00Z", "2027-11-27", END + "\n", 7, {"a": 1}, "9" * 4000])
def test_what_is_no_time_is_nothing(end: object) -> None:
    assert read_leaf_certificates(annotated(end)) is None
    if isinstance(end, str):
        assert find_ending_leaf({"a": LeafCertificates.model_construct(end=end)}, now=NOW) is None


def test_a_node_without_annotations_says_nothing() -> None:
    assert read_leaf_certificates({"metadata": {"name": "n"}}) is None
    assert read_leaf_certificates({"metadata": {"name": "n", "annotations": None}}) is None


def test_a_hostile_failure_is_cleaned_and_cut() -> None:
    said = read_leaf_certificates(annotated(END, "\x1b[31mred\n\n" + "x" * 5000 + "\u202eend"))
    assert said is not None
    assert said.failure is not None
    assert len(said.failure) <= 512
    assert "\x1b" not in said.failure
    assert "\n" not in said.failure


def test_the_one_that_ends_first_is_named_with_its_failure() -> None:
    machines = {"c1-cp-0": ends(200), "c1-cp-1": ends(29, "no key"), "c1-cp-2": ends(29.5), "c1-cp-3": None}
    message = find_ending_leaf(machines, now=NOW)
    assert message is not None
    assert "certificates on c1-cp-1 end on 2026-12-26 and the machine has not renewed them: no key; renew" in message
    assert find_ending_leaf({"c1-cp-2": ends(-3)}, now=NOW) is not None


def test_nothing_is_said_before_the_last_month() -> None:
    assert find_ending_leaf({}, now=NOW) is None
    assert find_ending_leaf({"a": None, "b": LeafCertificates(failure="no key")}, now=NOW) is None
    limit = NOTICE.total_seconds() / 86400
    assert find_ending_leaf({"a": ends(limit + 0.1)}, now=NOW) is None
    assert find_ending_leaf({"a": ends(limit)}, now=NOW) is not None
