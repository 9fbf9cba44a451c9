"""What the Measure dock knows, without Qt."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from made_predictions import CLASSES, grid_of, write_prediction

from napari_kdseg.measure.disagreement import (
    ADDED,
    CONFUSED,
    MISSED,
    Disagreement,
    kinds_of,
    worst_slices,
)
from napari_kdseg.measure.outliers import robust_z
from napari_kdseg.project import Project
from napari_kdseg.runs.run import Run
from napari_kdseg.state.detached import Detached
from napari_kdseg.state.jobs import Job
from napari_kdseg.state.measured import TABLE, Result, Row
from napari_kdseg.state.measurement import Measurement
from napari_kdseg.volumes.formats import write_labels
from napari_kdseg.volumes.scan import NewScan, VolumeFile

SHAPE = (6, 8, 10)


def truth() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 2:6, 2:6] = 1
    labels[4, 1, 1] = 2
    return labels


def guess() -> np.ndarray:
    """In plane 3, four voxels are missed and one is another class."""
    labels = truth()
    labels[3, 2, 2:6] = 0
    labels[3, 3, 3] = 2
    return labels


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """One scan with labels of its own and a prediction of them."""
    folder = tmp_path / "project"
    write_prediction(folder / "predictions", "one", guess())
    file = tmp_path / "truth.nii.gz"
    write_labels(file, truth(), grid_of(SHAPE), CLASSES)
    scan = folder / "scans" / "one.nii.gz"
    with Project.create(folder, "fish") as made:
        made.set_classes(CLASSES)
        made.add_scan(NewScan((VolumeFile(scan),), VolumeFile(file)))
    return folder


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Measurement]:
    made = Measurement(scratch=tmp_path / "scratch")
    yield made
    made.close()


def finish(state: Measurement) -> None:
    until = time.monotonic() + 120
    state.run()
    while state.busy:
        assert time.monotonic() < until
        state.poll()
        time.sleep(0.05)


def test_without_labels_it_says_what_to_choose(state: Measurement) -> None:
    assert "Choose a project" in state.problem
    state.run()
    assert state.job is None


def test_a_project_offers_its_scans_and_models(
    state: Measurement, project: Path
) -> None:
    state.set_labels(project)
    assert (state.cases, state.models) == (("one",), ("student",))
    assert state.problem == ""
    state.change(of="labels")
    assert (state.cases, state.models) == (("one",), ())


def test_a_project_without_predictions_says_so(
    state: Measurement, tmp_path: Path
) -> None:
    Project.create(tmp_path / "empty").close()
    state.set_labels(tmp_path / "empty")
    assert "has no predictions" in state.problem


@pytest.mark.slow
def test_organs_are_measured_in_another_process(
    state: Measurement, project: Path, tmp_path: Path
) -> None:
    state.set_labels(project)
    finish(state)
    assert state.job is not None
    assert state.job.error == ""
    result = state.result
    assert result is not None
    assert [(row["class"], row["volume_mm3"]) for row in result.rows] == [
        ("gut", 43.0),
        ("heart", 2.0),
    ]
    assert state.command_line.startswith("kdseg-train run ")
    assert state.export(tmp_path / "table.csv")
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 3


def measured_at_once(state: Measurement) -> Result:
    """The job ends as one does, with a table of one row."""
    state.run()
    assert state.job is not None
    state.job.state = "finished"
    folder = state.job.run.folder
    (folder / TABLE).write_text("case,model,class,volume_mm3\none,student,gut,43\n")
    state._jobs.changed.emit(state.job)
    assert state._result is not None
    return state._result


class NoProcess(Detached):
    """Stands in for the process; the test says what it does."""

    def start(self, run: Run) -> Job:
        return Job(run, state="running")

    def cancel(self, job: Job) -> None: ...

    def poll(self) -> None: ...


@pytest.fixture
def at_once(tmp_path: Path) -> Iterator[Measurement]:
    made = Measurement(NoProcess(), tmp_path / "scratch")
    yield made
    made.close()


def test_a_table_is_neither_shown_nor_exported_under_another_choice(
    at_once: Measurement, project: Path, tmp_path: Path
) -> None:
    told: list[Result | None] = []
    at_once.result_changed.connect(lambda: told.append(at_once.result))
    at_once.set_labels(project)
    result = measured_at_once(at_once)
    assert told == [result]
    others: list[Callable[[], None]] = [
        lambda: at_once.set_labels(tmp_path / "truth.nii.gz"),
        lambda: at_once.change(reference=project),
        lambda: at_once.change(of="labels"),
    ]
    for choose in others:
        choose()
        assert told.pop() is None
        assert not at_once.export(tmp_path / "table.csv")
        assert not (tmp_path / "table.csv").exists()
        at_once.set_labels(project)  # the choice that was measured
        assert told.pop() is result
    assert at_once.export(tmp_path / "table.csv")


def test_a_table_of_a_choice_that_was_left_meanwhile_waits_for_it(
    at_once: Measurement, project: Path
) -> None:
    told: list[str] = []
    at_once.failed.connect(told.append)
    at_once.set_labels(project)
    at_once.run()
    job = at_once.job
    assert job is not None
    at_once.change(of="labels")
    job.state = "finished"
    (job.run.folder / TABLE).write_text("case,class,volume_mm3\none,gut,43\n")
    at_once._jobs.changed.emit(job)
    assert at_once.result is None
    assert "of the choice before" in told[0]
    at_once.change(of="predictions")
    assert at_once.result is not None


@pytest.mark.slow
def test_a_reference_gives_scores_slices_and_layers(
    state: Measurement, project: Path
) -> None:
    state.set_labels(project)
    state.change(reference=project)
    finish(state)
    result = state.result
    assert result is not None
    assert result.mode == "agreement"
    scores = {row["class"]: row for row in result.rows}
    assert scores["gut"]["dice"] == pytest.approx(2 * 43 / (48 + 43), abs=1e-6)
    worst = result.worst()[0]
    assert (worst.index, worst.wrong_mm2) == (3, 5.0)
    names = [layer[1]["name"] for layer in state.layers_of("one", "student")]
    assert names == ["one", "one reference", "one student", "one student disagreement"]
    shown = np.asarray(state.layers_of("one", "student")[-1][0])
    assert np.bincount(shown.ravel(), minlength=4)[1:].tolist() == [4, 0, 1]


@pytest.mark.slow
def test_what_goes_wrong_is_told_in_the_jobs_words(
    state: Measurement, project: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_labels(other / "one.nii.gz", truth(), grid_of(SHAPE, (2, 1, 1)), CLASSES)
    state.set_labels(project)
    state.change(reference=other)
    finish(state)
    assert state.job is not None
    assert "is not on the grid of" in state.job.error
    assert state.result is None


def test_a_table_that_cannot_be_written_is_told(
    state: Measurement, tmp_path: Path
) -> None:
    told: list[str] = []
    state.failed.connect(told.append)
    state._result = result_of(rows("liver", [1.0]))
    assert not state.export(tmp_path / "table.xlsx")
    assert "a table ends in .csv or .parquet" in told[0]


def test_a_job_can_be_cancelled_before_it_began(project: Path, tmp_path: Path) -> None:
    asleep = (sys.executable, "-c", "import time; time.sleep(60)")
    state = Measurement(Detached(asleep), tmp_path / "scratch")
    state.set_labels(project)
    state.run()
    assert state.busy
    state.cancel()
    assert state.job is not None
    assert state.job.run.stop_requested()
    for one in state._jobs._followed:
        assert one.process is not None
        one.process.kill()
        one.process.wait()


# ---- Results ----


def rows(organ: str, volumes: list[float], **more: str) -> tuple[Row, ...]:
    return tuple(
        {"case": f"fish-{n}", "class": organ, "volume_mm3": volume, **more}
        for n, volume in enumerate(volumes)
    )


def result_of(found: tuple[Row, ...]) -> Result:
    return Result("organs", tuple(found[0]), found)


def test_strips_part_organs_models_and_groups() -> None:
    found = result_of(
        (
            *rows("liver", [1.0, 2.0], model="a", group="test"),
            *rows("liver", [3.0], model="b", group="none"),
            *rows("gut", [float("nan")], model="b", group="none"),
        )
    )
    strips = found.strips("volume_mm3")
    assert [(s.organ, s.group, len(s.points)) for s in strips] == [
        ("liver", "a test", 2),
        ("liver", "b", 1),
    ]


def test_a_value_is_far_from_a_robust_z_of_three_and_a_half_on() -> None:
    # Median 10, distances 0 1 1 2 2 x, MAD 1.5: z = 0.6745 (x - 10) / 1.5.
    near = result_of(rows("liver", [10, 9, 11, 8, 12, 17.7]))
    far = result_of(rows("liver", [10, 9, 11, 8, 12, 30]))
    assert near.outliers("volume_mm3") == 0
    assert far.outliers("volume_mm3") == 1
    point = far.strips("volume_mm3")[0].points[-1]
    # Median 10.5; distances 0.5 0.5 1.5 1.5 2.5 19.5.
    assert point.z == pytest.approx(0.6745 * 19.5 / 1.5)


@pytest.mark.parametrize("values", [[1, 2, 3, 100], [5, 5, 5, 5, 5, 9]])
def test_few_or_equal_values_have_no_outliers(values: list[float]) -> None:
    assert np.isnan(robust_z(values)).all()


# ---- Disagreement ----


def test_a_voxel_is_missed_added_or_another_class() -> None:
    kinds = kinds_of(np.array([0, 1, 1, 1, 0]), np.array([0, 1, 0, 2, 2]))
    assert kinds.tolist() == [0, 0, MISSED, CONFUSED, ADDED]


def test_the_worst_slices_come_first_along_each_axis() -> None:
    found = worst_slices(truth(), guess(), (3.0, 2.0, 1.0))
    z = [one for one in found if one.axis == 0]
    assert [(one.index, one.wrong_vox, one.wrong_mm2) for one in z] == [(3, 5, 10.0)]
    # In plane 3: 16 against 12 labelled, 11 of one class.
    assert z[0].dice == pytest.approx(2 * 11 / 28)
    y = [(one.index, one.wrong_vox) for one in found if one.axis == 1]
    assert y == [(2, 4), (3, 1)]


def test_disagreement_is_seen_where_it_is_read() -> None:
    table = np.arange(2**16).astype(np.uint16)
    lazy = Disagreement(truth(), guess(), table, table)
    assert np.array_equal(lazy[3], kinds_of(truth()[3], guess()[3]))
    assert np.array_equal(np.asarray(lazy), kinds_of(truth(), guess()))
