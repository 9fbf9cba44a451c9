"""The command predict from file to published results: whole, resumed, refused."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from kdseg_train import predict as predict_module
from kdseg_train.execute import execute
from napari_kdseg.errors import (
    KdsegError,
    ModelError,
    RunError,
    StopRequested,
    UsageError,
    VolumeError,
)
from napari_kdseg.inference.predict import Settings, predict_volume
from napari_kdseg.inference.regions import Claimant, shares, tally
from napari_kdseg.models.model import Model, Postprocessing
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.formats import (
    inspect_volume,
    read_labels,
    read_volume,
)
from napari_kdseg.volumes.labels import LabelSet

Prepare = Callable[..., Run]


@pytest.fixture
def prepare(tmp_path: Path, model_folder: Any, write_scan: Any) -> Prepare:
    """A prepared prediction of one scan by one model, unless told otherwise."""

    def make(**changes: Any) -> Run:
        out = tmp_path / "out"
        config: dict[str, Any] = {
            "version": 1,
            "command": "predict",
            "out": out,
            "device": "cpu",
        }
        if "inputs" not in changes:
            config["inputs"] = [write_scan()]
        if "models" not in changes:
            config["models"] = [model_folder().folder]
        return Run.create(out / ".run", config | changes)

    return make


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.events()[0] if event["event"] == kind]


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "prediction.json").read_text())
    return found


def flip_a_bit(path: Path) -> None:
    """Damage that the header does not show."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# ---- What is published ----


def test_labels_are_those_of_inference_on_the_grid_of_the_scan(
    prepare: Prepare, tmp_path: Path, write_scan: Any, model_folder: Any
) -> None:
    scan, model = write_scan(directions=(-1, 1, -1)), model_folder()
    execute(prepare(inputs=[scan], models=[model.folder]))
    labels, grid = read_labels(tmp_path / "out/case_1/organs/labels.nii.gz")
    expected = predict_volume(read_volume(scan), [model], Settings(uncertainty=None))
    np.testing.assert_array_equal(labels, expected.labels[0])
    assert len(np.unique(labels)) > 1
    assert grid.matches(inspect_volume(scan).grid)


def test_the_record_names_model_source_and_labels(
    prepare: Prepare, tmp_path: Path, write_scan: Any, model_folder: Any
) -> None:
    scan, model = write_scan(), model_folder()
    execute(prepare(inputs=[scan], models=[model.folder]))
    found = record(tmp_path / "out/case_1/organs")
    labels, _ = read_labels(tmp_path / "out/case_1/organs/labels.nii.gz")
    assert found["model"]["fingerprint"] == model.fingerprint
    assert found["labels"]["sha256"] == hashlib.sha256(labels.tobytes()).hexdigest()
    assert [item["name"] for item in found["labels"]["classes"]] == ["liver", "spleen"]
    assert found["source"][0]["path"] == str(scan)


def test_uncertainty_is_that_of_inference_to_one_in_255(
    prepare: Prepare, tmp_path: Path, write_scan: Any, model_folder: Any
) -> None:
    scan, model = write_scan(), model_folder()
    execute(prepare(inputs=[scan], models=[model.folder], uncertainty="entropy"))
    stored = read_volume(tmp_path / "out/case_1/organs/uncertainty.nii.gz").data[0]
    expected = predict_volume(read_volume(scan), [model], Settings())
    assert expected.uncertainty is not None
    assert np.abs(stored - expected.uncertainty[0]).max() <= 0.5 / 255 + 1e-6
    assert stored.max() <= 1.0


def test_probabilities_add_up_to_one(prepare: Prepare, tmp_path: Path) -> None:
    execute(prepare(probabilities=True))
    stored = read_volume(tmp_path / "out/case_1/organs/probabilities.nii.gz")
    np.testing.assert_allclose(np.asarray(stored.data).sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "wanted", "ending"),
    [
        ("a.nii.gz", "source", ".nii.gz"),
        ("a.nii", "source", ".nii"),
        ("a.ome.zarr", "source", ".ome.zarr"),
        ("a.nii.gz", "ome-zarr", ".ome.zarr"),
        ("a.ome.zarr", "nifti", ".nii.gz"),
    ],
)
def test_results_have_the_format_asked_for(
    prepare: Prepare,
    tmp_path: Path,
    write_scan: Any,
    name: str,
    wanted: str,
    ending: str,
) -> None:
    scan = write_scan(name)
    execute(prepare(inputs=[scan], format=wanted, uncertainty="margin"))
    folder = tmp_path / "out/a/organs"
    labels, grid = read_labels(folder / f"labels{ending}")
    uncertainty = read_volume(folder / f"uncertainty{ending}")
    assert grid.matches(inspect_volume(scan).grid)
    assert uncertainty.grid.matches(grid)
    assert 0 <= np.asarray(uncertainty.data).min() < np.asarray(uncertainty.data).max()
    assert labels.any()


@pytest.mark.parametrize("at_once_vox", [1 << 26, 0])
def test_clean_up_of_the_card_is_applied(
    prepare: Prepare,
    tmp_path: Path,
    write_scan: Any,
    model_folder: Any,
    monkeypatch: pytest.MonkeyPatch,
    at_once_vox: int,
) -> None:
    monkeypatch.setattr("kdseg_train.publish.CLEANED_AT_ONCE_VOX", at_once_vox)
    scan = write_scan()
    rules = Postprocessing(
        keep_largest={"liver": 1}, fill_holes=("liver",), minimum_mm3=20
    )
    model = model_folder(postprocessing=rules)
    execute(prepare(inputs=[scan], models=[model.folder], regions=True))
    labels, _ = read_labels(tmp_path / "out/case_1/organs/labels.nii.gz")
    expected = predict_volume(read_volume(scan), [model], Settings(uncertainty=None))
    np.testing.assert_array_equal(labels, expected.labels[0])
    bits, _ = read_labels(tmp_path / "out/case_1/regions.nii.gz")
    np.testing.assert_array_equal(bits == 1, labels == 1)


def test_channels_in_files_of_their_own_are_one_case(
    prepare: Prepare, tmp_path: Path, write_scan: Any, model_folder: Any
) -> None:
    folder = tmp_path / "imagesTs"
    for channel in range(2):
        write_scan(f"brain_{channel:04d}.nii.gz", folder=folder)
    model = model_folder(channels=("T1", "T2"))
    execute(prepare(inputs=[folder], models=[model.folder]))
    assert (tmp_path / "out/brain/organs/labels.nii.gz").exists()
    files = record(tmp_path / "out/brain/organs")["source"]
    shown = [(Path(file["path"]).name, file["channels"]) for file in files]
    assert shown == [("brain_0000.nii.gz", ["T1"]), ("brain_0001.nii.gz", ["T2"])]


def test_a_folder_of_scans_is_a_case_each(
    prepare: Prepare, tmp_path: Path, write_scan: Any
) -> None:
    write_scan("a.nii.gz")
    folder = write_scan("b.nii").parent
    run = prepare(inputs=[folder])
    execute(run)
    assert [event["case"] for event in events(run, "prediction")] == ["a", "b"]


def test_nothing_partial_is_left(prepare: Prepare, tmp_path: Path) -> None:
    run = prepare()
    execute(run)
    assert list(run.partial.iterdir()) == []
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".run", "case_1"}


# ---- Several teachers ----


@pytest.fixture
def teachers(model_folder: Any) -> list[Path]:
    return [
        model_folder("teacher-liver", ("liver",), role="teacher").folder,
        model_folder("teacher-spleen", ("spleen",), role="teacher").folder,
    ]


def test_regions_hold_who_claims_what(
    prepare: Prepare, tmp_path: Path, teachers: list[Path]
) -> None:
    execute(prepare(models=teachers, regions=True))
    case = tmp_path / "out/case_1"
    bits, _ = read_labels(case / "regions.nii.gz")
    liver, _ = read_labels(case / "teacher-liver/labels.nii.gz")
    spleen, _ = read_labels(case / "teacher-spleen/labels.nii.gz")
    np.testing.assert_array_equal(bits, (liver == 1) + 2 * (spleen == 1))
    legend = json.loads((case / "regions.json").read_text())
    known = [
        Claimant("teacher-liver", "liver", 1),
        Claimant("teacher-spleen", "spleen", 2),
    ]
    expected = shares(tally(bits), known, "sum")
    assert {key: legend[key] for key in expected} == expected


def test_a_student_claims_nothing_but_names_the_values(
    prepare: Prepare, tmp_path: Path, teachers: list[Path], model_folder: Any
) -> None:
    names = LabelSet.from_names(["spleen", "kidney", "liver"])
    student = model_folder("student", names.names, role="student").folder
    execute(prepare(models=[student, *teachers], regions=True))
    legend = json.loads((tmp_path / "out/case_1/regions.json").read_text())
    found = [(item["class"], item["value"]) for item in legend["claimants"]]
    assert found == [("liver", 3), ("spleen", 1)]


def test_fused_uncertainty_is_the_largest_of_the_teachers(
    prepare: Prepare, tmp_path: Path, teachers: list[Path], model_folder: Any
) -> None:
    student = model_folder("student", role="student").folder
    execute(prepare(models=[*teachers, student], uncertainty="entropy"))
    case = tmp_path / "out/case_1"
    fused, liver, spleen = (
        np.asarray(read_volume(folder / "uncertainty.nii.gz").data)
        for folder in (case, case / "teacher-liver", case / "teacher-spleen")
    )
    np.testing.assert_array_equal(fused, np.maximum(liver, spleen))


@pytest.mark.parametrize("first", ["student", "teachers"])
def test_models_join_the_results_of_others(
    prepare: Prepare,
    tmp_path: Path,
    write_scan: Any,
    teachers: list[Path],
    model_folder: Any,
    first: str,
) -> None:
    scan, student = write_scan(), model_folder("student", role="student").folder
    alone = {"models": [student]}
    together = {"models": [student, *teachers], "regions": True}
    steps = [alone, together] if first == "student" else [together, alone]
    config = prepare(inputs=[scan], models=teachers, uncertainty="entropy").config
    for number, models in enumerate(steps):
        execute(Run.create(tmp_path / f"run-{number}", config | models))
    names = {path.name for path in (tmp_path / "out/case_1").iterdir()}
    folders = {"student", "teacher-liver", "teacher-spleen"}
    assert names == folders | {"regions.nii.gz", "regions.json", "uncertainty.nii.gz"}


def test_regions_of_some_teachers_never_become_those_of_others(
    prepare: Prepare, tmp_path: Path, teachers: list[Path]
) -> None:
    run = prepare(models=teachers[:1])
    execute(run)
    both = run.config | {"models": teachers, "regions": True}
    with pytest.raises(RunError, match="never changes"):
        execute(Run.create(tmp_path / "again", both))
    assert {path.name for path in (tmp_path / "out/case_1").iterdir()} == {
        "teacher-liver"
    }


# ---- Looking on ----


@pytest.fixture
def stopped_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run, int], None]:
    """Execute a run until some tiles are done, then stop it as a person would.

    The next tile may be computed before the stop is seen, and must not be the last.
    """

    def execute_some(run: Run, tiles: int) -> None:
        original = predict_module.Partial.add

        def add(partial: Any, tile: Any) -> None:
            original(partial, tile)
            nonlocal tiles
            tiles -= 1
            if tiles == 0:
                run.request_stop()

        with monkeypatch.context() as patched:
            patched.setattr(predict_module.Partial, "add", add)
            with pytest.raises(StopRequested):
                execute(run)

    return execute_some


def test_finished_tiles_can_be_looked_at(
    prepare: Prepare, stopped_after: Callable[[Run, int], None]
) -> None:
    run = prepare(uncertainty="entropy", regions=True)
    stopped_after(run, 1)
    labels = zarr.open_array(run.partial / "case_1/organs/labels.zarr", mode="r")
    assert labels.shape == (20, 24, 32)
    assert 0 < labels.nchunks_initialized < labels.nchunks
    done = events(run, "progress")[-1]
    z, y, x = (slice(*span) for span in done["box"])
    assert (z.start, y, x) == (0, slice(0, 24), slice(0, 32))
    assert labels[z].any()
    assert not labels[z.stop :].any()
    assert "claimants" in json.loads((run.partial / "case_1/regions.json").read_text())


def test_a_stopped_run_publishes_nothing(
    prepare: Prepare, tmp_path: Path, stopped_after: Callable[[Run, int], None]
) -> None:
    run = prepare()
    stopped_after(run, 1)
    assert run.state() == "stopped"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".run"]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_slice_in_view_comes_first_and_is_right(
    prepare: Prepare, tmp_path: Path, stopped_after: Any, axis: int
) -> None:
    run = prepare(preview=(axis, 5))
    stopped_after(run, 1)
    kinds = [event["event"] for event in run.events()[0]]
    assert kinds.index("preview") < len(kinds) - kinds[::-1].index("progress")
    shown = zarr.open_array(run.partial / "case_1/organs/labels.zarr", mode="r")[...]
    execute(run)
    labels, _ = read_labels(tmp_path / "out/case_1/organs/labels.nii.gz")
    np.testing.assert_array_equal(shown.take(5, axis), labels.take(5, axis))


def test_progress_runs_from_none_to_all(prepare: Prepare) -> None:
    run = prepare()
    execute(run)
    steps = [event["step"] for event in events(run, "progress")]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, 1000)


# ---- Going on ----


def test_progress_goes_on_from_what_was_done(
    prepare: Prepare, stopped_after: Any
) -> None:
    run = prepare()
    stopped_after(run, 1)
    before = events(run, "progress")[-1]["step"]
    _, byte = run.events()
    execute(run)
    told = [event for event in run.events(byte)[0] if event["event"] == "progress"]
    assert [event["step"] for event in told[:2]] == [before, before]
    assert "box" not in told[1], "before the first tile"


@pytest.mark.parametrize("directions", [(1, 1, 1), (1, 1, -1)])
def test_a_resumed_case_has_the_labels_of_a_whole_one(
    prepare: Prepare,
    tmp_path: Path,
    write_scan: Any,
    model_folder: Any,
    stopped_after: Any,
    directions: tuple[int, int, int],
) -> None:
    scan, model = write_scan(directions=directions), model_folder()
    run = prepare(inputs=[scan], models=[model.folder])
    stopped_after(run, 1)
    computed: list[Any] = []
    original = predict_module.Partial.add
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            predict_module.Partial,
            "add",
            lambda self, tile: (computed.append(tile.index), original(self, tile)),
        )
        execute(run)
    labels, _ = read_labels(tmp_path / "out/case_1/organs/labels.nii.gz")
    whole = predict_volume(read_volume(scan), [model], Settings(uncertainty=None))
    np.testing.assert_array_equal(labels, whole.labels[0])
    assert sum(index[0].stop - index[0].start for index in computed) < 20


def test_a_tile_that_was_damaged_is_computed_again(
    prepare: Prepare,
    tmp_path: Path,
    write_scan: Any,
    model_folder: Any,
    stopped_after: Any,
) -> None:
    scan, model = write_scan(), model_folder()
    run = prepare(inputs=[scan], models=[model.folder])
    stopped_after(run, 1)
    labels = zarr.open_array(run.partial / "case_1/organs/labels.zarr", mode="r+")
    labels[0, 0, 0] = 77
    execute(run)
    stored, _ = read_labels(tmp_path / "out/case_1/organs/labels.nii.gz")
    whole = predict_volume(read_volume(scan), [model], Settings(uncertainty=None))
    np.testing.assert_array_equal(stored, whole.labels[0])


def test_a_file_that_was_replaced_is_begun_anew(
    prepare: Prepare,
    tmp_path: Path,
    write_scan: Any,
    model_folder: Any,
    stopped_after: Any,
) -> None:
    scan, model = write_scan(), model_folder()
    run = prepare(inputs=[scan], models=[model.folder])
    stopped_after(run, 1)
    other = write_scan("other.nii.gz")
    other.replace(scan)
    execute(run)
    stored, _ = read_labels(tmp_path / "out/case_1/organs/labels.nii.gz")
    whole = predict_volume(read_volume(scan), [model], Settings(uncertainty=None))
    np.testing.assert_array_equal(stored, whole.labels[0])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.parametrize("format_", ["nifti", "ome-zarr"])
def test_a_killed_prediction_computes_at_most_one_slab_anew(
    prepare: Prepare,
    tmp_path: Path,
    write_scan: Any,
    model_folder: Any,
    format_: str,
) -> None:
    scan = write_scan(shape=(160, 32, 32))
    model = model_folder()
    run = prepare(inputs=[scan], models=[model.folder], format=format_)
    for kills in range(1, 3):
        killed_after(run, slabs=3 * kills)
        assert run.state() == "interrupted"
        assert not (tmp_path / "out/case_1").exists()
    computed = planes_computed(run)
    execute(run)
    known = len(computed)
    again = planes_computed(run)[known:]
    # What was told is on the disk; only the slab at hand when the kill came is lost.
    assert min(again) >= max(computed) + 1
    assert [*computed, *again] == sorted({*computed, *again})
    ending = {"nifti": ".nii.gz", "ome-zarr": ".ome.zarr"}[format_]
    labels, _ = read_labels(tmp_path / f"out/case_1/organs/labels{ending}")
    whole = predict_volume(read_volume(scan), [model], Settings(uncertainty=None))
    np.testing.assert_array_equal(labels, whole.labels[0])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
@pytest.mark.parametrize(
    ("name", "status"), [("SIGINT", 3), ("SIGTERM", 75), ("SIGUSR1", 75)]
)
def test_a_signal_within_a_volume_ends_the_command_as_its_help_says(
    tmp_path: Path, write_scan: Any, model_folder: Any, name: str, status: int
) -> None:
    scan, out = write_scan(shape=(160, 32, 32)), tmp_path / "out"
    words = ["predict", scan, "--model", model_folder().folder, "--out", out]
    command = [sys.executable, "-m", "kdseg_train", *words, "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (out / ".run/config.yaml").exists() or not boxes(Run.open(out / ".run")):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Stopped as asked after" in said  # within the volume, and not before it
    assert events(Run.open(out / ".run"), "stopped")[-1]["requeue"] is (status == 75)


def killed_after(run: Run, slabs: int) -> None:
    """Execute in a process of its own until it told of so many slabs, and kill it."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_ONE, str(run.folder)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 600
    while len(boxes(run)) < slabs:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def boxes(run: Run) -> list[Any]:
    """Where the slabs lie that a run told of."""
    return [event["box"] for event in events(run, "progress") if "box" in event]


def planes_computed(run: Run) -> list[int]:
    """Planes of the slabs that a run told of, in its order."""
    return [plane for box in boxes(run) for plane in range(*box[0])]


RUN_ONE = (
    "import sys; from pathlib import Path; from napari_kdseg.runs.run import Run; "
    "from kdseg_train.execute import execute; execute(Run.open(Path(sys.argv[1])))"
)


def test_published_cases_are_left_as_they_are(
    prepare: Prepare, tmp_path: Path, write_scan: Any
) -> None:
    first, second = write_scan("a.nii.gz"), write_scan("b.nii.gz")
    flip_a_bit(second)
    run = prepare(inputs=[first, second])
    with pytest.raises(VolumeError, match=r"b\.nii\.gz"):
        execute(run)
    before = record(tmp_path / "out/a/organs")["uuid"]
    write_scan("b.nii.gz")
    execute(run)
    assert record(tmp_path / "out/a/organs")["uuid"] == before
    assert (tmp_path / "out/b/organs/labels.nii.gz").exists()


def test_results_of_another_model_are_not_taken_for_these(
    prepare: Prepare, tmp_path: Path, stopped_after: Any
) -> None:
    run = prepare()
    stopped_after(run, 1)
    (tmp_path / "out/case_1/organs").mkdir(parents=True)
    (tmp_path / "out/case_1/organs/prediction.json").write_text(
        '{"model": {"fingerprint": "other"}}'
    )
    with pytest.raises(RunError, match="results of other models"):
        execute(run)


# ---- What is refused ----


def refused(run: Run, error: type[KdsegError], says: str) -> None:
    """The run fails, says so, and publishes nothing."""
    with pytest.raises(error, match=says):
        execute(run)
    assert run.state() == "failed"
    assert [path.name for path in Path(run.config["out"]).iterdir()] == [".run"]


def test_two_scans_of_one_name_are_refused(
    prepare: Prepare, tmp_path: Path, write_scan: Any
) -> None:
    twins = [write_scan(folder=tmp_path / name) for name in ("one", "two")]
    refused(prepare(inputs=twins), UsageError, r"both called 'case_1'")


def test_two_models_of_one_name_are_refused(
    prepare: Prepare, tmp_path: Path, model_folder: Any
) -> None:
    first = model_folder().folder
    second = first.rename(tmp_path / "copy")
    models = [second, model_folder().folder]
    refused(prepare(models=models), UsageError, r"both called 'organs'")


def test_a_scan_with_too_many_channels_is_refused(
    prepare: Prepare, write_scan: Any
) -> None:
    scan = write_scan(shape=(2, 12, 16, 16))
    refused(prepare(inputs=[scan]), ModelError, r"case_1\.nii\.gz has 2 channels")


def test_a_missing_scan_is_refused(prepare: Prepare, tmp_path: Path) -> None:
    missing = tmp_path / "missing.nii.gz"
    refused(prepare(inputs=[missing]), UsageError, "does not exist")


def test_a_file_that_is_no_volume_is_refused(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    refused(
        prepare(inputs=[tmp_path / "notes.txt"]),
        VolumeError,
        r"notes\.txt is of no kind we know",
    )


def test_a_preview_outside_the_scan_is_refused(prepare: Prepare) -> None:
    refused(prepare(preview=(0, 20)), UsageError, "preview 0,20 is no slice")


def test_an_unknown_uncertainty_is_refused(prepare: Prepare) -> None:
    refused(prepare(uncertainty="doubt"), UsageError, "no uncertainty 'doubt'")


def test_results_of_other_settings_are_not_taken_for_these(
    prepare: Prepare, tmp_path: Path
) -> None:
    run = prepare()
    execute(run)
    again = Run.create(tmp_path / "again", run.config | {"uncertainty": "entropy"})
    with pytest.raises(RunError, match="models, files or settings"):
        execute(again)
    assert not (tmp_path / "out/case_1/organs/uncertainty.nii.gz").exists()


def test_results_of_a_file_of_the_same_name_are_not_taken_for_these(
    prepare: Prepare, tmp_path: Path, write_scan: Any
) -> None:
    scan = write_scan()
    run = prepare(inputs=[scan])
    execute(run)
    write_scan("other.nii.gz").replace(scan)
    with pytest.raises(RunError, match="models, files or settings"):
        execute(Run.create(tmp_path / "again", run.config))


def test_the_same_prediction_again_only_points_to_its_results(
    prepare: Prepare, tmp_path: Path
) -> None:
    run = prepare()
    execute(run)
    before = record(tmp_path / "out/case_1/organs")
    again = Run.create(tmp_path / "again", run.config)
    execute(again)
    (told,) = events(again, "prediction")
    assert told["folder"] == str(tmp_path / "out/case_1")
    assert record(tmp_path / "out/case_1/organs") == before


@pytest.fixture
def scan_with_nan(write_scan: Any) -> Path:
    data = np.zeros((20, 24, 32), np.float32)
    data[3, 4, 5] = np.nan
    path: Path = write_scan(data=data)
    return path


def test_voxels_that_are_not_finite_are_refused(
    prepare: Prepare, scan_with_nan: Path
) -> None:
    refused(prepare(inputs=[scan_with_nan]), VolumeError, "--fill-nonfinite")


def test_voxels_that_are_not_finite_are_filled(
    prepare: Prepare, tmp_path: Path, scan_with_nan: Path
) -> None:
    execute(prepare(inputs=[scan_with_nan], fill_nonfinite=0.0))
    assert (tmp_path / "out/case_1/organs/labels.nii.gz").exists()


def test_a_damaged_scan_does_not_keep_the_others_back(
    prepare: Prepare, tmp_path: Path, write_scan: Any
) -> None:
    bad, good = write_scan("a.nii.gz"), write_scan("b.nii.gz")
    flip_a_bit(bad)
    run = prepare(inputs=[bad, good])
    with pytest.raises(VolumeError, match=r"a\.nii\.gz"):
        execute(run)
    assert not (tmp_path / "out/a").exists()
    assert (tmp_path / "out/b/organs/labels.nii.gz").exists()
    assert "a.nii.gz" in events(run, "warning")[0]["message"]


def test_a_full_disk_publishes_nothing(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdseg_train.publish.write_labels", full)
    with pytest.raises(OSError, match="No space left"):
        execute(prepare())
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".run"]


# ---- Warm networks ----


def test_a_network_is_built_once(
    prepare: Prepare, tmp_path: Path, write_scan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Path] = []
    original = Model.network
    monkeypatch.setattr(
        Model,
        "network",
        lambda self, device: built.append(self.folder) or original(self, device),
    )
    predict_module._network.cache_clear()
    execute(prepare(inputs=[write_scan("a.nii.gz"), write_scan("b.nii.gz")]))
    assert len(built) == 1
