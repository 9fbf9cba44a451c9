"""All scans of a project are segmented by a process that outlives the viewer."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from napari_kdseg.inference.settings import Settings
from napari_kdseg.models.card import ModelCard, NetworkSpec, Tiling
from napari_kdseg.models.model import Model, save_model
from napari_kdseg.models.networks import build
from napari_kdseg.project import Project
from napari_kdseg.runs.run import Run
from napari_kdseg.state.detached import COMMAND, Detached
from napari_kdseg.state.layers import Source
from napari_kdseg.state.project_prediction import ProjectPrediction, is_predicting
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
import numpy as np
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.formats import write_labels
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid

shape = (6, 16, 16)
empty, grid = np.zeros(shape, np.uint8), Grid.from_affine(np.eye(4), shape)

run = Run.open(Path(sys.argv[2]))
listed = run.config["predictions"]
done = {e["case"] for e in run.events()[0] if e["event"] == "prediction"}
with run.executing():
    for number, one in enumerate(listed, start=1):
        case, out = one["case"], Path(one["out"])
        if case in done:
            continue
        run.progress(500, 1000, case, case=number, cases=len(listed))
        while case == "c" and not (out / "go").exists():
            run.check_stop()
            time.sleep(0.01)
        for model in one["models"]:
            folder = out / case / Path(model).name
            folder.mkdir(parents=True, exist_ok=True)
            classes = LabelSet.from_names(["spleen"])
            write_labels(folder / "labels.nii.gz", empty, grid, classes)
        run.event("prediction", case=case)
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
def make_model(tmp_path: Path) -> Callable[..., Model]:
    def make(name: str = "organs", channels: tuple[str, ...] = ("CT",)) -> Model:
        card = ModelCard(
            name=name,
            network=NetworkSpec(
                name="unet", parameters={"dimensions": 2, "width": 2, "stages": 2}
            ),
            channels=channels,
            classes=LabelSet.from_names([f"spleen of {name}"]),
            preprocessing=Preprocessing(intensity=(Intensity(kind="none"),)),
            tiling=Tiling(tile_vox=(16, 16)),
        )
        torch.manual_seed(0)
        network = build(card.network, len(channels), 2)
        save_model(tmp_path / name, card, network)
        return Model.open(tmp_path / name)

    return make


@pytest.fixture
def model(make_model: Callable[..., Model]) -> Model:
    return make_model()


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


def add(project: Path, case: str, *channels: str) -> None:
    """One more scan, with a file for each channel."""
    files = []
    for channel in channels or ("CT",):
        file = project.parent / f"{case}-{channel}.nii.gz"
        voxels = np.random.default_rng(0).random(SHAPE, np.float32)
        write_volume(file, voxels, Grid.from_affine(np.eye(4), SHAPE))
        files.append(VolumeFile(file, channel=channel))
    with Project.open(project) as opened:
        opened.add_scan(NewScan(tuple(files), case=case))


def run_to_end(state: ProjectPrediction, preset: str = "exact") -> None:
    state.run(Settings(uncertainty="entropy", device="cpu"), preset)
    poll_until(state.poll, lambda: not state.busy)


def stop(state: ProjectPrediction) -> None:
    state.stop()
    poll_until(state.poll, lambda: not state.busy)


def runs_in(project: Path) -> dict[str, list[str]]:
    """Cases that each run lists, by its name."""
    folders = sorted((project / "runs").iterdir())
    listed = {f.name: Run.open(f).config["predictions"] for f in folders}
    return {name: [one["case"] for one in found] for name, found in listed.items()}


def test_scans_without_a_prediction_are_segmented_and_no_others(
    make_state: MakeState, project: Path, model: Model
) -> None:
    (project / "predictions" / "b" / "organs").mkdir(parents=True)
    (project / "predictions" / "go").touch()
    state = make_state()
    state.look(project, [model])
    assert state.lacking == ("a", "c")  # the blurred one is left out
    assert state.text == "2 scans without predictions of these models, 1 with them."
    state.run(Settings(), "exact")
    assert state.busy
    assert not state.can_run
    poll_until(state.poll, lambda: not state.busy)
    assert predicted(project) == ["a", "b", "c"]
    assert state.text == (
        "Finished: judge the predictions in Review. "
        f"Results lie in {project / 'predictions'}. "
        "No scan without predictions of these models, 3 with them."
    )
    assert not state.can_run


def test_it_tells_at_which_scan_it_is(
    make_state: MakeState, project: Path, model: Model
) -> None:
    state = make_state()
    state.look(project, [model])
    state.run(Settings(), "exact")
    assert state.text == "Starting."
    waits_at_c(state)
    assert "Scan 3 of 3 (c), 83 % of all" in state.text
    assert "when napari is closed" in state.text
    assert f"Results lie in {project / 'predictions'}." in state.text


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
    second.look(None, [])  # the dock with the project is closed
    assert second.busy
    (project / "predictions" / "go").touch()
    poll_until(second.poll, lambda: not second.busy)
    assert predicted(project) == ["a", "b", "c"]


# ---- The scan that is open ----


def opened_scan(project: Path, case: str, name: str = "") -> Source:
    file = project.parent / f"{case}.nii.gz"
    grid = Grid.from_affine(np.eye(4), SHAPE)
    return Source(name or case, grid, ("image",), np.dtype(np.float32), path=file)


@pytest.fixture
def shown(make_state: MakeState) -> tuple[ProjectPrediction, list[str]]:
    """A state, and the names of the layers that it wants shown."""
    state, names = make_state(), list[str]()
    state.layers_published.connect(
        lambda layers: names.extend(how["name"] for _, how, _ in layers)
    )
    return state, names


def test_results_of_the_open_scan_are_shown_when_they_are_done_and_no_others(
    shown: tuple[ProjectPrediction, list[str]], project: Path, model: Model
) -> None:
    state, names = shown
    state.look(project, [model])
    state.set_source(opened_scan(project, "b", "as its file is called"))
    state.run(Settings(), "exact")
    waits_at_c(state)
    assert names == ["b organs"]
    assert "those of b are in the viewer" in state.text
    (project / "predictions" / "go").touch()
    poll_until(state.poll, lambda: not state.busy)
    assert names == ["b organs"]


def test_a_scan_that_is_opened_later_is_shown_its_results_once(
    shown: tuple[ProjectPrediction, list[str]], project: Path, model: Model
) -> None:
    state, names = shown
    state.look(project, [model])
    state.set_source(opened_scan(project, "c"))
    state.run(Settings(), "exact")
    waits_at_c(state)
    assert names == []
    state.set_source(opened_scan(project, "a"))
    state.set_source(None)
    state.set_source(opened_scan(project, "a"))
    assert names == ["a organs"]
    stop(state)


def test_a_scan_that_was_not_predicted_is_shown_nothing(
    shown: tuple[ProjectPrediction, list[str]], project: Path, model: Model
) -> None:
    state, names = shown
    (project / "predictions" / "go").touch()
    state.look(project, [model])
    state.set_source(opened_scan(project, "blurred", "a"))
    run_to_end(state)
    assert names == []
    assert "in the viewer" not in state.text


def test_results_that_were_taken_away_meanwhile_disturb_nobody(
    shown: tuple[ProjectPrediction, list[str]], project: Path, model: Model
) -> None:
    state, names = shown
    (project / "predictions" / "go").touch()
    state.look(project, [model])
    run_to_end(state)
    shutil.rmtree(project / "predictions" / "a")
    state.set_source(opened_scan(project, "a"))
    assert names == []


def test_a_stopped_run_goes_on_in_its_own_folder_and_others_get_new_ones(
    make_state: MakeState, project: Path, model: Model
) -> None:
    state = make_state()
    state.look(project, [model])
    state.run(Settings(), "exact")
    waits_at_c(state)
    assert is_predicting(project)
    stop(state)
    assert not is_predicting(project)
    assert "Stopped" in state.text
    assert state.lacking == ("c",)
    state.run(Settings(), "exact")
    waits_at_c(state)
    stop(state)
    assert runs_in(project) == {"predict-1": ["a", "b", "c"]}
    state.run(Settings(), "draft")
    waits_at_c(state)
    assert runs_in(project)["predict-2"] == ["c"]


def test_a_run_of_an_older_version_goes_on_in_its_own_folder(
    make_state: MakeState, project: Path, model: Model
) -> None:
    state = make_state()
    state.look(project, [model])
    state.run(Settings(), "exact")
    waits_at_c(state)
    stop(state)
    file = project / "runs" / "predict-1" / "config.yaml"
    config = Run.open(file.parent).config
    unused = [key for key, value in config["predictions"][-1].items() if value is None]
    assert unused
    for one in config["predictions"]:
        for key in unused:
            del one[key]
    file.write_text(yaml.safe_dump(config))
    state.run(Settings(), "exact")
    waits_at_c(state)
    assert list(runs_in(project)) == ["predict-1"]


@pytest.mark.parametrize("becomes", ["left out", "removed", "gone"])
def test_a_scan_that_stopped_a_run_and_is_taken_away_does_not_come_back(
    make_state: MakeState, project: Path, model: Model, becomes: str
) -> None:
    state = make_state()
    state.look(project, [model])
    state.run(Settings(), "exact")
    waits_at_c(state)
    stop(state)
    add(project, "d")
    with Project.open(project) as opened:
        if becomes == "left out":
            opened.set_use("c", "left-out")
        if becomes == "removed":
            opened.remove_scans(["c"])
    if becomes == "gone":
        (project.parent / "c.nii.gz").unlink()
    state.look(project, [model])
    assert state.lacking == ("d",)
    run_to_end(state)
    assert predicted(project) == ["a", "b", "d"]
    assert runs_in(project)["predict-2"] == ["d"]


def test_scans_that_cannot_be_segmented_are_told_and_hold_up_no_others(
    make_state: MakeState, project: Path, model: Model
) -> None:
    (project.parent / "b.nii.gz").unlink()
    (project.parent / "c.nii.gz").unlink()
    add(project, "brain", "t1", "t2")
    state = make_state()
    state.look(project, [model])
    assert state.lacking == ("a",)
    assert state.text == (
        "1 scan without predictions of these models, 1 that they are not for, 2 whose "
        "files are gone."
    )
    assert state.details.startswith("brain has 2 channels (t1, t2)")


def test_without_a_project_or_models_there_is_nothing_to_run(
    make_state: MakeState, project: Path, model: Model
) -> None:
    state = make_state()
    state.look(None, [model])
    assert (state.can_run, state.text) == (False, "")
    state.look(project, [])
    assert not state.can_run
    assert state.text == "Tick models to segment all scans of the project."


def test_a_project_that_is_damaged_is_told_until_it_is_whole_again(
    make_state: MakeState, project: Path, model: Model
) -> None:
    state = make_state()
    state.look(project, [model])
    whole = (project / "project.json").read_text()
    for name in ("project.json", "project.json.previous"):
        (project / name).write_text("{")
    state.look(project, [model])
    assert "is damaged" in state.text
    assert not state.can_run
    (project / "project.json").write_text(whole)
    state.look(project, [model])
    assert "damaged" not in state.text
    assert state.can_run


def test_a_damaged_run_does_not_keep_others_from_being_begun(
    make_state: MakeState, project: Path, model: Model
) -> None:
    (project / "runs" / "predict-1").mkdir(parents=True)
    (project / "runs" / "predict-1" / "config.yaml").touch()
    (project / "predictions" / "go").touch()
    state = make_state()
    state.look(project, [model])
    run_to_end(state)
    assert predicted(project) == ["a", "b", "c"]


def test_a_run_that_nobody_executes_is_not_opened_to_look(
    make_state: MakeState,
    project: Path,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = make_state()
    state.look(project, [model])
    state.run(Settings(), "exact")
    waits_at_c(state)
    stop(state)
    # With hundreds of scans its config takes a second to read.
    monkeypatch.delattr(Run, "open")
    second = make_state()
    second.look(project, [model])
    assert second.lacking == ("c",)
    assert not is_predicting(project)


# ---- with the real command ----


@pytest.mark.slow
def test_the_real_command_does_what_lacks_by_each_model(
    project: Path, make_model: Callable[..., Model]
) -> None:
    add(project, "d")
    (project.parent / "c.nii.gz").write_bytes(b"no scan any more")
    first, second = make_model("first"), make_model("second")
    state = ProjectPrediction(Detached(COMMAND))
    state.look(project, [first])
    run_to_end(state)
    # One bad file is told in the end; the others are done.
    assert "1 of 4 scans could not be predicted; the first is c:" in state.text
    assert state.lacking == ("c",)
    with Project.open(project) as opened:
        opened.remove_scans(["c"])
    labels = project / "predictions" / "a" / "first" / "labels.nii.gz"
    stamp = labels.stat().st_mtime_ns
    # Another model joins: what the first one made stays as it is.
    add(project, "e")
    state.look(project, [first, second])
    assert state.lacking == ("a", "b", "d", "e")
    run_to_end(state)
    assert "Finished" in state.text
    found = sorted(project.glob("predictions/*/*/labels.nii.gz"))
    assert [path.parts[-3:-1] for path in found] == [
        (case, name) for case in "abde" for name in ("first", "second")
    ]
    assert labels.stat().st_mtime_ns == stamp
    assert (project / "predictions" / "e" / "regions.json").is_file()
    assert not list(project.glob("runs/predict-2/each/*"))
    state.close()
