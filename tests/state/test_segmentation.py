"""What the Segment dock knows and does, without Qt and without a process."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.machinery import ModuleSpec
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import zarr
from made_predictions import change_record, write_prediction
from napari.layers import Image
from psygnal import Signal

from kdseg_train.plan import PredictConfig
from napari_kdseg.amounts import size
from napari_kdseg.errors import KdsegError, ModelError, StopRequested
from napari_kdseg.inference.estimate import estimate
from napari_kdseg.inference.settings import Settings
from napari_kdseg.inference.speeds import record_seconds
from napari_kdseg.models.card import Calibration
from napari_kdseg.models.model import Model, ModelCard, NetworkSpec, Tiling, save_model
from napari_kdseg.models.networks import build, build_classifier
from napari_kdseg.project import Project
from napari_kdseg.review.predictions import predictions_in
from napari_kdseg.review.verdicts import read_verdicts
from napari_kdseg.runs.run import Run
from napari_kdseg.state import estimates
from napari_kdseg.state.correction.correction import Correction
from napari_kdseg.state.earlier import _NO_MATTER, UNASKED
from napari_kdseg.state.jobs import Job
from napari_kdseg.state.layers import (
    NAMESPACE,
    Source,
    image_layers,
    source_of_layer,
)
from napari_kdseg.state.prediction import Wish, case_of, config_of
from napari_kdseg.state.review.review import Review
from napari_kdseg.state.scratch import ScratchCopy
from napari_kdseg.state.segmentation import Segmentation, Status
from napari_kdseg.volumes.cache import Cache
from napari_kdseg.volumes.formats import (
    inspect_volume,
    read_volume,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.opening import open_scan
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.volume import Grid

MakeModel = Callable[..., Model]
SHAPE = (4, 16, 16)
GRID = Grid.from_affine(np.diag([-1.0, 1.0, 3.0, 1.0]), SHAPE)


class WorkerAtHand:
    """Stands in for the process: the test says what it does."""

    changed = Signal(Job)

    def __init__(self) -> None:
        self.ready = True
        self.closed = False
        self.jobs: list[Job] = []
        self.cancelled: list[Job] = []

    def start(self) -> None: ...

    def poll(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    def submit(self, run: Run) -> Job:
        self.jobs.append(Job(run))
        return self.jobs[-1]

    def cancel(self, job: Job) -> None:
        self.cancelled.append(job)

    # ---- What the process would do ----

    def tell(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self.jobs[-1], name, value)
        self.changed.emit(self.jobs[-1])

    def fill_some(self, *names: str) -> None:
        case = self.jobs[-1].run.partial / "case"
        for name in names:
            path = str(case / name / "labels.zarr")
            zarr.create_array(store=path, shape=SHAPE, dtype="uint8")[1] = 1

    def cancel_half_done(self, *names: str) -> None:
        with suppress(StopRequested), self.jobs[-1].run.executing():
            self.fill_some(*names)
            raise StopRequested
        self.tell(state="stopped")

    def publish(self, *names: str) -> None:
        run = self.jobs[-1].run
        for name in names:
            folder = Path(run.config["out"]) / "case" / name
            folder.mkdir(parents=True)
            classes = LabelSet.from_names(["spleen"])
            labels = np.ones(SHAPE, np.uint8)
            write_labels(folder / "labels.ome.zarr", labels, GRID, classes)
        with run.executing():
            pass


@pytest.fixture
def worker() -> WorkerAtHand:
    return WorkerAtHand()


@pytest.fixture
def state(tmp_path: Path, worker: WorkerAtHand) -> Segmentation:
    return Segmentation(worker, tmp_path / "cache")  # type: ignore[arg-type]


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    def make(name: str, **changes: Any) -> Model:
        values: dict[str, Any] = {
            "name": name,
            "network": NetworkSpec(
                name="unet", parameters={"dimensions": 2, "width": 2, "stages": 2}
            ),
            "channels": ("CT",),
            "classes": LabelSet.from_names(["spleen"]),
            "preprocessing": Preprocessing(intensity=(Intensity(kind="none"),)),
            "tiling": Tiling(tile_vox=(16, 16)),
        }
        card = ModelCard(**(values | changes))
        torch.manual_seed(0)
        network = build(card.network, len(card.channels), card.classes.count)
        return save_model(tmp_path / "models" / name, card, network)

    return make


@pytest.fixture
def scan(tmp_path: Path) -> Source:
    file = tmp_path / "case.nii.gz"
    write_volume(file, np.zeros(SHAPE, np.int16), GRID)
    return source(file)


def source(file: Path) -> Source:
    header = inspect_volume(file)
    return Source("case", header.grid, header.channels, header.dtype, path=file)


def array_source(voxels: np.ndarray, name: str = "my scan / 1") -> Source:
    return Source(name, GRID, (name,), voxels.dtype, data=voxels)


def started(state: Segmentation, scan: Source, *models: Model) -> None:
    state.set_source(scan)
    for model in models:
        state.choose(state.add_model(model.folder))
    state.run(view=(0, 2))


# ---- Before Run ----


def test_what_is_missing_is_said_before_run(
    state: Segmentation, scan: Source, make_model: MakeModel
) -> None:
    assert "Open a scan" in state.problem
    state.set_source(scan)
    assert "Tick at least one model" in state.problem
    state.choose(state.add_model(make_model("ct").folder))
    assert not state.problem
    state.set_uncertainty("disagreement")
    assert "at least two" in state.problem


def test_run_without_a_model_does_nothing(
    state: Segmentation, scan: Source, worker: WorkerAtHand
) -> None:
    state.set_source(scan)
    state.run()
    assert not worker.jobs
    assert state.status == Status()


def test_the_time_is_foreseen_from_a_run_of_the_dock(
    state: Segmentation,
    scan: Source,
    make_model: MakeModel,
    worker: WorkerAtHand,
    own_cache: Path,
) -> None:
    model = make_model("ct")
    state.set_device("cpu")
    started(state, scan, model)
    assert "time not known before a first run on cpu" in state.estimate_text
    threads = worker.jobs[0].run.config["threads"]
    done = replace(state.settings, threads=threads)
    record_seconds(model.card, "cpu", (1, 16, 16), 2.5, 1, done)
    assert state.seconds(model) == pytest.approx(10)  # 4 slices of one window each
    assert "10 s" in state.estimate_text


@pytest.mark.parametrize(
    ("built", "place"),
    [
        ("cuda: Optional[str] = '12.6'", "cuda"),
        ("cuda: Optional[str] = None", "cpu"),
        ("cuda = None", "cpu"),
        ("debug = False", "cuda"),  # not told: the driver decides
        (None, "cuda"),
    ],
)
def test_auto_leads_to_a_card_where_torch_was_built_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: str | None, place: str
) -> None:
    monkeypatch.setattr(estimates.shutil, "which", lambda name: f"/usr/bin/{name}")
    spec = ModuleSpec("torch", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(estimates, "find_spec", lambda name: spec)
    if built is not None:
        text = f"__version__ = '2.13.0'\n{built}\nhip: Optional[str] = None\n"
        (tmp_path / "version.py").write_text(text)
    assert estimates.place_of("auto") == place
    monkeypatch.setattr(estimates.shutil, "which", lambda name: None)
    assert estimates.place_of("auto") == "cpu"


def test_what_torch_was_built_for_is_what_torch_says() -> None:
    assert estimates.torch_is_for_cuda() == (torch.version.cuda is not None)


def test_without_torch_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "find_spec", lambda name: None)
    assert not estimates.torch_is_for_cuda()


def test_on_a_card_its_memory_is_told_and_that_of_the_computer_compared(
    state: Segmentation,
    scan: Source,
    make_model: MakeModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model("ct")
    state.set_source(scan)
    state.set_device("cuda")
    state.choose(state.add_model(model.folder))
    found = estimate(scan, [model], state.settings)
    monkeypatch.setattr(estimates, "free_bytes", lambda: found.host_bytes)
    assert f"{size(found.device_bytes)} on the graphics card" in state.estimate_text
    assert "may not fit" not in state.estimate_text
    monkeypatch.setattr(estimates, "free_bytes", lambda: found.host_bytes - 1)
    assert "may not fit" in state.estimate_text


def test_a_scan_in_a_viewer_counts_where_it_will_be_decoded_whole(
    tmp_path: Path,
) -> None:
    voxels = np.zeros(SHAPE, np.int16)
    for name, decoded in (("a.nii.gz", voxels.nbytes), ("b.nii", 0)):
        file = tmp_path / name
        write_volume(file, voxels, GRID)
        ((data, how, _),) = image_layers(open_scan(file))
        layer = Image(data, **how)
        assert source_of_layer(layer).decoded_bytes == decoded
        assert inspect_volume(file).decoded_bytes == decoded
    assert array_source(voxels).decoded_bytes == 0


def test_a_model_that_does_not_fit_says_why(
    state: Segmentation, scan: Source, make_model: MakeModel
) -> None:
    model = state.add_model(make_model("mr", channels=("T1", "T2")).folder)
    assert not state.misfit(model)
    state.set_source(scan)
    assert "takes 2 (T1, T2)" in state.misfit(model)
    assert state.seconds(model) is None


def test_models_that_do_not_fit_another_scan_are_unticked(
    state: Segmentation, scan: Source, make_model: MakeModel
) -> None:
    coarse = state.add_model(make_model("coarse", spacing_range_mm=(5, 9)).folder)
    anything = state.add_model(make_model("anything").folder)
    state.choose(coarse)
    state.choose(anything)
    state.set_source(scan)
    assert state.chosen == (anything,)


def test_a_folder_is_offered_once(state: Segmentation, make_model: MakeModel) -> None:
    folder = make_model("ct").folder
    assert state.add_model(folder) is state.add_model(folder)
    assert len(state.models) == 1


def test_a_folder_that_is_no_model_is_refused(
    state: Segmentation, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"model\.yaml"):
        state.add_model(tmp_path)


# ---- The run that is prepared ----


def test_a_run_asks_for_what_was_chosen(
    state: Segmentation, scan: Source, make_model: MakeModel, worker: WorkerAtHand
) -> None:
    student = make_model("student")
    teachers = [make_model(name, role="teacher") for name in ("one", "two")]
    started(state, scan, student, *teachers)
    config = worker.jobs[0].run.config
    assert config["inputs"] == [str(scan.path)]
    # Teachers first: what they taught lies over them in the viewer.
    folders = [str(model.folder) for model in (*teachers, student)]
    assert config["models"] == folders
    assert config["regions"] is True
    assert config["uncertainty"] == "entropy"
    assert config["preview"] == [0, 2]
    assert config["format"] == "ome-zarr"
    assert state.command_line.startswith(f"kdseg-train predict {scan.path} --model")


@pytest.mark.parametrize(("name", "asked"), [("case", None), ("mouse-3", "mouse-3")])
def test_a_scan_that_its_project_calls_otherwise_keeps_that_name(
    state: Segmentation,
    scan: Source,
    make_model: MakeModel,
    worker: WorkerAtHand,
    name: str,
    asked: str | None,
) -> None:
    started(state, replace(scan, name=name), make_model("ct"))
    run = worker.jobs[0].run
    assert run.config["case"] == asked
    assert case_of(run) == name


def test_one_model_has_no_regions(
    state: Segmentation, scan: Source, make_model: MakeModel, worker: WorkerAtHand
) -> None:
    started(state, scan, make_model("alone", role="teacher"))
    assert worker.jobs[0].run.config["regions"] is False


def test_a_chosen_folder_gets_the_format_of_the_scan(
    state: Segmentation,
    scan: Source,
    make_model: MakeModel,
    worker: WorkerAtHand,
    tmp_path: Path,
) -> None:
    state.set_out(tmp_path / "results")
    started(state, scan, make_model("ct"))
    run = worker.jobs[0].run
    assert run.config["format"] == "source"
    assert run.folder == tmp_path / "results" / ".run"


def test_progress_and_end_name_their_scan_where_another_is_chosen(
    state: Segmentation, scan: Source, make_model: MakeModel, worker: WorkerAtHand
) -> None:
    started(state, scan, make_model("ct"))
    worker.tell(state="running", fraction=0.1)
    assert state.about == ""
    state.set_source(replace(scan, name="another"))
    assert state.about == scan.name
    worker.tell(state="stopped")
    assert state.about == scan.name
    state.set_source(scan)
    assert state.about == ""


def test_what_was_told_of_a_scan_goes_with_it(
    state: Segmentation, scan: Source, make_model: MakeModel, worker: WorkerAtHand
) -> None:
    model = make_model("mine")
    state.add_model(model.folder)
    state.set_source(scan)
    state.choose(state.models[0])
    state.run()
    state.cancel()
    worker.tell(state="stopped")
    assert "Cancelled" in state.status.text
    state.set_source(scan)  # the same one, of another layer
    assert "Cancelled" in state.status.text
    state.set_source(replace(scan, name="another"))
    assert state.status.text == ""


# ---- The project that is open ----


def test_models_of_the_project_are_offered_beside_the_others(
    state: Segmentation, make_model: MakeModel, tmp_path: Path
) -> None:
    shipped = state.add_model(make_model("shipped").folder)
    project = tmp_path / "project"
    for place in ("models/bought", "runs/one/run/model"):
        make_model("mine").folder.rename(made(project / place))
    made(project / "models/damaged/model.yaml").write_text("- no card")
    state.set_project(project)
    folders = [project / place for place in ("models/bought", "runs/one/run/model")]
    assert [model.folder for model in state.models] == [shipped.folder, *folders]
    state.set_project(None)  # the dock with the project was closed
    assert len(state.models) == 3


@pytest.mark.parametrize("place", ["run/teachers/liver", "teachers/liver"])
def test_teachers_of_a_training_are_offered_beside_their_student(
    state: Segmentation, make_model: MakeModel, tmp_path: Path, place: str
) -> None:
    """As MS-KD leaves them: from the Train dock, and from the command line."""
    teacher = made(tmp_path / "project/runs/organs" / place)
    make_model("liver", role="teacher").folder.rename(teacher)
    student = made(teacher.parents[1] / "model")
    make_model("student").folder.rename(student)
    state.set_project(tmp_path / "project")
    assert [model.folder for model in state.models] == [student, teacher]


def test_a_model_that_was_trained_meanwhile_is_offered(
    state: Segmentation, make_model: MakeModel, tmp_path: Path
) -> None:
    (tmp_path / "project").mkdir()
    state.set_project(tmp_path / "project")
    assert not state.models
    place = made(tmp_path / "project/runs/student/run/model")
    make_model("student").folder.rename(place)
    changes: list[None] = []
    state.models_changed.connect(lambda: changes.append(None))
    state.set_project(tmp_path / "project")
    state.set_project(tmp_path / "project")
    assert [model.folder for model in state.models] == [place]
    assert len(changes) == 1, "the list is built anew where there is something new"


def test_models_of_another_project_go_with_it_unless_they_are_ticked(
    state: Segmentation, make_model: MakeModel, tmp_path: Path
) -> None:
    for name in ("ticked", "other"):
        make_model(name).folder.rename(made(tmp_path / "first/models" / name))
    (tmp_path / "second").mkdir()
    state.set_project(tmp_path / "first")
    [ticked] = [one for one in state.models if one.card.name == "ticked"]
    state.choose(ticked)
    state.set_project(tmp_path / "second")
    assert state.models == (ticked,)


def test_a_classifier_of_the_project_is_no_model_to_segment_with(
    state: Segmentation, tmp_path: Path
) -> None:
    card = ModelCard(
        name="judge",
        role="quality-classifier",
        network=NetworkSpec(name="resnet18-quality", parameters={"width": 4}),
        channels=("CT",),
        classes=LabelSet.from_names(["spleen"]),
        preprocessing=Preprocessing(intensity=(Intensity(kind="none"),)),
        tiling=Tiling(tile_vox=(32, 32), overlap=0),
        calibration=Calibration(slope=2.0, intercept=-0.5),
    )
    network = build_classifier(card.network, 1, card.classes.count)
    save_model(made(tmp_path / "project/runs/judge/model"), card, network)
    state.set_project(tmp_path / "project")
    assert not state.models


def test_results_go_to_the_project_unless_another_folder_is_chosen(
    state: Segmentation,
    scan: Source,
    make_model: MakeModel,
    worker: WorkerAtHand,
    tmp_path: Path,
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    told: list[Path | None] = []
    state.out_changed.connect(lambda: told.append(state.out))
    state.set_project(project)
    started(state, scan, make_model("ct"))
    run = worker.jobs[0].run
    assert run.folder == project / "predictions" / ".run"
    worker.publish("ct")
    worker.tell(state="finished", fraction=1.0)
    assert str(project / "predictions" / "case") in state.status.text
    state.set_out(tmp_path / "elsewhere")
    state.set_project(project)
    assert state.out == tmp_path / "elsewhere"
    state.set_out(None)
    assert told == [project / "predictions", tmp_path / "elsewhere", None]


def test_a_project_that_cannot_be_written_to_gets_no_results(
    state: Segmentation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    state.set_project(tmp_path)
    assert state.out is None


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


# ---- Results of other settings ----


@pytest.fixture
def project(tmp_path: Path) -> Path:
    with Project.create(tmp_path / "project") as made:
        return made.folder


def predicted(worker: WorkerAtHand, *models: Model) -> None:
    """Publish as a prediction of the last run's settings does."""
    run = worker.jobs[-1].run
    settings = PredictConfig.model_validate(run.config).model_dump(mode="json")
    case = Path(run.config["out"]) / "case"
    for model in models:
        labels = np.ones(SHAPE, np.uint8)
        name, print_ = model.card.name, model.fingerprint
        folder = write_prediction(
            case.parent, "case", labels, model=name, fingerprint=print_
        )
        change_record(folder, settings=settings)
    if run.config["regions"]:
        (case / "regions.json").write_text("{}")
        for kind in ("regions", "uncertainty"):
            labels = np.ones(SHAPE, np.uint8)
            write_labels(case / f"{kind}.nii.gz", labels, GRID, None)
    with run.executing():
        names = [model.card.name for model in models]
        run.event("prediction", case="case", folder=case, models=names)
    worker.tell(state="finished", fraction=1.0)


@pytest.fixture
def done(
    state: Segmentation,
    scan: Source,
    make_model: MakeModel,
    worker: WorkerAtHand,
    project: Path,
) -> Model:
    """A model by which the scan is segmented, into the project."""
    model = make_model("ct")
    state.set_project(project)
    started(state, scan, model)
    predicted(worker, model)
    return model


def test_the_dock_asks_for_the_settings_that_a_prediction_has_by_itself() -> None:
    """What Segment leaves out is compared by these."""
    fields = PredictConfig.model_fields
    assert {key: fields[key].default for key in UNASKED} == UNASKED
    asked = set(config_of(Wish(Path("ct.nii.gz"), (), Settings())))
    assert set(fields) <= asked | set(UNASKED) | _NO_MATTER


def test_results_of_the_same_settings_are_not_in_the_way(
    state: Segmentation,
    make_model: MakeModel,
    done: Model,
) -> None:
    assert not state.replaced
    state.choose(state.add_model(make_model("other").folder))
    state.choose(state.models[0], chosen=False)
    assert [one.card.name for one in state.chosen] == ["other"]
    assert not state.replaced  # results of another model go beside


def test_results_of_other_settings_are_replaced_only_where_that_is_wanted(
    state: Segmentation,
    scan: Source,
    make_model: MakeModel,
    worker: WorkerAtHand,
    project: Path,
) -> None:
    model, told = make_model("ct"), []
    state.set_project(project)
    started(state, scan, model)
    predicted(worker, model)
    record = (project / "predictions/case/ct/prediction.json").read_text()
    state.estimate_changed.connect(lambda: told.append(state.replaced))
    state.set_preset("draft")
    assert told[-1].startswith("case has results of ct of other settings.")
    assert str(project / "trash") in told[-1]
    assert "--out" not in told[-1]
    state.run()
    assert len(worker.jobs) == 1
    assert state.status.phase == "failed"
    assert (project / "predictions/case/ct/prediction.json").read_text() == record

    state.run(replace_earlier=True)
    assert worker.jobs[-1].run.config["preset"] == "draft"
    [aside] = (project / "trash").iterdir()
    assert (aside / "case/ct/prediction.json").read_text() == record
    assert [one.model for one in predictions_in(aside)] == ["ct"]
    assert not (project / "predictions/case/ct").exists()
    predicted(worker, model)
    assert str(aside) in state.status.text
    assert not state.replaced
    # And back again, which is a run of its own.
    state.set_preset("exact")
    state.run(replace_earlier=True)
    assert len(worker.jobs) == 3
    assert len(list((project / "trash").iterdir())) == 2


def test_a_teacher_more_makes_the_results_of_all_anew(
    state: Segmentation,
    scan: Source,
    make_model: MakeModel,
    worker: WorkerAtHand,
    project: Path,
) -> None:
    first = make_model("liver", role="teacher")
    second = make_model("spleen", role="teacher")
    state.set_project(project)
    started(state, scan, first)
    predicted(worker, first)
    state.choose(state.add_model(second.folder))
    assert state.replaced.startswith(
        "case has results of liver, and regions are made of all teachers at once."
    )
    state.run(replace_earlier=True)
    assert worker.jobs[-1].run.config["regions"]
    predicted(worker, first, second)
    assert not state.replaced
    third = make_model("kidneys", role="teacher")
    state.choose(state.add_model(third.folder))
    assert "results of liver, spleen, and regions" in state.replaced
    assert "with regions and uncertainty of several models, goes" in state.replaced
    state.run(replace_earlier=True)
    newest = max((project / "trash").iterdir(), key=lambda path: path.stat().st_mtime)
    kept = {path.name for path in (newest / "case").iterdir()}
    files = {"regions.json", "regions.nii.gz", "uncertainty.nii.gz"}
    assert kept == files | {"liver", "spleen"}


def test_of_results_that_were_judged_it_is_said_before_they_are_replaced(
    state: Segmentation,
    scan: Source,
    make_model: MakeModel,
    worker: WorkerAtHand,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, read = make_model("ct"), list[Path]()

    def noted(store: Path) -> Any:
        read.append(store)
        return read_verdicts(store)

    monkeypatch.setattr("napari_kdseg.state.earlier.read_verdicts", noted)
    state.set_project(project)
    started(state, scan, model)
    predicted(worker, model)
    review = Review()
    review.open_folder(project)
    assert review.begin("Ada"), review.status
    [one] = review.predictions
    state.set_uncertainty("margin")
    for index in range(2):
        review.go_to(one.about(0, index))
        review.judge("good")
        count = "2 slices of it were" if index else "1 slice of it was"
        assert f"{count} judged: the verdicts stay" in state.replaced
    review.close()
    assert "2 slices of it were judged: the verdicts stay" in state.replaced
    read.clear()
    state.set_device("cpu")
    assert state.replaced
    assert read == []  # as nobody has judged meanwhile
    state.run(replace_earlier=True)
    [aside] = (project / "trash").iterdir()
    [kept] = predictions_in(aside)
    assert kept.labels_hash == one.labels_hash
    verdicts = read_verdicts(project / "review" / "verdicts.sqlite")
    assert {each.labels_hash for each in verdicts} == {kept.labels_hash}


def test_results_that_cannot_be_put_aside_stay_and_nothing_is_computed(
    state: Segmentation,
    worker: WorkerAtHand,
    project: Path,
    done: Model,
) -> None:
    (project / "trash").write_text("a file in its place")
    state.set_preset("draft")
    state.run(replace_earlier=True)
    assert len(worker.jobs) == 1
    assert "nothing was computed" in state.status.text
    assert (project / "predictions/case/ct/prediction.json").is_file()


@pytest.mark.parametrize("stuck", ["liver", "regions.nii.gz"])
def test_results_of_which_some_cannot_be_moved_are_all_put_back(
    stuck: str,
    state: Segmentation,
    scan: Source,
    make_model: MakeModel,
    worker: WorkerAtHand,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = [make_model(name, role="teacher") for name in ("liver", "spleen")]
    state.set_project(project)
    started(state, scan, *models)
    predicted(worker, *models)
    before = {path.name for path in (project / "predictions/case").iterdir()}
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name == stuck:
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    state.set_preset("draft")
    state.run(replace_earlier=True)
    assert "nothing was computed" in state.status.text
    assert {path.name for path in (project / "predictions/case").iterdir()} == before
    assert not list((project / "trash").iterdir())
    assert len(worker.jobs) == 1


@pytest.mark.parametrize("ended", ["failed", "stopped"])
def test_where_earlier_results_are_is_told_though_no_new_ones_come(
    ended: str,
    state: Segmentation,
    worker: WorkerAtHand,
    project: Path,
    done: Model,
) -> None:
    state.set_preset("draft")
    state.run(replace_earlier=True)
    worker.tell(state=ended, error="The card is full.")
    [aside] = (project / "trash").iterdir()
    assert state.status.text.endswith(f" The earlier results are in {aside}.")


@pytest.mark.parametrize("ours", [True, False])
def test_results_are_replaced_by_who_has_the_project(
    ours: bool,
    state: Segmentation,
    worker: WorkerAtHand,
    project: Path,
    done: Model,
) -> None:
    state.set_preset("draft")
    with Project.open(project):
        if not ours:
            holder = json.loads((project / "lock").read_text())
            parent = psutil.Process(os.getppid())
            holder |= {"pid": parent.pid, "started": parent.create_time()}
            (project / "lock").write_text(json.dumps(holder))
        state.run(replace_earlier=True)
    assert len(worker.jobs) == (2 if ours else 1)
    assert (f"open in process {os.getppid()}" in state.status.text) is not ours
    assert (project / "predictions/case/ct").exists() is not ours


@pytest.mark.parametrize("moment", ["painting", "saving"])
def test_results_stay_while_a_correction_reads_them(
    moment: str,
    state: Segmentation,
    worker: WorkerAtHand,
    project: Path,
    done: Model,
) -> None:
    seconds = count()  # each look at the clock takes one, so writing has to wait
    correction = Correction(clock=lambda: float(next(seconds)))
    [one] = predictions_in(project / "predictions")
    assert correction.begin(project, one)
    correction.layers()[-1][0][1:2, 3:6, 3:6] = 2
    if moment == "saving":
        assert correction.end()
    state.set_preset("draft")
    state.run(replace_earlier=True)
    assert "case is being corrected" in state.status.text
    assert predictions_in(project / "predictions") == (one,)
    assert len(worker.jobs) == 1

    correction.close()
    state.set_preset("draft")
    assert "the correction stays, and is of these labels" in state.replaced
    state.run(replace_earlier=True)
    assert len(worker.jobs) == 2


def test_results_stay_while_slices_are_judged(
    state: Segmentation,
    project: Path,
    done: Model,
) -> None:
    state.set_preset("draft")
    state.run(replace_earlier=True, judged=True)
    assert "Stop judging" in state.status.text
    assert (project / "predictions/case/ct/prediction.json").is_file()
    assert not (project / "trash").exists()


def test_a_refusal_is_told_of_the_scan_that_it_is_of(
    state: Segmentation,
    scan: Source,
    done: Model,
) -> None:
    other = array_source(np.zeros(SHAPE, np.int16), "other")
    started(state, other)
    state.cancel()
    assert state.about == ""
    state.set_source(scan)
    state.set_preset("draft")
    state.run()
    assert state.status.phase == "failed"
    assert state.about == ""
    state.set_source(other)
    assert state.status == Status()


# ---- Another run in the same folder ----


def test_a_folder_with_an_earlier_run_keeps_its_record(
    state: Segmentation,
    scan: Source,
    make_model: MakeModel,
    worker: WorkerAtHand,
    tmp_path: Path,
) -> None:
    state.set_out(tmp_path / "results")
    started(state, scan, make_model("ct"))
    worker.tell(state="stopped")
    state.set_uncertainty("margin")
    state.run()
    earlier = Run.open(tmp_path / "results" / ".run-1")
    now = Run.open(tmp_path / "results" / ".run")
    measures = (earlier.config["uncertainty"], now.config["uncertainty"])
    assert measures == ("entropy", "margin")


def test_run_goes_on_after_other_scans_and_settings_in_the_same_folder(
    state: Segmentation,
    scan: Source,
    make_model: MakeModel,
    worker: WorkerAtHand,
    tmp_path: Path,
) -> None:
    other_file = tmp_path / "other.nii.gz"
    write_volume(other_file, np.ones(SHAPE, np.int16), GRID)
    state.set_out(tmp_path / "results")
    started(state, scan, make_model("ct"))
    worker.cancel_half_done("ct")
    state.set_source(source(other_file))
    state.run()
    worker.cancel_half_done("ct")
    state.set_source(scan)
    state.set_uncertainty("margin")
    state.run()
    worker.cancel_half_done("ct")

    state.set_uncertainty("entropy")
    state.run(view=(1, 5))
    run = worker.jobs[-1].run
    assert run.config == worker.jobs[0].run.config | {"preview": [1, 5]}
    assert (run.partial / "case" / "ct" / "labels.zarr").exists()
    state.cancel()
    worker.tell(state="stopped")
    state.set_source(source(other_file))
    state.run()
    assert worker.jobs[-1].run.config["inputs"] == [str(other_file)]
    assert worker.jobs[-1].run.has_work


def test_run_goes_on_whatever_slice_is_in_view(
    state: Segmentation, scan: Source, make_model: MakeModel, worker: WorkerAtHand
) -> None:
    started(state, scan, make_model("ct"))
    worker.tell(state="stopped")
    state.run(view=(1, 5))
    assert worker.jobs[0].run.folder == worker.jobs[1].run.folder


def test_another_file_of_the_same_name_is_another_run(
    state: Segmentation, scan: Source, make_model: MakeModel, worker: WorkerAtHand
) -> None:
    started(state, scan, make_model("ct"))
    worker.tell(state="stopped")
    assert scan.path is not None
    write_volume(scan.path, np.ones(SHAPE, np.float32), GRID)
    state.run()
    assert worker.jobs[0].run.folder != worker.jobs[1].run.folder


# ---- Following it ----


def progress(step: int, time: float) -> dict[str, Any]:
    counts = {"stage": "case", "step": step, "total": 100}
    return {"event": "progress", "time": time, **counts}


def test_the_time_left_is_foreseen_from_the_pace(
    state: Segmentation, scan: Source, make_model: MakeModel, worker: WorkerAtHand
) -> None:
    started(state, scan, make_model("ct"))
    begun = ({"event": "started"}, progress(0, 1000.0))
    worker.tell(state="running", news=begun)
    worker.tell(news=(progress(10, 1030.0),), fraction=0.1)
    assert state.status.text == "10 %, 4 min left"  # 270 s


def test_what_was_done_before_does_not_shorten_the_time_left(
    state: Segmentation, scan: Source, make_model: MakeModel, worker: WorkerAtHand
) -> None:
    started(state, scan, make_model("ct"))
    begun = ({"event": "resumed"}, progress(0, 1000.0), progress(60, 1000.5))
    worker.tell(state="running", news=begun, fraction=0.6)
    assert state.status.text == "60 %"
    worker.tell(news=(progress(62, 1060.5),), fraction=0.62)
    assert state.status.text == "62 %, 19 min left"  # 38 % at 30 s each


def test_layers_are_shown_as_soon_as_there_is_something_to_see(
    state: Segmentation, scan: Source, make_model: MakeModel, worker: WorkerAtHand
) -> None:
    shown: list[Any] = []
    ticks: list[None] = []
    state.layers_started.connect(shown.extend)
    state.tiles_finished.connect(lambda: ticks.append(None))
    started(state, scan, make_model("ct"))
    worker.tell(state="running", news=({"event": "started"},))
    assert not shown
    worker.fill_some("ct")
    worker.tell(news=({"event": "preview"},))
    [(data, arguments, kind)] = shown
    assert kind == "labels"
    assert np.asarray(data)[1].all()
    assert arguments["scale"] == (3, 1, 1)
    assert arguments["metadata"][NAMESPACE]["live"] is True
    worker.tell(news=(progress(50, 1.0),), fraction=0.5)
    assert len(shown) == 1
    assert len(ticks) == 2
    assert state.status.phase == "running"
    assert state.status.text.startswith("50 %")


def test_published_results_replace_what_was_growing(
    state: Segmentation, scan: Source, make_model: MakeModel, worker: WorkerAtHand
) -> None:
    growing: list[Any] = []
    published: list[Any] = []
    state.layers_started.connect(growing.extend)
    state.layers_published.connect(published.extend)
    started(state, scan, make_model("ct"))
    worker.fill_some("ct")
    worker.tell(state="running", news=({"event": "preview"},))
    worker.publish("ct")
    worker.tell(state="finished", fraction=1.0)
    before, after = (
        layers[0][1]["metadata"][NAMESPACE] for layers in (growing, published)
    )
    assert before["key"] == after["key"]
    assert not after["live"]
    assert state.status.phase == "finished"


def test_tiles_that_were_published_while_they_were_looked_at_are_no_mistake(
    state: Segmentation, scan: Source, make_model: MakeModel, worker: WorkerAtHand
) -> None:
    growing: list[Any] = []
    state.layers_started.connect(growing.extend)
    started(state, scan, make_model("ct"))
    worker.fill_some("ct")
    partial = worker.jobs[-1].run.partial / "case" / "ct" / "labels.zarr"
    (partial / "zarr.json").unlink()
    worker.tell(state="running", news=({"event": "preview"},))
    assert not growing
    worker.publish("ct")
    worker.tell(state="finished", fraction=1.0)
    assert state.status.phase == "finished"


def test_what_was_computed_before_is_shown_at_once(
    state: Segmentation, scan: Source, make_model: MakeModel, worker: WorkerAtHand
) -> None:
    started(state, scan, make_model("ct"))
    worker.publish("ct")
    worker.tell(state="finished")
    published: list[Any] = []
    state.layers_published.connect(published.extend)
    state.run()
    assert len(worker.jobs) == 1
    assert len(published) == 1
    assert state.status.text.startswith("Computed before")


def test_a_failure_is_told_in_its_own_words(
    state: Segmentation, scan: Source, make_model: MakeModel, worker: WorkerAtHand
) -> None:
    started(state, scan, make_model("ct"))
    worker.tell(state="failed", error="case.nii.gz is cut short.")
    assert state.status == Status("failed", 0.0, "case.nii.gz is cut short.")


def test_cancel_asks_the_worker_once_it_runs(
    state: Segmentation, scan: Source, make_model: MakeModel, worker: WorkerAtHand
) -> None:
    started(state, scan, make_model("ct"))
    worker.tell(state="running", fraction=0.25)
    state.cancel()
    assert worker.cancelled == worker.jobs
    assert state.status.phase == "cancelling"
    worker.tell(news=(progress(26, 1.0),))
    assert state.status.phase == "cancelling"
    worker.tell(state="stopped")
    assert state.status.phase == "cancelled"
    assert not state.status.busy


def test_a_shared_worker_outlives_the_dock(
    state: Segmentation, worker: WorkerAtHand
) -> None:
    state.close()
    assert not worker.closed


# ---- Scans without a file ----


def test_a_layer_without_a_file_is_copied_with_its_grid(
    state: Segmentation, make_model: MakeModel, worker: WorkerAtHand, tmp_path: Path
) -> None:
    voxels = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    started(state, array_source(voxels), make_model("ct"))
    assert state.status.phase == "preparing"
    while state.status.phase == "preparing":
        state.poll()
    copy = Path(worker.jobs[0].run.config["inputs"][0])
    assert copy.name == "my_scan_1.ome.zarr"
    # Converted scans can be cleared; the job and its results need this copy.
    Cache(tmp_path / "cache" / "scans").clear()
    assert copy.parent.parent == tmp_path / "cache" / "copies"
    volume = read_volume(copy)
    assert np.array_equal(np.asarray(volume.data)[0], voxels)
    assert volume.grid.matches(GRID)


def test_the_same_voxels_are_copied_once(tmp_path: Path) -> None:
    voxels = np.ones(SHAPE, np.float32)
    paths = []
    for _ in range(2):
        copy = ScratchCopy(array_source(voxels), tmp_path)
        while copy.step() is not None:
            pass
        paths.append(copy.path)
    voxels[0, 0, 0] = 2
    other = ScratchCopy(array_source(voxels), tmp_path)
    while other.step() is not None:
        pass
    assert paths[0] == paths[1] != other.path


def test_a_copy_that_was_cancelled_leaves_nothing(tmp_path: Path) -> None:
    grid = Grid.from_affine(np.eye(4), (200, 16, 16))
    voxels = np.ones(grid.shape, bool)
    long = Source("long", grid, ("long",), voxels.dtype, data=voxels)
    copy = ScratchCopy(long, tmp_path)
    for _ in range(6):  # four slabs are looked at, two are written
        copy.step()
    assert [path for path in tmp_path.rglob("*") if path.is_file()]
    copy.cancel()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_cancel_while_copying_asks_no_worker(
    state: Segmentation, make_model: MakeModel, worker: WorkerAtHand
) -> None:
    started(state, array_source(np.ones(SHAPE, np.float32)), make_model("ct"))
    state.cancel()
    state.poll()
    assert state.status.phase == "cancelled"
    assert not worker.jobs


def test_a_full_disk_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "scans").write_text("a file where a folder should be")
    copy = ScratchCopy(array_source(np.ones(SHAPE)), tmp_path / "scans")
    copy.step()
    with pytest.raises(KdsegError, match="could not be copied"):
        copy.step()
