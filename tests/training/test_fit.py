"""Whole runs on made data: they learn, they resume, they leave a model behind."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kdseg_train.methods import fit, prepare
from kdseg_train.prepared import DONE, StoredCase
from kdseg_train.samples import write_partial_sample
from kdseg_train.supervised import often_missing
from napari_kdseg import cores
from napari_kdseg.errors import DataSetError, ModelError, StopRequested
from napari_kdseg.models.model import Model
from napari_kdseg.runs.run import Run

SHORT = {"epochs": 2, "iterations_per_epoch": 4, "batch": 2, "learning_rate": 0.003}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A partly annotated made abdomen: one organ a data set, and a test set."""
    folder = tmp_path_factory.mktemp("samples")
    write_partial_sample("abdomen", folder / "abdomen", cases=9, size=32, seed=3)
    return folder


def recipe(method: str, **more: Any) -> dict[str, Any]:
    return {
        "method": method,
        "name": "made",
        "data": [{"path": "abdomen/liver"}, {"path": "abdomen/spleen"}],
        "test": [{"path": "abdomen/test"}],
        "network": {"name": "unet", "parameters": {"width": 4, "stages": 3}},
        "patch_vox": [32, 32],
        "training": SHORT,
        **more,
    }


def run_of(values: dict[str, Any], samples: Path, folder: Path) -> Run:
    return Run.create(folder, prepare(values, "recipe", samples))


def trained(values: dict[str, Any], samples: Path, folder: Path) -> Run:
    run = run_of(values, samples, folder)
    with run.executing():
        fit(run)
    return run


def losses(run: Run, stage: str) -> list[float]:
    events, _ = run.events()
    return [
        event["loss"]
        for event in events
        if event["event"] == "metric" and event.get("stage") == stage
    ]


def test_a_class_that_no_training_case_shows_is_refused_before_training(
    samples: Path, tmp_path: Path
) -> None:
    values = recipe("supervised", data=[{"path": "abdomen/liver"}], test=[])
    values["data"][0]["map"] = {"gall bladder": [7]}
    values["data"][0]["annotated"] = ["liver", "gall bladder"]
    run = run_of(values, samples, tmp_path / "run")
    sentence = r"training cases have no voxel of 'gall bladder', .* `classes` without"
    with pytest.raises(DataSetError, match=sentence), run.executing():
        fit(run)
    assert not any(run.checkpoints.iterdir())


def test_an_organ_that_is_missing_in_many_cases_that_are_to_show_it_is_told(
    tmp_path: Path,
) -> None:
    def case(name: str, annotated: tuple[bool, ...], *shown: int) -> StoredCase:
        (tmp_path / name).mkdir()
        done = json.dumps({"case": name, "shown": shown})
        (tmp_path / name / DONE).write_text(done)
        return StoredCase(name, tmp_path / name, annotated)

    both = (True, True)
    drawn = [case(f"a{number}", both, 1, 2) for number in range(3)]
    one = case("b", both, 1)
    assert not [*often_missing(("liver", "spleen"), [*drawn, one])]
    (told,) = often_missing(("liver", "spleen"), [*drawn, one, case("c", both, 1)])
    assert told.startswith("spleen has no voxel in 2 of the 5 labelled scans")
    assert "such as b: there it counts as background" in told
    unknown = case("d", (True, False), 1)
    assert not [*often_missing(("liver", "spleen"), [*drawn, one, unknown])]


class Counting(Run):
    """Notes how many threads torch uses whenever it is told of progress."""

    threads: set[int]

    def progress(self, *args: Any, **fields: Any) -> None:
        self.threads.add(torch.get_num_threads())
        super().progress(*args, **fields)


def test_a_training_uses_the_threads_that_its_recipe_gives_it(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 3)
    short = {**SHORT, "epochs": 1, "iterations_per_epoch": 1}
    values = recipe("supervised", training=short, test=[], threads=3)
    run = Counting.create(tmp_path / "run", prepare(values, "recipe", samples))
    run.threads, before = set(), torch.get_num_threads()
    with run.executing():
        fit(run)
    assert run.threads == {3}
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_ms_kd_leaves_teachers_a_student_and_their_scores(
    samples: Path, tmp_path: Path
) -> None:
    run = trained(recipe("ms-kd"), samples, tmp_path / "run")
    student = Model.open(run.model_folder)
    assert student.card.classes.names == ("liver", "spleen")
    teachers = [Model.open(run.folder / "teachers" / n) for n in ("liver", "spleen")]
    assert student.card.provenance.teachers == tuple(t.fingerprint for t in teachers)
    with (run.folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(row["model"], row["class"]) for row in rows} == {
        ("made", "liver"),
        ("made", "spleen"),
        ("made-liver", "liver"),
        ("made-spleen", "spleen"),
    }


def test_ms_kd_says_in_the_run_which_reading_of_the_paper_it_is(
    samples: Path, tmp_path: Path
) -> None:
    short = {**SHORT, "epochs": 1, "iterations_per_epoch": 1}
    run = trained(recipe("ms-kd", training=short, test=[]), samples, tmp_path / "run")
    (note,) = [e["message"] for e in run.events()[0] if e["event"] == "note"]
    assert "normaliser all (printed: all), overlap sum (printed: sum)" in note


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["teacher-liver", "student"])
def test_thirty_steps_lower_the_loss(samples: Path, tmp_path: Path, stage: str) -> None:
    training = {**SHORT, "epochs": 6, "iterations_per_epoch": 5}
    run = trained(recipe("ms-kd", training=training), samples, tmp_path / "run")
    found = losses(run, stage)
    assert sum(found[-2:]) < sum(found[:2])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["supervised", "ms-kd"])
def test_a_run_stopped_in_its_last_stage_resumes_to_the_same_weights(
    samples: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = recipe(method, test=[])
    whole = trained(values, samples, tmp_path / "whole")
    last = {"supervised": "training", "ms-kd": "student"}[method]
    run = run_of(values, samples, tmp_path / "stopped")
    progress = Run.progress

    def stop_in_the_last_stage(
        self: Run, step: int, total: int, stage: str = ""
    ) -> None:
        progress(self, step, total, stage=stage)
        if stage == last:
            self.request_stop()

    with monkeypatch.context() as patched:
        patched.setattr("kdseg_train.loop.PROGRESS_SECONDS", 0.0)
        patched.setattr(Run, "progress", stop_in_the_last_stage)
        with pytest.raises(StopRequested), run.executing():
            fit(run)
    assert not run.model_folder.exists()
    with run.executing():
        fit(run)
    weights = "weights.safetensors"
    assert (run.model_folder / weights).read_bytes() == (
        whole.model_folder / weights
    ).read_bytes()


def test_data_that_changed_since_the_run_was_prepared_is_noticed(
    samples: Path, tmp_path: Path
) -> None:
    values = prepare(recipe("supervised"), "recipe", samples)
    values["frozen"]["fingerprint"] = "0" * 64
    run = Run.create(tmp_path / "run", values)
    with pytest.raises(DataSetError, match="has changed since"), run.executing():
        fit(run)


@pytest.mark.slow
def test_a_teacher_of_another_organ_is_refused(samples: Path, tmp_path: Path) -> None:
    first = trained(recipe("ms-kd", test=[]), samples, tmp_path / "first")
    swapped = {"liver": str(first.folder / "teachers" / "spleen")}
    run = run_of(recipe("ms-kd", teachers=swapped), samples, tmp_path / "second")
    with pytest.raises(ModelError, match="must segment liver alone"), run.executing():
        fit(run)


@pytest.mark.slow
def test_features_of_unlike_teachers_are_refused_before_training(
    samples: Path, tmp_path: Path
) -> None:
    first = trained(recipe("ms-kd", test=[]), samples, tmp_path / "first")
    # one is given and the other would have to be trained first
    given = {"spleen": str(first.folder / "teachers" / "spleen")}
    wider = {"name": "unet", "parameters": {"width": 6, "stages": 3}}
    run = run_of(
        recipe("ms-kd", teachers=given, network=wider), samples, tmp_path / "second"
    )
    refused = pytest.raises(ModelError, match="8 features at level 1, the student 12")
    with refused, run.executing():
        fit(run)
    assert not any(run.checkpoints.iterdir()) or not any(run.checkpoints.iterdir())
