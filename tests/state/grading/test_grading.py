"""A classifier's way without a viewer: ready, trained, scored, audited, handed over."""

import contextlib
import csv
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from made_predictions import CLASSES, grid_of, write_prediction

from napari_kdseg.cores import cores_beside_viewer
from napari_kdseg.errors import KdsegError
from napari_kdseg.models.card import Calibration
from napari_kdseg.models.model import Model, ModelCard, NetworkSpec, Tiling, save_model
from napari_kdseg.models.networks import build, build_classifier
from napari_kdseg.project import Project
from napari_kdseg.review.predictions import predictions_in
from napari_kdseg.review.scores import file_of, keep
from napari_kdseg.runs.run import Run
from napari_kdseg.state.detached import Detached, _Followed
from napari_kdseg.state.grading.grading import Grading
from napari_kdseg.state.jobs import Job, Worker
from napari_kdseg.state.review.review import Review
from napari_kdseg.state.training_runs import KnownRuns
from napari_kdseg.volumes.formats import write_labels
from napari_kdseg.volumes.preprocessing import Preprocessing
from napari_kdseg.volumes.scan import NewScan, VolumeFile

WAIT_S = 60.0
SHAPE = (40, 8, 8)
CASES = ("a", "b", "c")
HOW = Preprocessing(orientation="RAS")


class Trains(Detached):
    """Does what kdseg-train does, here and without a network."""

    def __init__(self, classifier: Path) -> None:
        super().__init__()
        self._classifier = classifier

    def start(self, run: Run) -> Job:
        with contextlib.suppress(KdsegError), run.executing():
            if run.config.get("seed") == 13:
                raise KdsegError("The thirteenth never comes to good.")
            shutil.copytree(self._classifier, run.folder / "model")
            lines = ["case,axis,index,good,p_good,part"]
            lines += [f"a,0,{i},{int(i > 9)},{i / 20},test" for i in range(20)]
            lines += ["b,0,1,1,0.5,validation"]
            (run.folder / "validation.csv").write_text("\n".join(lines) + "\n")
        return self._noticed_later(Job(run))

    def fit(self, recipe: Path, folder: Path) -> Job:
        run = Run.create(folder, {"version": 1, "command": "fit"})
        with run.executing():
            pass
        job = Job(run)
        job.command_line = f"kdseg-train fit {recipe} --out {folder}"
        return self._noticed_later(job)

    def _noticed_later(self, job: Job) -> Job:
        self._followed.append(_Followed(job))
        return job


class Scores(Worker):
    """Scores here, without a network: P(good) is the index over 100."""

    def __init__(self) -> None:
        super().__init__()
        self._scored: list[Job] = []

    def submit(self, run: Run) -> Job:
        config, folder = run.config, Path(run.config["scores"])
        with run.executing():
            for one in predictions_in(Path(config["labels"])):
                made_by = one.fingerprint == config["predicted_by"]
                for axis in config["axes"] if made_by else ():
                    if one.case in config["cases"]:
                        file = file_of(folder, one.case, axis, one.labels_hash)
                        keep(file, np.arange(one.slices(axis)) / 100)
                        run.event("scored", case=one.case, axis=axis)
        self._scored.append(Job(run))
        return self._scored[-1]

    def poll(self) -> None:
        for job in self._scored:
            job.news, job.state = tuple(job.run.events()[0]), "finished"
            self.changed.emit(job)
        self._scored.clear()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of slices, one of volumes, and a classifier."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    common: dict[str, Any] = {
        "channels": ("image",),
        "classes": CLASSES,
        "preprocessing": HOW,
    }
    for name, sizes in (("flat", (16, 16)), ("deep", (8, 16, 16))):
        spec = NetworkSpec(
            name="unet",
            parameters={"width": 4, "stages": 2, "dimensions": len(sizes)},
        )
        card = ModelCard(
            name=name,
            network=spec,
            tiling=Tiling(tile_vox=sizes, overlap=0.25),
            **common,
        )
        save_model(folder / name, card, build(spec, 1, CLASSES.count))
    judge = NetworkSpec(name="resnet18-quality", parameters={"width": 4})
    calibration = Calibration(threshold=0.25, chosen="by hand, on test slices")
    card = ModelCard(
        name="judge",
        role="quality-classifier",
        network=judge,
        tiling=Tiling(tile_vox=(32, 32), overlap=0),
        calibration=calibration,
        **common,
    )
    save_model(folder / "judge", card, build_classifier(judge, 1, CLASSES.count))
    return folder


@pytest.fixture
def project(tmp_path: Path, models: Path) -> Path:
    """Three predicted scans, and one that was drawn."""
    return project_of(tmp_path / "fish", Model.open(models / "flat"))


def project_of(folder: Path, teacher: Model) -> Path:
    with Project.create(folder) as made:
        for number, case in enumerate((*CASES, "drawn")):
            labels = np.zeros(SHAPE, np.uint8)
            labels[:, number, 1:4] = 1 + number % 2
            out = folder.parent / "made"
            write_prediction(
                out,
                case,
                labels,
                model=teacher.card.name,
                fingerprint=teacher.fingerprint,
            )
            scan = folder.parent / "scans" / f"{case}.nii.gz"
            drawn = None
            if case == "drawn":
                path = folder.parent / "scans" / "truth.nii.gz"
                write_labels(path, labels, grid_of(SHAPE), CLASSES)
                drawn = VolumeFile(path)
                shutil.rmtree(out / case)
            made.add_scan(NewScan((VolumeFile(scan),), drawn, case))
        shutil.copytree(out, folder / "predictions", dirs_exist_ok=True)
        shutil.copytree(teacher.folder, folder / "models" / teacher.card.name)
    return folder


@pytest.fixture
def detached(models: Path) -> Trains:
    return Trains(models / "judge")


@pytest.fixture
def worker() -> Scores:
    return Scores()


@pytest.fixture
def review(project: Path) -> Iterator[Review]:
    made = Review()
    made.open_folder(project)
    assert made.begin("Ada"), made.status
    yield made
    made.close()


@pytest.fixture
def grading(review: Review, worker: Worker, detached: Detached) -> Iterator[Grading]:
    made = Grading(review, worker, detached)
    yield made
    made.close()


def judge(review: Review, case: str, words: str) -> None:
    """Judge the first slices of a scan: g good, b bad, u unsure."""
    (one,) = (p for p in review.predictions if p.case == case)
    for index, letter in enumerate(words):
        review.go_to(one.about(0, index))
        review.judge({"g": "good", "b": "bad", "u": "unsure"}[letter])  # type: ignore[arg-type]


def judge_enough(review: Review) -> None:
    judge(review, "a", "g" * 20 + "b" * 20)
    judge(review, "b", "g" * 20 + "b" * 20)


def poll_until(grading: Grading, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        grading.poll()
        time.sleep(0.01)


@pytest.fixture
def graded(grading: Grading, review: Review) -> Grading:
    """Trained on 80 verdicts, and all slices scored."""
    judge_enough(review)
    grading.train()
    finish(grading)
    return grading


def finish(grading: Grading) -> None:
    poll_until(grading, lambda: grading.training is None and grading.scoring is None)


def told(grading: Grading, signal: str) -> list[Any]:
    seen: list[Any] = []
    getattr(grading, signal).connect(lambda *_: seen.append(1))
    return seen


# ---- Whether it can be trained ----


def test_without_predictions_there_is_nothing_to_train(worker: Worker) -> None:
    grading = Grading(Review(), worker)
    assert not grading.ready
    assert grading.ready_text == "Open predictions and judge some of their slices."
    grading.train()
    assert grading.status == grading.ready_text
    assert (grading.has_classifier, grading.scored) == (False, (0, 0))
    assert grading.at(0.5).of == 0
    grading.close()


def test_how_many_verdicts_are_missing_is_said(
    grading: Grading, review: Review
) -> None:
    judge(review, "a", "g" * 34 + "bbb" + "uu")
    assert not grading.ready
    assert grading.ready_text == (
        "34 (of 40) good, 3 (of 40) bad: a classifier can learn from 40 of each on. "
        "Judge more."
    )


def test_verdicts_of_one_kind_are_told_apart_from_too_few(
    grading: Grading, review: Review
) -> None:
    judge(review, "a", "g" * 5)
    assert "so far all slices are good" in grading.ready_text
    assert "Look for bad ones" in grading.ready_text
    grading.train()
    assert grading.status == grading.ready_text
    assert grading.training is None


def test_verdicts_of_one_scan_alone_are_not_enough(
    grading: Grading, review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_kdseg.state.grading.shown.NEEDED", 20)
    judge(review, "a", "g" * 20 + "b" * 20)
    assert not grading.ready
    assert "20 good, 20 bad, all of one scan" in grading.ready_text
    judge(review, "b", "g")
    assert grading.ready
    assert grading.ready_text == "21 good, 20 bad, of 2 scans."


def test_news_of_verdicts_are_told_now_and_then_and_known_at_once(
    grading: Grading, review: Review
) -> None:
    seen = told(grading, "counts_changed")
    judge(review, "a", "gb")
    assert grading.ready_text.startswith("1 (of 40) good, 1 (of 40) bad")
    assert not seen
    judge(review, "b", "g")
    poll_until(grading, lambda: bool(seen))
    assert grading.ready_text.startswith("2 (of 40) good, 1 (of 40) bad")


# ---- Training, scores, curves ----


def test_a_trained_classifier_scores_every_slice_by_itself(
    graded: Grading, review: Review, project: Path
) -> None:
    assert graded.has_classifier
    assert graded.status == ""
    assert graded.scored == (120, 120)
    assert review.scores is not None
    assert review.scores["c", 0, 30] == pytest.approx(0.3)
    assert review.order == "doubt"
    assert "on 40 good and 40 bad verdicts of 2 scans" in graded.about
    config = Run.open(project / "runs" / "quality-1").config
    assert config["images"] == str(project)
    assert config["predicted_by"] == review.predictions[0].fingerprint
    scoring = Run.open(project / "runs" / "scores-1").config
    assert (scoring["cases"], scoring["axes"]) == (list(CASES), [0])
    assert config["threads"] == scoring["threads"] == cores_beside_viewer()


def test_only_verdicts_on_these_very_labels_are_learnt_from(
    graded: Grading, project: Path
) -> None:
    with (project / "runs" / "quality-1" / "verdicts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 80
    assert all(len(row["labels_hash"]) == 64 for row in rows)


def test_curves_are_measured_on_the_test_where_there_is_one(graded: Grading) -> None:
    curves = graded.curves
    assert curves is not None
    assert curves.auroc == 1
    assert curves.measured_on.startswith("20 slices of scans that neither training")
    assert curves.at(0.5) == (1, 1)
    found = graded.at(0.75)
    assert (found.precision, found.recall) == (1, 0.5)


def test_the_threshold_that_training_chose_is_suggested_and_taken(
    graded: Grading, review: Review
) -> None:
    assert graded.suggested == graded.threshold == review.threshold == 0.25
    assert graded.suggested_because == "by hand, on test slices"


def test_what_a_threshold_accepts_is_what_people_said_then_what_it_says(
    graded: Grading,
) -> None:
    # a and b are judged whole: 20 good each; c scores .00 to .39, nobody judged it
    assert (graded.at(0).accepted, graded.at(0).of) == (80, 120)
    assert graded.at(0.345).accepted == 45
    assert graded.at(1).accepted == 40
    across, accepted = graded.accepted_curve()
    assert (across[0], across[-1]) == (0, 1)
    assert (accepted[0], accepted[-1]) == (80, 40)


def test_a_picked_threshold_is_kept_after_a_moment(
    graded: Grading, review: Review, project: Path
) -> None:
    file = project / "review" / "classifier.json"
    before = file.read_text()
    for threshold in (0.3, 0.31, 0.32):
        graded.threshold = threshold
    assert graded.threshold == review.threshold == 0.32
    assert file.read_text() == before
    poll_until(graded, lambda: file.read_text() != before)
    (kept,) = json.loads(file.read_text())["models"].values()
    assert kept["threshold"] == 0.32
    assert kept["run"] == "runs/quality-1"


def test_another_viewer_finds_classifier_scores_and_threshold(
    graded: Grading, review: Review, project: Path, worker: Worker
) -> None:
    graded.threshold = 0.3
    graded.draw_audit(5)
    graded.close()
    review.close()
    other = Review()
    other.open_folder(project)
    again = Grading(other, worker)
    assert again.has_classifier
    assert again.threshold == other.threshold == 0.3
    assert again.scored == (120, 120)
    assert other.scores is not None
    assert again.audit is not None
    again.close()
    other.close()


def test_a_training_that_outlived_its_viewer_is_taken_up(
    grading: Grading,
    review: Review,
    project: Path,
) -> None:
    judge_enough(review)
    grading.train()
    grading.close()
    review.close()
    other = Review()
    other.open_folder(project)
    again = Grading(other, Scores(), Trains(project))
    poll_until(again, lambda: again.scored == (120, 120))
    assert again.has_classifier
    again.close()
    other.close()


def test_a_training_that_fails_says_why_and_another_can_begin(
    grading: Grading, review: Review, project: Path
) -> None:
    judge_enough(review)
    grading.train({"seed": 13, "training.epochs": 2})
    config = Run.open(project / "runs" / "quality-1").config
    assert (config["seed"], config["training"]) == (13, {"epochs": 2})
    assert not grading.ready
    finish(grading)
    assert grading.status == "The thirteenth never comes to good."
    assert grading.ready
    assert not grading.has_classifier


def test_predictions_that_came_later_are_scored_when_asked(
    graded: Grading, review: Review, project: Path, models: Path
) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 5] = 1
    print_ = Model.open(models / "flat").fingerprint
    write_prediction(
        project / "predictions", "later", labels, model="flat", fingerprint=print_
    )
    review.refresh()
    assert graded.scored == (120, 160)
    assert review.scores is not None
    graded.score()
    finish(graded)
    assert graded.scored == (160, 160)
    assert Run.open(project / "runs" / "scores-2").config["cases"] == ["later"]
    graded.score()
    assert graded.status == "All slices have a score already."


def test_a_prediction_made_anew_has_no_old_scores_and_no_old_verdicts(
    graded: Grading, review: Review, project: Path, models: Path
) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 6] = 1
    shutil.rmtree(project / "predictions" / "b")
    print_ = Model.open(models / "flat").fingerprint
    write_prediction(
        project / "predictions", "b", labels, model="flat", fingerprint=print_
    )
    review.refresh()
    assert graded.scored == (80, 120)
    assert graded.at(0).of == 80
    assert graded.ready_text.startswith("20 (of 40) good, 20 (of 40) bad")


def test_a_damaged_record_is_told_and_nothing_else_is_lost(
    graded: Grading, review: Review, project: Path, worker: Worker
) -> None:
    graded.close()
    (project / "review" / "classifier.json").write_text("{")
    again = Grading(review, worker)
    assert "classifier.json cannot be used" in again.status
    assert not again.has_classifier
    assert again.ready
    again.close()


# ---- Audit ----


def test_an_audit_shows_accepted_slices_that_nobody_judged(
    graded: Grading, review: Review
) -> None:
    graded.draw_audit(10)
    audit = graded.audit
    assert audit is not None
    assert (len(audit.places), audit.accepted, audit.threshold) == (10, 15, 0.25)
    assert {place[0] for place in audit.places} == {"c"}
    assert min(place[2] for place in audit.places) >= 25
    assert review.current is not None
    assert review.current.place == audit.places[0]
    assert graded.findings is not None
    assert graded.findings.left == 10


def test_the_error_rate_comes_from_what_the_person_says(
    graded: Grading, review: Review
) -> None:
    seen = told(graded, "audit_changed")
    graded.draw_audit(10)
    for word in ("bad", "good", "good", "good"):
        review.judge(word)
    found = graded.findings
    assert found is not None
    assert (found.bad, found.good, found.left) == (1, 3, 6)
    assert "an error rate of 25.0 %" in found.words
    poll_until(graded, lambda: len(seen) > 1)
    graded.end_audit()
    assert review.sample is None
    graded.show_audit()
    assert review.sample is not None


def test_where_nothing_is_accepted_there_is_nothing_to_check(graded: Grading) -> None:
    graded.threshold = 1.0
    graded.draw_audit()
    assert "there is nothing to check" in graded.status
    assert graded.audit is None


# ---- Handing over ----


def recipe_in(project: Path, name: str = "flat-student") -> dict[str, Any]:
    text = (project / "runs" / name / "recipe.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_a_student_gets_labels_predictions_classifier_and_verdicts(
    graded: Grading, project: Path
) -> None:
    assert graded.can_hand_over == ""
    assert graded.teacher == project / "models" / "flat"
    graded.threshold = 0.3
    graded.hand_over(settings={"training.epochs": 2})
    assert graded.student is not None, graded.status
    recipe = recipe_in(project)
    assert recipe["method"] == "medaka"
    assert recipe["threads"] == cores_beside_viewer()
    assert recipe["data"] == [
        {"path": "../..", "annotated": ["gut", "heart"], "cases": ["drawn"]}
    ]
    assert recipe["unlabelled"] == [{"path": "../..", "cases": list(CASES)}]
    assert recipe["teacher"] == "../../models/flat"
    assert recipe["patch_vox"] == [16, 16]
    assert recipe["training"] == {"epochs": 2}
    assert recipe["quality"]["model"] == "../quality-1/model"
    assert recipe["quality"]["threshold"] == 0.3
    assert recipe["quality"]["reviews"] == "../flat-student/verdicts.csv"
    home = project / "runs" / "flat-student"
    assert (home / "verdicts.csv").exists()
    assert graded.hand_over_command == (
        f"kdseg-train fit {home / 'recipe.yaml'} --out {home / 'run'}"
    )
    poll_until(graded, lambda: bool(graded.student and graded.student.ended))
    assert graded.student.state == "finished"
    graded.hand_over()
    assert recipe_in(project, "flat-student-2")["name"] == "flat-student"


def test_the_train_dock_lists_the_student(graded: Grading, project: Path) -> None:
    graded.hand_over()
    assert KnownRuns().folders[0] == project / "runs" / "flat-student" / "run"


def test_one_student_at_a_time(graded: Grading) -> None:
    graded.hand_over()
    assert graded.can_hand_over == "A student is being trained."


def test_a_teacher_that_is_not_found_is_asked_for(
    graded: Grading, project: Path, models: Path
) -> None:
    shutil.rmtree(project / "models" / "flat")
    assert graded.teacher is None
    assert "was not found" in graded.can_hand_over
    graded.set_teacher(models / "deep")
    assert "only the very same model" in graded.status
    graded.set_teacher(models / "flat")
    assert graded.status == ""
    assert graded.can_hand_over == ""
    graded.hand_over()
    assert recipe_in(project)["teacher"] == str(models / "flat")


def test_models_of_other_folders_are_looked_at_when_they_are_named(
    graded: Grading, project: Path, models: Path
) -> None:
    shutil.rmtree(project / "models" / "flat")
    assert graded.teacher is None
    graded.add_model_folders([models / "deep", models / "flat"])
    assert graded.teacher == models / "flat"


def test_a_project_without_labels_cannot_teach_yet(
    graded: Grading, project: Path
) -> None:
    with Project.open(project) as opened:
        opened.set_use("drawn", "test")
    assert "no labels of gut, heart" in graded.can_hand_over
    graded.hand_over()
    assert graded.status == graded.can_hand_over
    assert graded.student is None


def test_slices_along_another_axis_than_the_student_s_are_refused(
    graded: Grading, review: Review, project: Path
) -> None:
    path = project / "runs" / "quality-1" / "verdicts.csv"
    path.write_text(path.read_text().replace(",0,", ",2,"))
    graded.close()
    again = Grading(review, Scores())
    assert "learnt slices along axis 2" in again.can_hand_over
    assert "learns slices along axis 0" in again.can_hand_over
    again.close()


def test_a_teacher_of_volumes_is_followed_from_scratch(
    tmp_path: Path, models: Path, worker: Worker, detached: Detached
) -> None:
    project = project_of(tmp_path / "deep fish", Model.open(models / "deep"))
    review = Review()
    review.open_folder(project)
    review.begin("Ada")
    judge_enough(review)
    grading = Grading(review, worker, detached)
    grading.train()
    finish(grading)
    grading.hand_over()
    recipe = recipe_in(project, "deep-student")
    assert (recipe["init"], recipe["distillation"]) == ("scratch", {"alpha": 0})
    assert "network" not in recipe
    grading.close()
    review.close()


def test_results_without_a_project_have_nobody_to_teach(
    tmp_path: Path, models: Path, worker: Worker, detached: Detached
) -> None:
    folder = project_of(tmp_path / "fish", Model.open(models / "flat"))
    out = tmp_path / "out"
    shutil.copytree(folder / "predictions", out)
    shutil.copytree(models / "flat", out / "models" / "flat")
    review = Review()
    review.open_folder(out)
    review.begin("Ada")
    judge_enough(review)
    grading = Grading(review, worker, detached)
    grading.train()
    finish(grading)
    assert (out / "review" / "runs" / "quality-1" / "model").is_dir()
    assert grading.scored == (120, 120)
    assert "out is no project" in grading.can_hand_over
    grading.close()
    review.close()
