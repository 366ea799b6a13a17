from __future__ import annotations

from typing import Any

import pytest

from capn import names
from capn.build.claim_report import ClaimReport, cut_message, read_report
from capn.controllers.cluster.nested import compute_nested

LONG = '{"phase": "' + "x" * 65 + '"}'
FULL = ClaimReport(
    phase="Failed", version="v1.37.2", machines=3, ready_machines=1, reason="PortInUse", message="port 6443 is in use"
)


def claim(path: str, text: object) -> dict[str, Any]:
    return {"metadata": {"annotations": {names.ANNOTATION_REPORTED: text}}, "spec": {"claim": {"path": path}}}


def test_a_report_goes_round_and_an_empty_one_says_nothing() -> None:
    assert read_report(claim("a/b", FULL.encode())) == FULL
    assert ClaimReport().encode() == "{}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "7",
        '{"machines": -1}',
        '{"machines": "many"}',
        '{"phase": "%s"}' % ("x" * 65),
        " " * 5000,
        None,
    ],
)
def test_what_a_child_cannot_have_meant_is_nothing(text: object) -> None:
    assert read_report(claim("a/b", text)) is None
    assert read_report({"metadata": {}}) is None


def test_messages_are_cut_and_strangers_fields_are_passed_over() -> None:
    assert read_report(claim("a/b", ClaimReport(message=cut_message("x" * 9000)).encode())) is not None
    assert read_report(claim("a/b", '{"ready": true, "newer": 1}')) == ClaimReport(ready=True)


def test_sums_depth_and_the_worst() -> None:
    ready = ClaimReport(phase="Ready", ready=True, machines=2, ready_machines=2)
    waiting = ClaimReport(phase="Provisioning", machines=1)
    claims = [
        claim("t/a/t/b", ready.encode()),
        claim("t/a/t/b/t/c", waiting.encode()),
        claim("t/a/t/d", FULL.encode()),
        claim("t/a/t/e", "damaged"),
    ]
    found = compute_nested("t/a", claims)
    assert (found.clusters, found.ready_clusters, found.machines, found.ready_machines, found.depth) == (4, 1, 6, 3, 2)
    assert found.worst is not None
    assert (found.worst.path, found.worst.reason) == ("t/a/t/d", "PortInUse")
    # Without a failure the first that is not ready, by its phase; without any of those none.
    later = compute_nested("t/a", claims[:2]).worst
    assert later is not None
    assert (later.path, later.reason, later.message) == ("t/a/t/b/t/c", "Provisioning", "")
    assert compute_nested("t/a", claims[:1]).worst is None
    assert compute_nested("t/a", []).depth == 0
