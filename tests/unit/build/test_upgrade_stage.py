from __future__ import annotations

import pytest

from capn.build.upgrade_stage import Stage, UpgradeState, compute_plane_version, read_state
from tests.unit.build.pool_samples import make_worker
from tests.unit.build.samples import make_machine

OLD, NEW = "v1.36.3", "v1.37.2"


@pytest.mark.parametrize(
    ("recorded", "planes", "workers", "stage", "words", "due"),
    [
        (OLD, (OLD, OLD, OLD), (OLD,), Stage.STARTING, f"from {OLD} to {NEW}", OLD),
        (None, (OLD,), (), Stage.STARTING, f"from {OLD} to {NEW}", OLD),
        (OLD, (), (), Stage.STARTING, "from nothing", NEW),
        (NEW, (OLD, NEW, OLD), (OLD,), Stage.CONTROL_PLANES, "1 of 3 control planes", NEW),
        (NEW, (NEW, NEW), (OLD, NEW, OLD), Stage.WORKERS, "1 of 3 workers", NEW),
        (NEW, (NEW,), (NEW,), Stage.ADDONS, "all machines", NEW),
        (NEW, (NEW,), (), Stage.ADDONS, "all machines", NEW),
    ],
)
def test_the_stage_is_seen_from_what_exists(  # noqa: PLR0913, PLR0917 - columns of a table
    recorded: str | None, planes: tuple[str, ...], workers: tuple[str, ...], stage: Stage, words: str, due: str
) -> None:
    state = UpgradeState(NEW, recorded, planes, workers)
    assert state.stage is stage
    assert words in state.describe()
    assert compute_plane_version(state) == due
    assert state.is_settled is (stage is Stage.ADDONS)


@pytest.mark.parametrize(
    ("recorded", "planes", "former"),
    [
        (NEW, (OLD, NEW, NEW), NEW),
        (NEW, (OLD, OLD, OLD, NEW), NEW),
        (NEW, (OLD, OLD), None),  # nobody was made with it
        (NEW, (NEW, NEW), None),  # it is over
        (None, (OLD, NEW), None),
        ("v1.37.9", (OLD, "v1.37.9"), None),  # taken back
        ("v1.37.3", (OLD, "v1.37.3"), None),  # the one that is asked for
    ],
)
def test_an_upgrade_that_was_under_way_when_a_newer_version_was_asked_for(
    recorded: str | None, planes: tuple[str, ...], former: str | None
) -> None:
    assert UpgradeState("v1.37.3", recorded, planes, ()).former == former


def test_a_record_that_cannot_be_read_unsettles_no_cluster_whose_machines_are_right() -> None:
    assert UpgradeState(NEW, None, (NEW,), (NEW,)).is_settled
    assert not UpgradeState(NEW, None, (OLD,), ()).is_settled
    assert not UpgradeState(NEW, OLD, (NEW,), ()).is_settled


def test_it_is_read_from_machines() -> None:
    state = read_state(NEW, OLD, [make_machine(version=OLD)], [make_worker(0, version=OLD)])
    assert (state.planes, state.workers) == ((OLD,), (OLD,))
