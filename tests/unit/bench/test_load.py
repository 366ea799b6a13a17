from __future__ import annotations

import json
from typing import Any

import pytest

from bench.load import Observer
from capn.errors import UnreachableError


def build_line(name: str, *, generation: int = 1, observed: int = 0, ready: bool = False) -> bytes:
    conditions = [{"type": "Ready", "status": "True" if ready else "False", "reason": "X"}]
    obj: dict[str, Any] = {"metadata": {"name": name, "generation": generation, "uid": "u"}, "spec": {}}
    if observed:
        obj["status"] = {"observedGeneration": observed, "conditions": conditions}
    return json.dumps({"type": "MODIFIED", "object": obj}).encode()


def test_the_last_ready_is_the_time_of_the_last_cluster_not_of_the_last_event() -> None:
    observer = Observer()
    observer.see(build_line("a", observed=1, ready=True), 1.0)
    observer.see(build_line("b", observed=1, ready=True), 2.0)
    observer.see(build_line("b", observed=1, ready=True), 9.0)
    assert observer.ready == {"a", "b"}
    assert observer.last_ready == 2.0


def test_a_latency_is_from_the_spec_s_event_to_its_status() -> None:
    observer = Observer()
    observer.see(build_line("a", generation=2, observed=1), 1.0)
    assert observer.unanswered == 1
    observer.see(build_line("a", generation=2, observed=2), 1.5)
    assert observer.latencies == [0.5]
    assert observer.unanswered == 0


def test_a_status_that_skips_generations_answers_all_of_them() -> None:
    observer = Observer()
    observer.see(build_line("a", generation=2, observed=1), 1.0)
    observer.see(build_line("a", generation=3, observed=1), 2.0)
    observer.see(build_line("a", generation=3, observed=3), 4.0)
    assert sorted(observer.latencies) == [2.0, 3.0]


def test_an_unanswered_change_stays_counted() -> None:
    observer = Observer()
    observer.see(build_line("a", generation=2, observed=1), 1.0)
    observer.see(build_line("a", generation=3, observed=2), 2.0)
    assert observer.unanswered == 1


async def test_a_broken_watch_is_told_to_whoever_waits() -> None:
    observer = Observer()
    observer.fail(UnreachableError("the watch ended"))
    with pytest.raises(UnreachableError, match="the watch ended"):
        await observer.until(lambda: False, limit_s=5.0)


async def test_waiting_ends_with_the_time() -> None:
    assert await Observer().until(lambda: False, limit_s=0.01) is False
