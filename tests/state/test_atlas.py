"""What the Measure dock knows of atlases, without Qt."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_predictions import CLASSES, grid_of, write_prediction

from kdseg_train.atlas import AtlasConfig, cases_of
from kdseg_train.config import parse
from napari_kdseg.errors import UsageError
from napari_kdseg.measure.tables import write_table
from napari_kdseg.runs.run import Run
from napari_kdseg.state import atlas
from napari_kdseg.state.atlas import Atlas
from napari_kdseg.state.detached import Detached
from napari_kdseg.state.jobs import Job
from napari_kdseg.state.measurement import Measurement
from napari_kdseg.state.planes import SteppedVoxels
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.labels import distinct_color

SHAPE = (6, 8, 10)


class Unstarted(Detached):
    """Takes runs, and starts nothing."""

    def start(self, run: Run) -> Job:
        return Job(run)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two scans by both models, a third by one of them."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 2:6, 2:6] = 1
    out = tmp_path / "predicted"
    for case, model in (
        *(("a", "one"), ("b", "one"), ("c", "one")),
        *(("a", "two"), ("b", "two")),
    ):
        write_prediction(out, case, labels, model=model)
    return out


@pytest.fixture
def state(tmp_path: Path, results: Path) -> Iterator[Measurement]:
    made = Measurement(Unstarted(), tmp_path / "scratch")
    made.set_labels(results)
    yield made
    made.close()


def asked(state: Measurement, out: Path, **wish: Any) -> dict[str, Any]:
    """The settings of the run that a wish becomes."""
    state.change(**wish)
    assert state.atlas_problem == ""
    told: list[str] = []
    state.failed.connect(told.append)
    state.make_atlas(out)
    assert not told
    assert state.job is not None
    return state.job.run.config


# ---- When ----


def test_an_atlas_needs_a_model_then_a_scan_of_it(state: Measurement) -> None:
    assert state.atlas_problem == "Choose a model: an atlas has the labels of one."
    state.change(model="two")
    assert "Choose the scan that all others are laid over" in state.atlas_problem
    state.change(case="c")
    assert "c has no labels by two" in state.atlas_problem
    state.change(case="b")
    assert state.atlas_problem == ""


def test_with_one_model_none_has_to_be_chosen(
    state: Measurement, tmp_path: Path
) -> None:
    labels = np.ones(SHAPE, np.uint8)
    for case in "ab":
        write_prediction(tmp_path / "more", case, labels)
    state.set_labels(tmp_path / "more")
    state.change(case="a")
    assert state.atlas_problem == ""


def test_an_atlas_has_no_reference_labels(state: Measurement, results: Path) -> None:
    state.change(model="one", case="a", reference=results)
    assert "Choose no reference" in state.atlas_problem


def test_one_scan_makes_no_atlas(state: Measurement, tmp_path: Path) -> None:
    write_prediction(tmp_path / "few", "a", np.ones(SHAPE, np.uint8))
    state.set_labels(tmp_path / "few")
    state.change(case="a")
    assert "two or more scans with labels; here: 1" in state.atlas_problem


def test_labels_whose_scans_are_not_known_before_make_none(
    state: Measurement, tmp_path: Path
) -> None:
    file = tmp_path / "labels" / "a.nii.gz"
    file.parent.mkdir()
    write_labels(file, np.ones(SHAPE, np.uint8), grid_of(SHAPE), CLASSES)
    state.set_labels(file)
    assert "needs a project, or a folder" in state.atlas_problem
    state.set_labels(file.parent)
    assert "its scans are not known" in state.atlas_problem


# ---- What is asked for ----


def test_the_settings_are_those_that_the_command_line_makes(
    state: Measurement, results: Path, tmp_path: Path
) -> None:
    out = tmp_path / "atlas"
    config = asked(state, out, model="one", case="c")
    settings = parse(AtlasConfig, config, "atlas")
    assert settings == AtlasConfig(
        labels=results,
        of="predictions",
        model="one",
        reference="c",
        out=out,
        memory=tmp_path / "scratch" / "measured",
    )
    assert [one.case for one in cases_of(settings)] == ["a", "b", "c"]
    assert state.job is not None
    assert state.job.run.folder == out / ".run"
    assert shlex.split(state.command_line) == [
        *("kdseg-train", "atlas", str(results)),
        *("--reference", "c", "--out", str(out), "--model", "one"),
    ]


def test_a_folder_with_files_is_refused_and_left_as_it_is(
    state: Measurement, tmp_path: Path
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine", encoding="utf-8")
    told: list[str] = []
    state.failed.connect(told.append)
    state.change(model="one", case="a")
    state.make_atlas(tmp_path / "used")
    assert told == [
        f"No atlas could be begun: {tmp_path / 'used'} holds files already; choose a "
        "new or an empty folder for the atlas."
    ]
    assert state.job is None
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["notes.txt"]


def test_only_a_stopped_atlas_of_the_same_settings_goes_on(
    state: Measurement, tmp_path: Path
) -> None:
    out = tmp_path / "atlas"
    config = asked(state, out, model="one", case="a")
    assert atlas.prepare(config).folder == out / ".run"
    with pytest.raises(UsageError, match="holds files already"):
        atlas.prepare({**config, "reference": "b"})
    with Run.open(out / ".run").executing():
        pass
    with pytest.raises(UsageError, match="holds files already"):
        atlas.prepare(config)


def test_the_run_of_an_atlas_outlives_the_dock(
    state: Measurement, tmp_path: Path
) -> None:
    asked(state, tmp_path / "atlas", model="one", case="a")
    assert state.job is not None
    state.job.state = "stopped"
    state._forget_run()
    assert (tmp_path / "atlas" / ".run" / "config.yaml").exists()


def test_after_cancel_it_says_how_the_atlas_goes_on(
    state: Measurement, tmp_path: Path
) -> None:
    asked(state, tmp_path / "atlas", model="one", case="a")
    told: list[str] = []
    state.failed.connect(told.append)
    assert state.job is not None
    state.job.state = "stopped"
    state._jobs.changed.emit(state.job)
    assert f"to go on, choose {tmp_path / 'atlas'} again" in told[0]


# ---- What comes of it ----


@pytest.fixture
def run(results: Path, tmp_path: Path) -> Run:
    """A finished atlas, made without aligning."""
    out = tmp_path / "atlas"
    config = {"version": 1, "command": "atlas", "labels": str(results)}
    made = Run.create(out / ".run", config | {"reference": "a", "out": str(out)})
    share = np.zeros((2, *SHAPE), np.float32)
    share[:, 2, 3, 4] = 0.5, 1.0
    names = ("gut", "fin")
    grid = grid_of(SHAPE, (3, 2, 1))
    write_volume(out / atlas.OCCUPANCY, share, grid, channels=names)
    columns = ("scans", "volume_mean_mm3", "volume_cv", "centroid_spread_mm")
    values = ((3, 48.0, 0.25, 1.5), (1, 2.0, float("nan"), 0.0))
    rows = [
        {"class": name} | dict(zip(columns, found, strict=True))
        for name, found in zip(names, values, strict=True)
    ]
    write_table(out / atlas.VARIATION, rows, ("class", *columns))
    return made


def test_a_row_tells_an_organ_in_the_colour_of_its_labels(run: Run) -> None:
    gut, fin = Atlas.read(run).spreads
    assert (gut.organ, gut.color) == ("gut", CLASSES.by_name("gut").color)
    assert (gut.scans, gut.volume_mm3, gut.volume_cv, gut.spread_mm) == (
        *(3, 48.0, 0.25, 1.5),
    )
    assert (fin.organ, fin.color) == ("fin", distinct_color(2))  # nobody says
    assert np.isnan(fin.volume_cv)


def test_the_occupancy_is_a_layer_an_organ_that_stays_on_disk(run: Run) -> None:
    layers = Atlas.read(run).layers()
    assert [arguments["name"] for _, arguments, _ in layers] == [
        "a",  # the scan that is under them
        "gut occupancy",
        "fin occupancy",
    ]
    data, arguments, kind = layers[2]
    assert isinstance(data, SteppedVoxels)
    assert np.asarray(data[2])[3, 4] == 1.0
    assert kind == "image"
    assert arguments["scale"] == (3.0, 2.0, 1.0)
    assert arguments["contrast_limits"] == (0.0, 1.0)
    assert arguments["blending"] == "additive"
    assert arguments["colormap"] == distinct_color(2)
    record = arguments["metadata"]["napari-kdseg"]
    assert record["kind"] == "occupancy"  # nothing that Segment would offer
