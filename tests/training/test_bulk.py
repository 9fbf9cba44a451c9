"""Many volumes on many workers: all done, nothing twice, each failure explained."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import damaged_corpus
import numpy as np
import psutil
import pytest
import torch
from distributed import Client, KilledWorker, LocalCluster

from kdseg_train import bulk, bulk_job
from kdseg_train.bulk_report import Report
from kdseg_train.crew import (
    Crew,
    Foreman,
    Job,
    Outcome,
    Team,
    Watch,
)
from kdseg_train.inputs import GivenCase, find_cases
from kdseg_train.plan import PredictConfig
from kdseg_train.scans import Scan, scan_of
from kdseg_train.slurm_jobs import Slurm
from napari_kdseg.errors import UsageError
from napari_kdseg.inference.estimate import estimate
from napari_kdseg.models.card import Calibration
from napari_kdseg.models.model import (
    Model,
    ModelCard,
    NetworkSpec,
    Tiling,
    save_model,
)
from napari_kdseg.models.networks import build_classifier
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.formats import (
    inspect_volume,
    read_labels,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.volume import Grid

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """A worker that somebody else started: a thread of this process."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address=None,
        protocol="tcp",
        silence_logs="CRITICAL",
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def scans(write_scan: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    for number in range(3):
        write_scan(f"case_{number}.nii.gz", folder=folder)
    return folder


@pytest.fixture
def model(model_folder: Any) -> Model:
    found: Model = model_folder()
    return found


@pytest.fixture
def predict(
    call: Call, scans: Path, model: Model, tmp_path: Path, scheduler: str
) -> Callable[..., tuple[int, str, str]]:
    def run(*words: object) -> tuple[int, str, str]:
        place = ("--out", tmp_path / "out", "--scheduler", scheduler)
        inputs = (scans, "--model", model.folder, "--device", "cpu")
        return call("bulk", "predict", *inputs, *place, *words)

    return run


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "bulk-report.json").read_text())
    return found


def records(out: Path) -> dict[str, tuple[str, int]]:
    """Identity and time of every record."""
    return {
        path.parts[-3]: (
            json.loads(path.read_text())["uuid"],
            path.stat().st_mtime_ns,
        )
        for path in out.glob("*/*/prediction.json")
    }


def cut_off(scan: Path) -> None:
    """Leave half of a file."""
    data = scan.read_bytes()
    scan.write_bytes(data[: len(data) // 2])


# ---- One worker, here ----


def test_labels_are_those_of_predict(
    predict: Any, call: Call, scans: Path, model: Model, tmp_path: Path
) -> None:
    assert predict()[0] == 0
    alone = tmp_path / "alone"
    words = ("--model", model.folder, "--out", alone, "--device", "cpu")
    assert call("predict", scans, *words)[0] == 0
    for number in range(3):
        place = f"case_{number}/organs/labels.nii.gz"
        many, one = (read_labels(out / place)[0] for out in (tmp_path / "out", alone))
        assert many.any()
        assert (many == one).all()


def test_predict_takes_what_bulk_published_for_its_own(
    predict: Any, call: Call, scans: Path, model: Model, tmp_path: Path
) -> None:
    predict()
    before = records(tmp_path / "out")
    place = ("--out", tmp_path / "out", "--resume", "--device", "cpu")
    assert call("predict", scans, "--model", model.folder, *place)[0] == 0
    assert records(tmp_path / "out") == before


def test_a_second_call_computes_nothing(predict: Any, tmp_path: Path) -> None:
    predict()
    before = records(tmp_path / "out")
    assert predict()[0] == 0
    assert records(tmp_path / "out") == before
    assert report(tmp_path / "out")["counts"]["there"] == 3


def test_a_damaged_volume_is_reported_and_stops_no_other(
    predict: Any, scans: Path, tmp_path: Path
) -> None:
    cut_off(scans / "case_1.nii.gz")
    status, said, told = predict()
    assert status == 1
    assert "case_1" in told
    assert "case_1" in said
    found = report(tmp_path / "out")
    assert found["counts"] | {"done": 2, "failed": 1} == found["counts"]
    (failed,) = (one for one in found["cases"] if one["state"] == "failed")
    assert "case_1.nii.gz" in failed["error"]
    assert sorted(records(tmp_path / "out")) == ["case_0", "case_2"]


def test_a_volume_that_was_mended_is_all_that_is_computed_later(
    predict: Any, scans: Path, tmp_path: Path
) -> None:
    whole = (scans / "case_1.nii.gz").read_bytes()
    cut_off(scans / "case_1.nii.gz")
    predict()
    before = records(tmp_path / "out")
    (scans / "case_1.nii.gz").write_bytes(whole)
    assert predict()[0] == 0
    after = records(tmp_path / "out")
    assert sorted(after) == ["case_0", "case_1", "case_2"]
    assert {name: after[name] for name in before} == before


def test_results_of_other_settings_are_reported_not_replaced(
    predict: Any, tmp_path: Path
) -> None:
    predict()
    before = records(tmp_path / "out")
    status, _, told = predict("--set", "overlap=0.25")
    assert status == 1
    assert "Choose another folder for the results" in told
    assert records(tmp_path / "out") == before


@pytest.mark.parametrize("tile", ["tile=16,16", "tile=[16,16]"])
def test_any_setting_of_predict_can_be_set(
    predict: Any, tmp_path: Path, tile: str
) -> None:
    sets = ("preset=fast", "backend=openvino", "roi=coarse", tile)
    status, _, told = predict(*(word for one in sets for word in ("--set", one)))
    assert status == 0, told
    asked = Run.open(tmp_path / "out" / ".bulk").config["predict"]
    assert asked["tile"] == [16, 16]
    assert (asked["preset"], asked["backend"]) == ("fast", "openvino")
    assert asked["roi"] == "coarse"


def test_a_volume_that_an_older_version_began_goes_on(tmp_path: Path) -> None:
    new = {"version": 1, "command": "predict", "inputs": ["a.nii"], "device": "cpu"}
    old = dict(new)
    new |= {"case": "a", "channels": ["t1"], "threads": 2, "later": None}
    folder = tmp_path / "a"
    Run.create(folder, old)
    (folder / "partial").mkdir()
    (folder / "partial" / "half").touch()
    assert bulk_job._prepared(folder, new).config == new
    assert (folder / "partial" / "half").exists()
    bulk_job._prepared(folder, new | {"inputs": ["b.nii"]})
    assert not (folder / "partial").exists()


@pytest.mark.parametrize(("asked", "ends"), [("stop", 3), ("requeue", 75)])
def test_a_request_to_end_leaves_the_rest_for_later(
    predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, ends: int
) -> None:
    out = tmp_path / "out"
    tell = bulk.tell

    def tell_and_stop(*words: Any) -> None:
        tell(*words)
        (out / ".bulk" / asked).touch()

    with monkeypatch.context() as patch:
        patch.setattr(bulk, "tell", tell_and_stop)
        status, _, told = predict()
    before = records(out)
    assert status == ends
    assert "Give the same command again" in told
    assert "goes on with it" not in told  # said once
    assert 1 <= len(before) < 3
    assert predict()[0] == 0
    after = records(out)
    assert len(after) == 3
    assert {name: after[name] for name in before} == before


def test_progress_tells_rate_and_time_left(predict: Any, tmp_path: Path) -> None:
    predict()
    events, _ = Run.open(tmp_path / "out" / ".bulk").events()
    steps = [one for one in events if one["event"] == "progress"]
    assert [one["step"] for one in steps] == [1, 2, 3]
    assert steps[0]["per_hour"] > 0
    assert steps[0]["seconds_left"] > steps[-1]["seconds_left"] == 0
    assert [e["state"] for e in events if e["event"] == "volume"] == ["done"] * 3


def test_a_model_that_is_not_there_is_refused_before_anything_starts(
    call: Call, scans: Path, tmp_path: Path
) -> None:
    words = ("--model", tmp_path / "nothing", "--out", tmp_path / "out")
    assert call("bulk", "predict", scans, *words)[0] == 2
    assert not (tmp_path / "out").exists()


def test_a_scheduler_that_does_not_answer_is_named(
    call: Call,
    scans: Path,
    model_folder: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kdseg_train.crew.CONNECT_S", 0.5)
    words = ("--model", model_folder().folder, "--out", tmp_path / "out")
    nobody = ("--scheduler", "tcp://127.0.0.1:9")
    status, _, told = call("bulk", "predict", scans, *words, *nobody)
    assert status == 2
    assert "tcp://127.0.0.1:9 does not answer" in told
    assert "dask worker tcp://127.0.0.1:9 --nthreads 1" in told


@pytest.mark.parametrize("command", ["predict", "score"])
def test_every_command_has_help(call: Call, command: str) -> None:
    assert call("bulk", command, "--help")[0] == 0


# ---- Scores ----


@pytest.fixture
def judge(tmp_path: Path) -> Model:
    torch.manual_seed(0)
    card = ModelCard(
        name="judge",
        role="quality-classifier",
        network=NetworkSpec(name="resnet18-quality", parameters={"width": 4}),
        channels=("image",),
        classes=LabelSet.from_names(["liver", "spleen"]),
        preprocessing=Preprocessing(intensity=(Intensity(kind="none"),)),
        tiling=Tiling(tile_vox=(32, 32), overlap=0),
        calibration=Calibration(slope=2.0, intercept=-0.5),
    )
    return save_model(tmp_path / "judge", card, build_classifier(card.network, 1, 3))


def test_scores_are_those_of_quality_score_and_kept(
    predict: Any, call: Call, judge: Model, scheduler: str, tmp_path: Path
) -> None:
    predict()
    words = ("--model", judge.folder, "--labels", tmp_path / "out", "--device", "cpu")
    call("quality", "score", *words, "--out", tmp_path / "alone.csv")
    many = ("bulk", "score", *words, "--scheduler", scheduler)
    assert call(*many, "--out", tmp_path / "many")[0] == 0
    table = tmp_path / "many" / "scores.csv"
    assert sorted(table.read_text().splitlines()) == sorted(
        (tmp_path / "alone.csv").read_text().splitlines()
    )
    assert call(*many, "--out", tmp_path / "many")[0] == 0
    assert report(tmp_path / "many")["counts"]["there"] == 3


def given_threads(out: Path) -> set[int | None]:
    runs = [Run.open(path.parent) for path in out.glob(".bulk-cases/*/config.yaml")]
    return {run.config["threads"] for run in runs}


@pytest.mark.parametrize("threads", [None, 3])
def test_workers_of_a_scheduler_take_the_threads_they_are_told(
    predict: Any,
    call: Call,
    judge: Model,
    scheduler: str,
    tmp_path: Path,
    threads: int | None,
) -> None:
    predict()
    words = ("--model", judge.folder, "--labels", tmp_path / "out", "--device", "cpu")
    place = ("--scheduler", scheduler, "--out", tmp_path / "many")
    more = () if threads is None else ("--threads", threads)
    assert call("bulk", "score", *words, *place, *more)[0] == 0
    assert given_threads(tmp_path / "many") == {threads}


@pytest.mark.slow
def test_those_who_score_share_the_cores_like_those_who_predict(
    call: Call, scans: Path, model: Model, judge: Model, tmp_path: Path
) -> None:
    out, many = tmp_path / "out", tmp_path / "many"
    crew = ("--workers", 1, "--device", "cpu")
    predicting = ("bulk", "predict", scans, "--model", model.folder, "--out", out)
    assert call(*predicting, *crew)[0] == 0
    words = ("--model", judge.folder, "--labels", out, "--out", many)
    assert call("bulk", "score", *words, *crew)[0] == 0
    assert given_threads(many) == given_threads(out) != {None}


def test_a_model_that_judges_nothing_is_refused_before_anybody_works(
    predict: Any, call: Call, model: Model, tmp_path: Path
) -> None:
    predict()
    words = ("--model", model.folder, "--labels", tmp_path / "out")
    status, out, said = call("bulk", "score", *words, "--out", tmp_path / "many")
    assert status == 1
    assert "slices are judged by a quality-classifier" in said
    assert not (tmp_path / "many").exists()
    assert out == ""


def test_a_prediction_whose_scan_is_gone_is_reported(
    predict: Any,
    call: Call,
    judge: Model,
    scans: Path,
    scheduler: str,
    tmp_path: Path,
) -> None:
    predict()
    (scans / "case_2.nii.gz").unlink()
    words = ("--model", judge.folder, "--labels", tmp_path / "out")
    place = ("--out", tmp_path / "many", "--scheduler", scheduler, "--device", "cpu")
    assert call("bulk", "score", *words, *place)[0] == 1
    found = report(tmp_path / "many")
    assert found["counts"]["failed"] == 1
    assert "case_2" in (tmp_path / "many" / "bulk-report.md").read_text()
    assert "case_0" in (tmp_path / "many" / "scores.csv").read_text()


# ---- A worker that dies ----


SLURM = Crew(slurm=Slurm(memory="2GB"))


@pytest.mark.parametrize(
    ("crew", "asked", "helps"),
    [
        (Crew(), 2, ["take fewer workers"]),
        (Crew(), 1, ["close other programs", "--set tile="]),
        (Crew(scheduler="tcp://x:1"), 1, ["fewer workers on its machine"]),
        (SLURM, 2, ["its 2GB", "--slurm-set memory=", "--slurm-set walltime="]),
    ],
    ids=["many here", "one here", "scheduler", "slurm"],
)
def test_a_volume_whose_workers_died_is_told_what_helps(
    scheduler: str, tmp_path: Path, crew: Crew, asked: int, helps: list[str]
) -> None:
    def die(job: Job) -> Outcome:
        raise KilledWorker(job.case, SimpleNamespace(address="tcp://gone:1"), 0)

    with Client(scheduler) as client:
        team = Team(client, asked=asked, counts_gpus=False, crew=crew)
        foreman = Foreman(team, die, 1, Watch())
        (outcome,) = foreman.outcomes([Job("case_1", tmp_path / "case_1", {})])
    assert outcome.state == "failed"
    assert "died 2 times." in outcome.error
    for words in helps:
        assert words in outcome.error


def test_a_slurm_job_that_a_volume_is_too_large_for_is_not_submitted() -> None:
    # each worker has 0.8 GB before its first volume
    words = r"about 3\.2 GB .* asks for 2GB; take --slurm-set memory=4GB"
    with pytest.raises(UsageError, match=words):
        bulk.check_memory(Slurm(memory="2GB"), lambda: 2_400_000_000)
    bulk.check_memory(Slurm(memory="4GB"), lambda: 2_400_000_000)
    # what a GPU elsewhere leaves to the processor is not known
    bulk.check_memory(Slurm(memory="2GB", gpus=1), lambda: 2_400_000_000)


# ---- How many ----


def test_workers_are_no_more_than_the_memory_of_a_job_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk, "usable_cores", lambda: 64)
    free = SimpleNamespace(available=500 * 10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "32768")
    # 0.8 of 34 GB, and each worker has 0.8 GB before its first volume of 2.4 GB.
    count, gpus = bulk.team(Crew(), "cpu", lambda: 2_400_000_000)
    assert 1 <= count <= 8
    assert not gpus


def test_a_volume_with_a_file_for_each_channel_takes_what_all_of_them_take(
    model_folder: Any, tmp_path: Path
) -> None:
    grid = Grid.from_affine(np.eye(4), (64, 64, 64))
    files = (tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz")
    for file in files:
        write_volume(file, np.zeros((64, 64, 64), np.int16), grid)
    model = model_folder("two", channels=("t1", "t2"))
    asked = PredictConfig(
        inputs=files, models=(model.folder,), out=tmp_path / "out", device="cpu"
    )
    found = bulk.check_prediction(asked)
    need = bulk._predict_bytes(asked, *found, bulk._Headers())
    scan = scan_of(GivenCase("a", files))
    assert need == estimate(scan, [model], asked.settings).host_bytes
    assert scan.decoded_bytes == 2 * 2 * 64**3
    assert need != bulk.UNKNOWN_BYTES


@pytest.mark.parametrize("name", ["seg.nii.gz", "seg.ome.zarr"])
def test_labels_in_a_folder_of_scans_are_no_volumes_of_bulk(
    write_scan: Any, name: str
) -> None:
    scan = write_scan("a.nii.gz")
    grid = inspect_volume(scan).grid
    file, made = scan.with_name(name), np.ones(grid.shape, np.uint8)
    write_labels(file, made, grid, LabelSet.from_names(["liver"]))
    headers = bulk._Headers()
    kept, labels = bulk._labels_apart(find_cases([scan.parent]), headers)
    assert ([case.id for case in kept], labels) == (["a"], [file])
    assert bulk._labels_apart(find_cases([scan, file]), headers)[1] == []


def test_slurm_is_asked_after_each_header_was_read_once_and_none_of_slices(
    call: Call,
    scans: Path,
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damaged_corpus.dicom(scans)
    read: list[str] = []

    def counted(case: GivenCase, part: None) -> Scan:
        read.append(case.id)
        return scan_of(case, part)

    monkeypatch.setattr(bulk, "scan_of", counted)
    words = ("--model", model.folder, "--out", tmp_path / "out", "--device", "cpu")
    asked = ("bulk", "predict", scans, *words, "--slurm")
    status, _, told = call(*asked)
    assert status == 2
    assert "--slurm needs --workers" in told
    assert read == []
    status, _, told = call(*asked, "--workers", 1, "--slurm-set", "memory=1MB")
    assert status == 2
    assert "SLURM job asks for 1MB" in told
    assert read == ["case_0", "case_1", "case_2"]


def test_channels_of_cases_that_are_called_alike_are_told_for_one(
    write_scan: Any, model_folder: Any, tmp_path: Path
) -> None:
    for case in ("a", "b"):
        for number in range(2):
            write_scan(f"{case}_{number:04d}.nii.gz")
    models = [model_folder("two", channels=("t1", "t2"))]
    cases = find_cases([tmp_path / "scans"])
    told = list(bulk._told_channels(models, cases, bulk._Headers()))
    assert told == ["a: t1 = a_0000.nii.gz, t2 = a_0001.nii.gz."]


# ---- The report, and SLURM's script ----


def test_rate_counts_what_was_computed_alone() -> None:
    found = Report("bulk-predict", 10, began=time.time() - 3600)
    for number, state in enumerate(["there"] * 4 + ["done"] * 2):
        found.add(Outcome(str(number), state, 1.0, "host:1"))
    # Two in an hour; four are left, which takes two.
    assert found.per_hour == pytest.approx(2, rel=1e-3)
    assert found.seconds_left == pytest.approx(7200, rel=1e-2)
    assert found.summary == "2 done, 4 there already, 4 not begun"
