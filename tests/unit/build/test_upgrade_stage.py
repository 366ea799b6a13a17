from __future__ import annotations

import pytest

from capn.api.machine import NodeReference
from capn.build.upgrade_stage import Stage, UpgradeState, compute_plane_version, read_state
from tests.unit.build.pool_samples import make_worker
from tests.unit.build.samples import make_machine

OLD, NEW, NEWER = "v1.36.3", "v1.37.2", "v1.37.3"


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
    state = UpgradeState(NEW, recorded, planes, workers, joined=planes)
    assert state.stage is stage
    assert words in state.describe()
    assert compute_plane_version(state) == due
    assert state.is_settled is (stage is Stage.ADDONS)


@pytest.mark.parametrize(
    ("recorded", "planes", "joined", "due", "is_half_way"),
    [
        (NEW, (OLD, OLD, NEW), (OLD, OLD, NEW), NEW, True),
        (NEW, (NEW, NEW), (NEW, NEW), NEW, False),
        (NEW, (OLD, OLD, NEW), (OLD, OLD), OLD, False),  # the new one has not joined and is given up
        (None, (OLD, NEW), (OLD, NEW), NEW, True),
        (OLD, (OLD, NEW), (OLD, NEW), NEW, True),
        (NEWER, (OLD, NEW), (OLD, NEW), NEWER, False),
        (NEW, (OLD, OLD), (), OLD, False),
    ],
)
def test_nobody_goes_back_when_the_version_is_raised_again(
    recorded: str | None, planes: tuple[str, ...], joined: tuple[str, ...], due: str, *, is_half_way: bool
) -> None:
    state = UpgradeState(NEWER, recorded, planes, (), joined)
    assert compute_plane_version(state) == due
    assert state.is_half_way is is_half_way


def test_nobody_goes_back_when_it_is_taken_back_to_a_version_between() -> None:
    assert compute_plane_version(UpgradeState(NEW, NEWER, (OLD, NEW, NEWER), (), (OLD, NEW))) == NEW


def test_a_record_that_cannot_be_read_unsettles_no_cluster_whose_machines_are_right() -> None:
    assert UpgradeState(NEW, None, (NEW,), (NEW,), (NEW,)).is_settled
    assert not UpgradeState(NEW, None, (OLD,), (), (OLD,)).is_settled
    assert not UpgradeState(NEW, OLD, (NEW,), (), (NEW,)).is_settled


def test_it_is_read_from_machines() -> None:
    made = make_machine(version=OLD)
    status = made.status.model_copy(update={"node_ref": NodeReference(name="demo-cp-0", uid="u")})
    joined = made.model_copy(update={"status": status})
    state = read_state(NEW, OLD, [joined, make_machine(version=NEW)], [make_worker(0, version=OLD)])
    assert (state.planes, state.workers, state.joined) == ((OLD, NEW), (OLD,), (OLD,))


def test_nothing_is_waited_for_where_all_control_planes_have_the_version_again() -> None:
    assert not UpgradeState(OLD, NEW, (OLD, OLD), (), (OLD,)).is_due
    assert UpgradeState(OLD, NEW, (OLD, NEW), (), (OLD,)).is_due
    assert UpgradeState(NEW, OLD, (OLD,), (), (OLD,)).is_due
    assert not UpgradeState(NEW, NEW, (OLD,), (), (OLD,)).is_due
    assert UpgradeState(NEW, OLD, (), (), ()).is_due
