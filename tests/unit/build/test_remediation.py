"""Who is unhealthy, who is replaced, and what is said and remembered of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from capn import names
from capn.api.machine import NestedMachine
from capn.api.pools import HealthCheck, Remediation
from capn.build.health import Finding, compute_finding
from capn.build.remediation import Verdict, compute_allowed, compute_remediation
from tests.unit.build.pool_samples import BEGIN, STARTING, UNREADY, at, make_worker

CHECK = HealthCheck()
FAILED: dict[str, tuple[str, float]] = {"BootstrapSucceeded": ("False", 12), **STARTING}
GONE: dict[str, tuple[str, float]] = {
    "InfrastructureReady": ("False", 50),
    "NodeHealthy": ("Unknown", 50),
    "Ready": ("False", 50),
}


def verdict_of(
    machines: list[NestedMachine], seconds: float, *records: Remediation, check: HealthCheck = CHECK, wanted: int = 5
) -> Verdict:
    return compute_remediation({"md": machines}, wanted, check, records, BEGIN + timedelta(seconds=seconds))


def record(count: int, seconds: float) -> Remediation:
    return Remediation(pool="md", count=count, last_time=at(seconds))


def reason(verdict: Verdict) -> str | None:
    return verdict.said[0].reason if verdict.said else None


def due_of(machine: NestedMachine, check: HealthCheck = CHECK) -> float | None:
    found = compute_finding(machine, check)
    return None if found is None else (found.due - BEGIN).total_seconds()


@pytest.mark.parametrize(
    ("fields", "due"),
    [
        ({}, None),
        ({"conditions": UNREADY}, 400),
        ({"conditions": {"NodeHealthy": ("Unknown", 100), "Ready": ("False", 100)}}, None),  # the child is silent
        ({"conditions": STARTING}, 1810),
        ({"conditions": FAILED, "failure": "BootstrapFailed"}, 12),
        ({"conditions": FAILED}, 1810),  # it boots
        ({"conditions": GONE, "failure": "MachineLost"}, 50),
        ({"conditions": GONE, "failure": "InsufficientMemory"}, None),  # another would have no room either
        ({"conditions": GONE}, None),  # the hypervisor is silent
        ({"conditions": UNREADY, "failure": "ProviderIDMismatch"}, None),  # a person's to mend
    ],
)
def test_from_when_on_a_machine_may_be_replaced(fields: dict[str, Any], due: float | None) -> None:
    assert due_of(make_worker(0, **fields)) == due


def test_a_machine_without_conditions_is_not_judged() -> None:
    bare = make_worker(0).model_copy(update={"status": make_worker(0).status.model_copy(update={"conditions": []})})
    assert compute_finding(bare, CHECK) is None


def test_what_the_node_says_of_its_own_times_counts_for_nothing() -> None:
    # All that a finding is made of is the NestedMachine: its conditions' times are ours.
    found = compute_finding(make_worker(0, conditions=UNREADY), CHECK)
    assert found == Finding("its node was not Ready for 300 s", BEGIN + timedelta(seconds=400), by_node=True)


def test_it_waits_to_the_second_then_writes_down_a_round_then_deletes() -> None:
    sick = make_worker(0, conditions=UNREADY)
    early = verdict_of([sick], 150)
    assert (early.delete, early.records, early.after_s, reason(early)) == ((), (), 250, "NodesNotReady")
    decided = verdict_of([sick], 400.9)
    assert decided.delete == ()
    assert decided.records == (record(1, 400),)
    assert decided.healing == {"demo-md-0"}
    soon = verdict_of([sick], 400.9, *decided.records)
    assert (soon.delete, soon.said, soon.records) == ((), decided.said, decided.records)
    assert soon.after_s == pytest.approx(0.1)
    done = verdict_of([sick], 401, *decided.records)
    assert [patient.machine.metadata.name for patient in done.delete] == ["demo-md-0"]
    assert done.records == decided.records


def test_nodes_that_are_starting_are_waited_for_without_a_word() -> None:
    verdict = verdict_of([make_worker(0, conditions=STARTING)], 110)
    assert (verdict.said, verdict.after_s) == ((), 1700)


def test_one_that_falls_ill_after_the_round_needs_another_round_and_its_pause() -> None:
    sick = make_worker(0, conditions=UNREADY)  # due at 400
    waiting = verdict_of([sick], 410, record(1, 395))
    assert (reason(waiting), waiting.after_s, waiting.delete) == ("RemediationWaiting", 45, ())
    assert waiting.healing == {"demo-md-0"}
    assert verdict_of([sick], 455, record(1, 395)).records == (record(2, 455),)


@pytest.mark.parametrize(("count", "pause"), [(1, 60), (2, 120), (3, 240), (4, 480)])
def test_pauses_double(count: int, pause: int) -> None:
    verdict = verdict_of([make_worker(0, conditions=UNREADY)], 400, record(count, 399))
    assert verdict.after_s == pause - 1


def test_retries_end_and_name_what_failed() -> None:
    broken = make_worker(0, conditions=FAILED, failure="DiskFull", created=5)
    verdict = verdict_of([broken], 1e6, record(5, 4))
    assert reason(verdict) == "RemediationExhausted"
    assert "demo-md-0: its bootstrap failed (DiskFull)" in verdict.said[0].message
    assert (verdict.healing, verdict.delete, verdict.after_s) == (frozenset(), (), None)


def test_only_what_was_ready_for_long_counts_anew() -> None:
    late = {"NodeHealthy": ("False", 9000.0), "Ready": ("False", 9000.0)}
    assert verdict_of([make_worker(0, conditions=late)], 9300, record(5, 100)).records == (record(1, 9300),)
    # The same machine, never Ready: that its condition turned late says nothing.
    flapped = {"InfrastructureReady": ("True", 9000.0), "BootstrapSucceeded": ("False", 9000.0), **STARTING}
    never = make_worker(0, conditions=flapped, failure="BootstrapFailed", created=101)
    assert reason(verdict_of([never], 9300, record(5, 100))) == "RemediationExhausted"


def test_more_than_max_unhealthy_are_left_alone_and_counted_before_they_are_due() -> None:
    later = {"NodeHealthy": ("False", 300.0), "Ready": ("False", 300.0)}
    sick = [make_worker(0, conditions=UNREADY), make_worker(1, conditions=later), make_worker(2, conditions=later)]
    verdict = verdict_of([*sick, make_worker(3), make_worker(4)], 400)
    assert reason(verdict) == "RemediationBlocked"
    assert "3 of 5 workers are unhealthy (demo-md-0, demo-md-1, demo-md-2)" in verdict.said[0].message
    assert (verdict.records, verdict.delete) == ((), ())
    assert reason(verdict_of(sick[:2], 400)) == "Remediating"


def test_replacements_that_are_not_ready_yet_count_as_unhealthy() -> None:
    fresh = [make_worker(ordinal, conditions=STARTING, created=350) for ordinal in (1, 2)]
    sick = make_worker(0, conditions=UNREADY)
    assert reason(verdict_of([sick, *fresh], 400, record(1, 340))) == "RemediationBlocked"
    assert reason(verdict_of([sick, *fresh], 400)) == "Remediating"


@pytest.mark.parametrize(
    ("text", "wanted", "allowed"),
    [("40%", 1, 1), ("40%", 5, 2), ("40%", 6, 3), ("0%", 9, 0), ("100%", 9, 9), ("2", 9, 2), ("0", 9, 0)],
)
def test_a_percentage_is_rounded_up(text: str, wanted: int, allowed: int) -> None:
    assert compute_allowed(text, wanted) == allowed


def test_skipped_and_deleting_machines_are_not_touched_but_count() -> None:
    skipped = make_worker(0, conditions=UNREADY, annotations=(names.ANNOTATION_SKIP_REMEDIATION,))
    going = make_worker(1, conditions=UNREADY, deleting=True)
    verdict = verdict_of([skipped, going], 1000)
    assert (verdict.said, verdict.delete, verdict.records) == ((), (), ())
    assert reason(verdict_of([skipped, going, make_worker(2, conditions=UNREADY)], 1000)) == "RemediationBlocked"


def test_switched_off_it_says_nothing_and_forgets_nothing() -> None:
    off = HealthCheck(enabled=False)
    verdict = verdict_of([make_worker(0, conditions=UNREADY)], 1000, record(3, 1), check=off)
    assert verdict == Verdict(records=(record(3, 1),))


def test_the_memory_of_a_pool_goes_with_the_pool() -> None:
    assert verdict_of([make_worker(0)], 0, Remediation(pool="old", count=2, last_time=at(0))).records == ()


def test_long_lists_are_cut() -> None:
    sick = [make_worker(ordinal, conditions=UNREADY) for ordinal in range(8)]
    assert "..." in verdict_of(sick, 1000).said[0].message
    assert "and 3 more" in verdict_of(sick, 1000, wanted=20).said[0].message
    assert "..." in verdict_of(sick, 150, wanted=20).said[0].message
