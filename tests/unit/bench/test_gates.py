from __future__ import annotations

from bench.gates import MINIMUM, Verdict, compute_ratio, failed, judge
from bench.results import Results
from tests.unit.bench.factories import build_latency, build_quiet, build_results, build_round, build_writes


def find(results: Results, start: str) -> Verdict:
    return next(verdict for verdict in judge(results) if verdict.gate.startswith(start))


def test_a_good_run_holds_every_gate() -> None:
    results = build_results(
        build_round("floor", seconds=10.0),
        build_round("kopf", seconds=60.0),
        build_round("capn", seconds=11.0),
        quiet=[build_quiet("at rest"), build_quiet("restart")],
    )
    verdicts = judge(results)
    assert [verdict for verdict in verdicts if verdict.passed is not True] == []
    assert len(verdicts) == 2 + 2 + 2 + 3 + 1


def test_the_minimum_is_nineteen() -> None:
    assert sum(MINIMUM.values()) == 19


def test_slower_than_the_floor_allows() -> None:
    results = build_results(build_round("floor", seconds=10.0), build_round("capn", seconds=13.0))
    verdict = find(results, "B1 clusters/s against floor")
    assert (verdict.passed, verdict.found) == (False, "0.77x")


def test_not_five_times_kopf() -> None:
    results = build_results(build_round("kopf", seconds=49.0), build_round("capn", seconds=10.0))
    assert find(results, "B1 clusters/s against kopf").passed is False


def test_a_contestant_that_was_not_measured_is_not_judged() -> None:
    assert find(build_results(build_round("capn")), "B1 clusters/s against floor").passed is None


def test_clusters_that_never_became_ready_are_no_rate() -> None:
    results = build_results(build_round("floor"), build_round("capn", ready=99, seconds=1.0))
    assert find(results, "B1 clusters/s against floor").passed is False


def test_times_beside_a_busy_neighbour_are_not_judged_and_counts_are() -> None:
    results = build_results(build_round("floor", foreign=0.5), build_round("capn", seconds=100.0))
    assert find(results, "B1 clusters/s against floor").passed is None
    assert "up to 50% of the machine" in find(results, "B1 clusters/s against floor").found
    assert find(results, "B6").passed is None
    assert find(results, "B2").passed is True


def test_rounds_are_compared_pairwise() -> None:
    results = build_results(
        build_round("floor", number=1, seconds=10.0),
        build_round("capn", number=1, seconds=10.0),
        build_round("floor", number=2, seconds=100.0),
        build_round("capn", number=2, seconds=100.0),
    )
    assert compute_ratio(results, "floor", lambda one: one.rate) == 1.0


def test_one_write_more_or_less_is_off_for_a_cluster_alone() -> None:
    for change in (+1, -1):
        writes = build_writes(5)
        writes["POST secrets"] += change
        verdict = find(build_results(build_round("capn", lone=writes)), "B2 writes to Ready, one cluster")
        assert (verdict.passed, verdict.found) == (False, f"POST secrets: {change:+d}")


def test_at_once_statuses_may_fall_together_but_nothing_may_be_more() -> None:
    fewer, more, other = build_writes(100), build_writes(100), build_writes(100)
    fewer["APPLY nestedclusters/status"] -= 7
    more["APPLY nestedmachines/status"] += 1
    other["POST secrets (refused)"] = 1
    passed = [
        find(build_results(build_round("capn", writes=writes)), "B2 writes to Ready, 100 clusters").passed
        for writes in (fewer, more, other)
    ]
    assert passed == [True, False, False]


def test_any_write_or_get_at_rest_is_too_many() -> None:
    quiet = build_quiet("at rest", writes={"APPLY nestedclusters/status": 1}, gets={"GET secrets": 2})
    verdicts = judge(build_results(quiet=[quiet]))
    assert [(verdict.passed, verdict.found) for verdict in verdicts if verdict.gate.startswith("B3")] == [
        (False, "1 APPLY nestedclusters/status"),
        (False, "2 GET secrets"),
    ]


def test_a_second_list_after_a_restart_is_one_too_many() -> None:
    verdict = find(build_results(quiet=[build_quiet(lists=2)]), "B3 restart, 100 clusters: LIST")
    assert verdict.passed is False


def test_latency_is_judged_against_the_floor() -> None:
    floor, slow = build_round("floor"), build_round("capn", latencies=[build_latency(p99_ms=15.1)])
    assert find(build_results(floor, slow), "B6").passed is False
    fast = build_round("capn", latencies=[build_latency(p99_ms=14.9)])
    assert find(build_results(floor, fast), "B6").passed is True


def test_a_fast_answer_to_only_some_changes_does_not_hold() -> None:
    lossy = build_round("capn", latencies=[build_latency(p99_ms=1.0, unanswered=1)])
    assert find(build_results(build_round("floor"), lossy), "B6").passed is False


def test_a_load_that_the_machine_cannot_make_is_not_judged_and_says_so() -> None:
    weak = build_round("floor", latencies=[build_latency(reached=60.0)])
    verdict = find(build_results(weak, build_round("capn")), "B6")
    assert verdict.passed is None
    assert "only 60 changes/s" in verdict.found
    assert verdict not in failed([verdict])
