"""Slices are read before they are asked for."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_predictions import write_prediction
from sittings import RNG, SHAPE, Clock, settle, sitting, told

from napari_kdseg.errors import VolumeError
from napari_kdseg.review.planes import Plane, Planes
from napari_kdseg.review.queue import Filter
from napari_kdseg.state.review.review import Review

# ---- Reading ahead ----


def test_slices_are_read_before_they_are_asked_for(review: Review) -> None:
    ready = told(review, "plane_ready")
    settle(review)
    assert review.current is not None
    assert all(review.at_hand(about) for about in (review.current, *review.ahead))
    review.judge("good")
    settle(review)
    assert all(review.at_hand(about) for about in review.ahead)
    assert len(ready) == 1  # the other slice was read


def test_a_plane_is_read_where_it_is_not_there(out: Path) -> None:
    review = Review()
    review.open_folder(out)
    assert review.current is not None
    assert not review.at_hand(review.current)
    assert review.plane(review.current).about == review.current
    assert review.at_hand(review.current)


def test_on_a_contact_sheet_thumbnails_are_read(review: Review) -> None:
    page = review.page
    settle(review)
    assert all(review.thumbnail_at_hand(about) for about in page)
    assert review.thumbnail(page[0]).labels.shape == SHAPE[1:]


def test_uncertainty_comes_with_planes_where_it_is_shown(review: Review) -> None:
    current = review.current
    assert current is not None
    assert review.plane(current).uncertainty is None
    review.uncertainty_shown = True
    assert review.plane(current).uncertainty is not None


def test_the_channels_of_the_scan_in_view_are_named(review: Review) -> None:
    assert review.channels == ("image",)
    review.channel = 1
    assert review.current is not None
    with pytest.raises(VolumeError, match="no channel 1"):
        review.plane(review.current)


def test_a_large_packed_scan_is_made_ready_in_the_background(
    out: Path, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_kdseg.volumes.cache import Cache

    monkeypatch.setattr("napari_kdseg.volumes.opening.LARGEST_DECODED_BYTES", 300)
    review = Review(Cache(tmp_path / "cache"), clock)
    review.open_folder(out)
    assert review.current is not None
    assert not review.at_hand(review.current)
    with pytest.raises(VolumeError, match="wait for it"):
        review.plane(review.current)
    review.refresh()
    said = told(review, "plane_ready")
    settle(review)
    assert said
    assert review.plane(review.current).image.shape == SHAPE[1:]
    review.close()


def test_a_thread_may_work_while_slices_are_judged(out: Path, clock: Clock) -> None:
    for case in "cdef":
        write_prediction(out, case, RNG.integers(0, 2, (20, 16, 16)).astype(np.uint8))
    review = sitting(out, clock, order="random")
    ended = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            while not ended.is_set():
                review.work()
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for number in range(60):
            current = review.current
            assert current is not None
            assert review.plane(current).about == current
            review.judge("good" if number % 2 else "bad")
            if number % 10 == 0:
                review.axis = (review.axis + 1) % 3
            review.poll()
    finally:
        ended.set()
        thread.join()
        review.close()
    assert failed == []


def test_slices_of_a_sequence_are_read_many_at_once(
    out: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prediction(
        out, "c", np.ones((40, 5, 6), np.uint8), ending=".ome.zarr"
    )  # a chunk holds all of it
    review = sitting(out, clock)
    read: list[int] = []
    whole = Planes.read

    def counted(self: Planes, *arguments: Any) -> list[Plane]:
        found = whole(self, *arguments)
        read.append(len(found))
        return found

    monkeypatch.setattr(Planes, "read", counted)
    review.filters = Filter(cases=frozenset({"c"}))
    review.refresh()  # forgets what was read on opening
    settle(review)
    assert read == [16]
    for _ in range(20):
        review.judge("good")
        settle(review)
    assert read == [16, 16]
