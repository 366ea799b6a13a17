from __future__ import annotations

from typing import Any

import pytest

from capn.api.cluster import NestedCluster
from capn.build.machines import desired_machines
from capn.build.pool_size import compute_pool_size, find_refusals

KEY = "replicas.capn.dev/md"
BOUNDS = {"min": 1, "max": 5}


def make(annotations: dict[str, str] | None = None, *, desired: int | None = None, **pool: Any) -> NestedCluster:
    """A cluster with pool md of 2 machines; `desired` is what its last status says."""
    fields = {"name": "md", "replicas": 2, "autoscaling": BOUNDS, **pool}
    known = [] if desired is None else [{"name": "md", "desired": desired, "created": 0, "ready": 0}]
    return NestedCluster.model_validate(
        {
            "metadata": {"name": "demo", "namespace": "team", "uid": "u", "annotations": annotations or {}},
            "spec": {"version": "v1.37.2", "workers": [fields]},
            "status": {"pools": known},
        }
    )


def size(cluster: NestedCluster) -> int:
    return compute_pool_size(cluster, cluster.spec.workers[0])


def test_without_autoscaling_only_the_spec_counts() -> None:
    assert size(make({KEY: "4"}, desired=5, autoscaling=None)) == 2


@pytest.mark.parametrize(
    ("text", "desired", "expected"),
    [
        (None, None, 2),  # to begin with
        (None, 4, 4),  # what a scaler said is kept when its word is taken away
        ("3", None, 3),
        ("3", 4, 3),
        ("1", 4, 1),
        ("0", 4, 1),
        ("99", 4, 5),
        ("007", 4, 5),
        ("three", 4, 4),
        ("three", None, 2),
        ("-1", 4, 4),
        ("3.0", 4, 4),
        (" 3", 4, 4),
        ("3\n", 4, 4),
        ("", 4, 4),
        ("٣", 4, 4),
        ("9" * 10, 4, 4),
        ("three", 9, 5),  # the bounds were lowered since
        (None, 0, 1),
    ],
)
def test_the_size_of_an_autoscaled_pool(text: str | None, desired: int | None, expected: int) -> None:
    assert size(make({} if text is None else {KEY: text}, desired=desired)) == expected


def test_machines_are_as_many_as_the_size_says() -> None:
    made = [machine["metadata"]["name"] for machine in desired_machines(make({KEY: "3"}))]
    assert made == ["demo-cp-0", "demo-md-0", "demo-md-1", "demo-md-2"]


@pytest.mark.parametrize("annotations", [{}, {KEY: "3"}, {KEY: "1"}, {"other.dev/md": "x"}])
def test_nothing_is_wrong(annotations: dict[str, str]) -> None:
    assert list(find_refusals(make(annotations))) == []


@pytest.mark.parametrize(
    ("annotations", "reason", "message"),
    [
        (
            {KEY: "three\x1b[31m" + "x" * 99},
            "InvalidReplicas",
            f'the annotation {KEY} is "three [31m{"x" * 22}": write a whole number from 1 to 5; until then it is 4',
        ),
        (
            {KEY: "9"},
            "ReplicasOutOfRange",
            f"the annotation {KEY} is 9, and spec.workers[md].autoscaling allows 1 to 5: it is 5",
        ),
        (
            {"replicas.capn.dev/db": "3"},
            "NotAutoscaled",
            "the annotation replicas.capn.dev/db has no effect: no pool has that name",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_fix(annotations: dict[str, str], reason: str, message: str) -> None:
    (refusal,) = find_refusals(make(annotations, desired=4))
    assert (refusal.reason, refusal.message) == (reason, message)


def test_a_pool_that_is_not_autoscaled_says_what_to_set() -> None:
    (refusal,) = find_refusals(make({KEY: "3"}, autoscaling=None))
    assert refusal.reason == "NotAutoscaled"
    assert "set spec.workers[md].autoscaling, or its replicas" in refusal.message
