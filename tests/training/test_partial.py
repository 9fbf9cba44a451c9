"""Growing arrays: what counts as finished, and what makes a case begin anew."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdseg_train.partial import Partial
from kdseg_train.plan import Plan, PredictConfig, plan
from napari_kdseg.inference.predict import FinishedTile

SHAPE = (20, 24, 32)


@pytest.fixture
def planned(tmp_path: Path, model_folder: Any, write_scan: Any) -> Plan:
    model = model_folder()
    config = PredictConfig(
        inputs=(write_scan(),), models=(model.folder,), out=tmp_path / "out"
    )
    return plan(config, resume=False)


def tile(start: int, stop: int, value: int = 1) -> FinishedTile:
    """A slab of one value."""
    labels = np.full((stop - start, *SHAPE[1:]), value, np.uint8)
    index = (slice(start, stop), slice(0, 24), slice(0, 32))
    return FinishedTile(index, (labels,), None, None, 0.5)


def remaining(partial: Partial) -> tuple[int, int] | None:
    box = partial.remaining
    return None if box is None else (box[0].start, box[0].stop)


def test_what_is_finished_is_not_left(planned: Plan, tmp_path: Path) -> None:
    partial = Partial(tmp_path / "partial", planned, planned.scans[0])
    assert remaining(partial) == (0, 20)
    partial.add(tile(0, 8))
    assert remaining(partial) == (8, 20)
    partial.add(tile(8, 20))
    assert remaining(partial) is None


def test_slabs_may_come_from_the_far_end(planned: Plan, tmp_path: Path) -> None:
    partial = Partial(tmp_path / "partial", planned, planned.scans[0])
    partial.add(tile(12, 20))
    assert remaining(partial) == (0, 12)


def test_background_follows_where_an_earlier_execution_was_cut_off(
    planned: Plan, tmp_path: Path
) -> None:
    Partial(tmp_path / "partial", planned, planned.scans[0]).add(tile(0, 8))
    again = Partial(tmp_path / "partial", planned, planned.scans[0])
    again.add(tile(8, 20, value=0))
    assert remaining(again) is None


def test_what_is_only_shown_is_still_left(planned: Plan, tmp_path: Path) -> None:
    partial = Partial(tmp_path / "partial", planned, planned.scans[0])
    partial.show(tile(5, 6))
    assert partial.untouched
    assert partial.array("organs/labels")[5].all()


def test_a_volume_that_begins_anew_forgets_its_tiles(
    planned: Plan, tmp_path: Path
) -> None:
    partial = Partial(tmp_path / "partial", planned, planned.scans[0])
    partial.add(tile(0, 8))
    partial.add(tile(8, 16))
    partial.add(tile(0, 9, value=2))  # memory ran out; smaller windows, other labels
    again = Partial(tmp_path / "partial", planned, planned.scans[0])
    assert remaining(again) == (9, 20)
    assert (again.array("organs/labels")[:9] == 2).all()


@pytest.mark.parametrize("backwards", [False, True])
def test_where_a_resumed_volume_begins_anew_tiles_of_before_stay(
    planned: Plan, tmp_path: Path, backwards: bool
) -> None:
    def part(start: int, stop: int, value: int = 1) -> FinishedTile:
        span = (20 - stop, 20 - start) if backwards else (start, stop)
        return tile(*span, value=value)

    folder, scan = tmp_path / "partial", planned.scans[0]
    Partial(folder, planned, scan).add(part(0, 8))
    resumed = Partial(folder, planned, scan)
    resumed.add(part(8, 16))
    resumed.add(part(8, 12, value=2))  # memory ran out
    assert remaining(resumed) == ((0, 8) if backwards else (12, 20))
    again = Partial(folder, planned, scan)
    assert remaining(again) == remaining(resumed)
    again.add(part(12, 20, value=2))
    assert again.remaining is None
    labels = again.array("organs/labels")[:]
    assert {1, 2} == {*np.unique(labels)}


def test_a_tile_apart_from_all_others_makes_them_count_no_more(
    planned: Plan, tmp_path: Path
) -> None:
    partial = Partial(tmp_path / "partial", planned, planned.scans[0])
    partial.add(tile(8, 12))
    partial.add(tile(16, 20))
    assert partial.finished == 0.2
    assert remaining(partial) == (0, 16)
    assert remaining(Partial(partial.folder, planned, planned.scans[0])) == (0, 16)


def test_a_torn_last_line_is_a_tile_to_compute(planned: Plan, tmp_path: Path) -> None:
    partial = Partial(tmp_path / "partial", planned, planned.scans[0])
    partial.add(tile(0, 8))
    partial.add(tile(8, 16))
    ledger = tmp_path / "partial/tiles.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-5])
    again = Partial(tmp_path / "partial", planned, planned.scans[0])
    assert remaining(again) == (8, 20)
    again.add(tile(8, 16))
    assert remaining(Partial(again.folder, planned, planned.scans[0])) == (16, 20)


def test_tiles_of_another_model_are_thrown_away(
    planned: Plan, tmp_path: Path, model_folder: Any
) -> None:
    Partial(tmp_path / "partial", planned, planned.scans[0]).add(tile(0, 8))
    other = planned.config.model_copy(
        update={"models": (model_folder("other").folder,)}
    )
    another = plan(other, resume=False)
    again = Partial(tmp_path / "partial", another, another.scans[0])
    assert remaining(again) == (0, 20)
    assert not (tmp_path / "partial/organs").exists()


def test_chunks_are_as_thin_as_slabs(planned: Plan, tmp_path: Path) -> None:
    partial = Partial(tmp_path / "partial", planned, planned.scans[0])
    partial.add(tile(0, 8))
    chunks = partial.array("organs/labels").chunks
    assert chunks == (8, 24, 32)
