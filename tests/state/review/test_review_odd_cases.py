"""Damaged, moved and changed files: told in a sentence, nothing lost."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from made_predictions import change_record, write_prediction
from sittings import (
    SHAPE,
    Clock,
    add_predicted_scan,
    judge_all_good,
    labels_of,
    place,
    places,
    settle,
    sitting,
    told,
)

from napari_kdseg.errors import VolumeError
from napari_kdseg.project import Project
from napari_kdseg.review.queue import Filter
from napari_kdseg.review.store import Store
from napari_kdseg.review.verdicts import Verdict
from napari_kdseg.state.review.review import Review

# ---- Odd cases ----


def test_looking_at_predictions_leaves_nothing_beside_them(
    out: Path, clock: Clock
) -> None:
    review = sitting(out, clock)
    review.axis = 1
    review.skip()
    settle(review)
    review.take_back()
    review.close()
    assert sorted(path.name for path in out.iterdir()) == ["a", "b"]
    review = sitting(out, clock)
    review.judge("bad")
    settle(review)
    review.close()
    made = {path.name for path in (out / "review").iterdir()}
    assert {"profiles", "state.json", "verdicts.sqlite"} <= made


def test_the_first_verdict_finds_what_others_said_meanwhile(
    out: Path, clock: Clock
) -> None:
    ada, bob = sitting(out, clock), sitting(out, clock, "Bob")
    first = ada.current
    assert first is not None
    ada.judge("bad")
    bob.skip()
    bob.judge("good")
    assert bob.judged(first) == ada.judged(first)
    assert bob.counts.judged == 2
    ada.close()
    bob.close()


def test_verdicts_on_a_prediction_that_has_changed_are_stale(
    out: Path, clock: Clock
) -> None:
    first = sitting(out, clock)
    judge_all_good(first)
    first.close()
    shutil.rmtree(out / "a")
    write_prediction(out, "a", labels_of(1, 2, 3))
    again = sitting(out, clock)
    assert again.stale == 6
    assert len(again.verdicts) == 4
    assert any("6 verdicts" in note for note in again.notes)
    assert places(again.page) == [("a", 1), ("a", 2), ("a", 3)]
    again.take_back()  # of those that are here
    assert place(again)[0] == "b"
    again.close()


def test_a_verdict_that_does_not_say_on_which_labels_counts_for_none(
    review: Review, clock: Clock
) -> None:
    assert review.home is not None
    store = Store.open(review.home / "verdicts.sqlite")
    store.add([Verdict("a", 0, 1, "good", "imported")])
    store.close()
    clock.now += 3
    review.poll()
    assert review.counts.judged == 0
    assert review.stale == 1


def test_a_scan_that_is_gone_leaves_the_rest_to_be_reviewed(
    out: Path, clock: Clock
) -> None:
    (out.parent / "scans" / "a.nii.gz").unlink()
    review = sitting(out, clock)
    assert review.cases == ("b",)
    assert any("a.nii.gz is missing" in note for note in review.notes)
    review.go_to(review.predictions[0].about(0, 1))
    assert "is missing" in review.status
    review.close()


def test_a_scan_that_is_located_again_is_reviewed_after_a_refresh(
    tmp_path: Path, clock: Clock
) -> None:
    with Project.create(tmp_path / "fish") as project:
        scan = add_predicted_scan(project)
        (tmp_path / "elsewhere").mkdir()
        scan.rename(tmp_path / "elsewhere" / scan.name)
        review = sitting(project.folder, clock)
        assert review.current is None
        project.relocate("a", tmp_path / "elsewhere")
        review.refresh()
        assert review.current is not None
        assert review.notes == ()
        review.close()


def test_a_damaged_record_is_told_and_the_rest_reviewed(
    out: Path, clock: Clock
) -> None:
    change_record(out / "b" / "student", grid={})
    review = sitting(out, clock)
    assert review.cases == ("a",)
    assert any("left out" in note for note in review.notes)
    review.close()


def test_damaged_labels_are_told_and_can_be_skipped(out: Path, clock: Clock) -> None:
    path = out / "a" / "student" / "labels.nii.gz"
    path.write_bytes(path.read_bytes()[:40])
    review = sitting(out, clock)
    assert any("labels.nii.gz" in note for note in review.notes)
    current = review.current
    assert current is not None
    assert review.at_hand(current)  # that is, why there is nothing to see
    with pytest.raises(VolumeError):
        review.plane(current)
    review.filters = Filter(cases=frozenset({"b"}))
    assert review.current is not None
    assert review.plane(review.current).labels.any()
    review.close()


def test_where_nothing_can_be_written_predictions_can_be_looked_at(
    review: Review, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    review.judge("bad")
    review.close()
    monkeypatch.setattr("os.access", lambda *_: False)
    review.open_folder(out)
    assert "can only be looked at" in review.closed
    assert review.closed in review.notes
    review.judge("good")
    assert review.status == review.closed
    assert not review.begin("Ada")
    assert "can only be looked at" in review.status
    assert review.counts.bad == 1
    assert review.current is not None
    assert review.plane(review.current).labels.any()


def test_what_may_not_be_written_to_can_be_looked_at_before_any_verdict(
    out: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    review = Review(clock=clock)
    review.open_folder(out)
    assert any("can only be looked at" in note for note in review.notes)
    assert review.current is not None
    assert review.plane(review.current).labels.shape == SHAPE[1:]
    assert not review.judge_page(review.page, ())
    review.close()
    assert not (out / "review").exists()


def test_a_store_of_a_newer_version_is_told_and_left_alone(
    out: Path, clock: Clock
) -> None:
    first = sitting(out, clock)
    first.judge("good")
    first.close()
    file = out / "review" / "verdicts.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(
            "INSERT INTO kdseg_store (version, created_utc) VALUES (99, '')"
        )
        connection.commit()
    review = Review(clock=clock)
    review.open_folder(out)
    assert "Update napari-kdseg" in review.closed
    assert not review.begin("Ada")
    assert "Update napari-kdseg" in review.status
    assert review.current is not None
    review.close()


def test_a_project_that_is_moved_while_it_is_open_says_so(
    out: Path, clock: Clock
) -> None:
    review = sitting(out, clock)
    review.judge("good")
    before = review.current
    out.rename(out.with_name("elsewhere"))
    review.judge("bad")
    assert "has been moved, removed or replaced" in review.status
    assert review.current == before, "nothing was judged"
    review.close()
    again = sitting(out.with_name("elsewhere"), clock)
    assert (again.counts.good, again.counts.bad) == (1, 0)
    again.close()


def test_somebody_else_under_ones_own_name_is_told(out: Path, clock: Clock) -> None:
    first, second = sitting(out, clock), sitting(out, clock)
    first.judge("good")
    second.judge("bad")
    clock.now += 3
    seen = told(first, "scans_changed")
    first.poll()
    (note,) = first.notes
    assert note.startswith("Ada is reviewing in another window or computer, too.")
    assert seen, "notes are shown anew"
    store = Store.open(out / "review" / "verdicts.sqlite")
    assert [row.verdict for row in store.rows()[0]] == ["good", "bad"]
    store.close()
    first.close()
    second.close()


def test_a_damaged_store_is_told_and_nobody_can_judge(out: Path, clock: Clock) -> None:
    (out / "review").mkdir()
    (out / "review" / "verdicts.sqlite").write_bytes(b"no database at all" * 100)
    review = Review(clock=clock)
    review.open_folder(out)
    assert any("verdicts.sqlite" in note for note in review.notes)
    assert not review.begin("Ada")
    assert "verdicts.sqlite" in review.status
    assert review.current is not None
