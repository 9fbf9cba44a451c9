"""All scans of a project are segmented by a process that outlives the viewer."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_kdseg.inference.settings import Settings
from napari_kdseg.models.card import ModelCard, NetworkSpec, Tiling
from napari_kdseg.models.model import Model, save_model
from napari_kdseg.models.networks import build
from napari_kdseg.project import Project
from napari_kdseg.runs.run import Run
from napari_kdseg.state.detached import COMMAND, Detached
from napari_kdseg.state.project_prediction import ProjectPrediction
from napari_kdseg.volumes.formats import write_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.scan import NewScan, VolumeFile
from napari_kdseg.volumes.volume import Grid

WAIT_S = 60.0
SHAPE = (6, 16, 16)

# Predicts as kdseg-train does, without computing; at a scan called c it waits.
FAKE = """
import sys, time
from pathlib import Path
from napari_kdseg.runs.run import Run

run = Run.open(Path(sys.argv[2]))
cases = run.config["cases"]
with run.executing():
    for number, case in enumerate(cases, start=1):
        run.progress(500, 1000, case, case=number, cases=len(cases))
        waited = Path(run.config["out"]) / "go"
        while case == "c" and not waited.exists():
            run.check_stop()
            time.sleep(0.01)
        for model in run.config["models"]:
            folder = Path(run.config["out"]) / case / Path(model).name
            folder.mkdir(parents=True, exist_ok=True)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Three scans to segment, and one that is left out."""
    folder = tmp_path / "atlas"
    grid = Grid.from_affine(np.diag([1.0, 1.0, 1.0, 1.0]), SHAPE)
    with Project.create(folder, "Atlas") as made:
        for case in ("a", "b", "c", "blurred"):
            file = tmp_path / f"{case}.nii.gz"
            write_volume(file, np.random.default_rng(0).random(SHAPE, np.float32), grid)
            made.add_scan(NewScan((VolumeFile(file, channel="CT"),)))
        made.set_use("blurred", "left-out")
    (folder / "predictions").mkdir(exist_ok=True)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Model:
    card = ModelCard(
        name="organs",
        network=NetworkSpec(
            name="unet", parameters={"dimensions": 2, "width": 2, "stages": 2}
        ),
        channels=("CT",),
        classes=LabelSet.from_names(["spleen"]),
        preprocessing=Preprocessing(intensity=(Intensity(kind="none"),)),
        tiling=Tiling(tile_vox=(16, 16)),
    )
    torch.manual_seed(0)
    save_model(tmp_path / "organs", card, build(card.network, 1, 2))
    return Model.open(tmp_path / "organs")


MakeState = Callable[[], ProjectPrediction]


@pytest.fixture
def make_state(tmp_path: Path) -> Iterator[MakeState]:
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    made: list[Detached] = []

    def make() -> ProjectPrediction:
        made.append(Detached([sys.executable, str(script)]))
        return ProjectPrediction(made[-1])

    yield make
    for detached in made:
        for job in detached.jobs:
            detached.cancel(job)
        poll_until(detached.poll, lambda: not detached.jobs)  # noqa: B023 - now


def poll_until(poll: Callable[[], None], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        poll()
        time.sleep(0.01)


def waits_at_c(state: ProjectPrediction) -> None:
    poll_until(state.poll, lambda: "(c)" in state.text)


def predicted(project: Path) -> list[str]:
    return sorted(path.parent.name for path in project.glob("predictions/*/organs"))


def test_scans_without_a_prediction_are_segmented_and_no_others(
    make_state: MakeState, project: Path, model: Model
) -> None:
    (project / "predictions" / "b" / "organs").mkdir(parents=True)
    (project / "predictions" / "go").touch()
    state = make_state()
    state.look(project, [model])
    assert state.lacking == ("a", "c")  # the blurred one is left out
    assert state.text == "2 of 3 scans lack a prediction by these models."
    state.run(Settings(uncertainty="entropy"), "exact")
    assert state.busy
    assert not state.can_run
    poll_until(state.poll, lambda: not state.busy)
    assert predicted(project) == ["a", "b", "c"]
    assert state.text == (
        "Finished: judge the predictions in Review. "
        "3 of 3 scans have predictions by these models."
    )
    assert not state.can_run


def test_it_tells_at_which_scan_it_is(
    make_state: MakeState, project: Path, model: Model
) -> None:
    state = make_state()
    state.look(project, [model])
    state.run(Settings(), "exact")
    waits_at_c(state)
    assert "Scan 3 of 3 (c), 83 % of all" in state.text
    assert "when napari is closed" in state.text


def test_it_goes_on_without_the_viewer_and_the_next_one_follows_it(
    make_state: MakeState, project: Path, model: Model
) -> None:
    first = make_state()
    first.look(project, [model])
    first.run(Settings(), "exact")
    waits_at_c(first)
    first.close()
    second = make_state()
    second.look(project, [])
    waits_at_c(second)
    (project / "predictions" / "go").touch()
    poll_until(second.poll, lambda: not second.busy)
    assert predicted(project) == ["a", "b", "c"]


def test_a_stopped_run_goes_on_in_its_own_folder_and_others_get_new_ones(
    make_state: MakeState, project: Path, model: Model
) -> None:
    state = make_state()
    state.look(project, [model])
    state.run(Settings(), "exact")
    waits_at_c(state)
    state.stop()
    poll_until(state.poll, lambda: not state.busy)
    assert "Stopped" in state.text
    assert state.lacking == ("c",)
    state.run(Settings(), "exact")
    waits_at_c(state)
    assert [path.name for path in (project / "runs").iterdir()] == ["predict-1"]
    state.stop()
    poll_until(state.poll, lambda: not state.busy)
    state.run(Settings(), "draft")
    waits_at_c(state)
    names = sorted(path.name for path in (project / "runs").iterdir())
    assert names == ["predict-1", "predict-2"]
    assert Run.open(project / "runs" / "predict-2").config["cases"] == ["c"]


def test_scans_whose_files_are_gone_are_told_and_left_out(
    make_state: MakeState, project: Path, model: Model
) -> None:
    (project.parent / "b.nii.gz").unlink()
    state = make_state()
    state.look(project, [model])
    assert state.lacking == ("a", "c")
    assert state.text.endswith("The files of 1 are gone.")


def test_without_a_project_or_models_there_is_nothing_to_run(
    make_state: MakeState, project: Path, model: Model
) -> None:
    state = make_state()
    state.look(None, [model])
    assert (state.can_run, state.text) == (False, "")
    state.look(project, [])
    assert not state.can_run
    assert state.text == "Tick models to segment all scans of the project."


def test_a_scan_that_is_added_later_is_seen(
    make_state: MakeState, project: Path, model: Model, tmp_path: Path
) -> None:
    state = make_state()
    state.look(project, [model])
    grid = Grid.from_affine(np.eye(4), SHAPE)
    write_volume(tmp_path / "d.nii.gz", np.zeros(SHAPE, np.float32), grid)
    with Project.open(project) as opened:
        opened.add_scan(NewScan((VolumeFile(tmp_path / "d.nii.gz", channel="CT"),)))
    state.look(project, [model])
    assert state.lacking == ("a", "b", "c", "d")


@pytest.mark.slow
def test_the_real_command_predicts_what_lacks_and_nothing_twice(
    project: Path, model: Model
) -> None:
    state = ProjectPrediction(Detached(COMMAND))
    state.look(project, [model])
    state.run(Settings(uncertainty="entropy", device="cpu"), "exact")
    poll_until(state.poll, lambda: not state.busy)
    assert "Finished" in state.text
    assert predicted(project) == ["a", "b", "c"]
    assert len(list(project.glob("predictions/*/organs/labels.nii.gz"))) == 3
    state.close()
