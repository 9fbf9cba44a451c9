"""Several runs of one folder, one after the other: who makes way, and who goes on."""

import contextlib
from pathlib import Path

import pytest

from napari_kdseg.errors import RunError, StopRequested
from napari_kdseg.runs.in_turn import make_way
from napari_kdseg.runs.run import Run

CONFIG = {"version": 1, "command": "predict", "inputs": ["a.nii.gz"]}
OTHER = CONFIG | {"inputs": ["b.nii.gz"]}


def leave_work(folder: Path, config: dict[str, object]) -> None:
    with contextlib.suppress(StopRequested):
        run = Run.create(folder, config)
        with run.executing():
            (run.partial / "half").write_text(str(config["inputs"]))
            raise StopRequested


def test_a_run_that_made_way_gets_its_place_back(tmp_path: Path) -> None:
    folder = tmp_path / ".run"
    leave_work(folder, CONFIG)
    assert make_way(folder, OTHER) is None
    leave_work(folder, OTHER)
    back = make_way(folder, CONFIG)
    assert back is not None
    assert (back.folder, back.config) == (folder, CONFIG)
    assert (folder / "partial" / "half").read_text() == "['a.nii.gz']"
    kept = [path.name for path in tmp_path.iterdir()]
    assert sorted(kept) == [".run", ".run-2"]


def test_of_runs_that_made_way_the_newest_goes_on_and_no_finished_one(
    tmp_path: Path,
) -> None:
    folder = tmp_path / ".run"
    for name in ("old", "new", "finished"):
        leave_work(folder, CONFIG)
        (folder / "partial" / "half").write_text(name)
        if name == "finished":
            with Run.open(folder).executing():
                pass
        aside = tmp_path / f".run-{len([*tmp_path.iterdir()])}"
        folder.rename(aside)
    (tmp_path / ".run-9").mkdir()
    (tmp_path / ".run-9" / "config.yaml").write_text("nothing")
    (tmp_path / ".run-copy").mkdir()
    assert make_way(folder, CONFIG) is not None
    assert (folder / "partial" / "half").read_text() == "new"


def test_a_run_being_executed_makes_no_way(tmp_path: Path) -> None:
    folder = tmp_path / ".run"
    leave_work(folder, CONFIG)
    with Run.open(folder).executing():
        assert make_way(folder, OTHER) is None
        assert Run.open(folder).config == CONFIG


def test_settings_that_do_not_matter_do_not_keep_a_run_from_going_on(
    tmp_path: Path,
) -> None:
    folder = tmp_path / ".run"
    leave_work(folder, CONFIG | {"preview": [0, 2]})
    asked = CONFIG | {"preview": None}
    found = make_way(folder, asked, but={"preview"})
    assert found is not None
    assert found.config == Run.open(folder).config == asked
    assert (folder / "partial" / "half").exists()


def test_a_run_of_an_older_version_goes_on_where_no_newer_setting_is_used(
    tmp_path: Path,
) -> None:
    folder = tmp_path / ".run"
    leave_work(folder, CONFIG)
    found = make_way(folder, CONFIG | {"channels": None})
    assert found is not None
    assert (folder / "partial" / "half").exists()
    assert make_way(folder, CONFIG | {"channels": ["t1"]}) is None
    assert (tmp_path / ".run-1" / "partial" / "half").exists()


def test_a_setting_that_an_older_version_did_not_know_is_no_other_where_it_is_unused(
    tmp_path: Path,
) -> None:
    old = CONFIG | {"training": [{"epochs": 2}]}
    new = CONFIG | {"training": [{"epochs": 2, "decay": None}], "channels": None}
    folder = tmp_path / "run"
    leave_work(folder, old)
    assert Run.create(folder, new).config == Run.open(folder).config == new
    with pytest.raises(RunError, match=r"other settings \(channels\)"):
        Run.create(folder, new | {"channels": ["t1"]})
