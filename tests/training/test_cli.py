"""The command line: what it imports, what it says, how it ends."""

import gzip
import json
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml

from kdseg_train import execute as execute_module
from napari_kdseg.errors import KdsegError, StopRequested
from napari_kdseg.inference.settings import UNCERTAINTIES
from napari_kdseg.runs.run import Run

COMMANDS = (
    *("sample", "new", "fit", "predict", "evaluate"),
    *("run", "work", "describe", "doctor", "presets"),
)


# ---- Help ----


def test_the_module_is_the_command() -> None:
    words = [sys.executable, "-m", "kdseg_train", "--help"]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    assert "Usage: kdseg-train" in done.stdout


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_has_help(call: Any, command: str) -> None:
    status, out, _ = call(*command.split(), "--help")
    assert status == 0
    assert "Usage: kdseg-train" in out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom kdseg_train.cli import main\n"
        "try:\n    main(['predict', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {*'torch monai napari qtpy dask numpy scipy zarr'.split()}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_no_command_imports_the_viewer() -> None:
    code = (
        "import sys\nfrom kdseg_train import doctor, evaluate, methods, predict, work\n"
        "viewer = {'napari', 'qtpy', 'PyQt6', 'superqt', 'magicgui', 'psygnal'}\n"
        "sys.exit(str(viewer & set(sys.modules)) if viewer & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- Exit status ----


@pytest.mark.parametrize(
    "words",
    [["fly"], ["predict"], ["predict", "--fly"], ["sample", "abdomen", "--cases", "x"]],
)
def test_a_command_that_is_not_understood_ends_with_2(
    call: Any, words: list[str]
) -> None:
    assert call(*words)[0] == 2


def fail(error: Exception) -> Callable[[Run], None]:
    def command(run: Run) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KdsegError("The scan is no good."), "The scan is no good."),
        (OSError(28, "No space left on device", "x"), "x: No space left on device. M"),
        (OSError(30, "Read-only file system", f"x.partial-{0:032}"), "x: Read-only "),
        (ZeroDivisionError("by nought"), "ZeroDivisionError: by nought"),
    ],
)
def test_an_error_is_one_line_and_ends_with_1(
    call: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    says: str,
) -> None:
    monkeypatch.setattr(execute_module, "COMMANDS", {"fail": fail(error)})
    run = Run.create(tmp_path / "run", {"version": 1, "command": "fail"})
    status, _, said = call("run", run.folder)
    (line,) = [line for line in said.splitlines() if line.startswith("kdseg-train:")]
    assert status == 1
    assert says in line
    assert "Traceback" not in said


@pytest.mark.parametrize("place", [0, 2])
def test_debug_shows_the_traceback(call: Any, tmp_path: Path, place: int) -> None:
    words = ["run", str(tmp_path)]
    words.insert(place, "--debug")
    assert "Traceback" in call(*words)[2]


def test_a_run_with_an_unknown_command_is_refused(call: Any, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {"version": 1, "command": "fly"})
    status, _, said = call("run", run.folder)
    assert status == 1
    assert "asks for 'fly'; a run can fit, predict, predict-each, evaluate" in said


WAIT_FOR_STOP = """
import time
from pathlib import Path
from kdseg_train import cli, execute
from napari_kdseg.runs.run import Run

def wait(run):
    for step in range(1000):
        run.check_stop()
        run.progress(step, 1000)
        time.sleep(0.02)

execute.COMMANDS["wait"] = wait
cli.script()
"""


ENDS = """
import atexit, sys
from kdseg_train import cli

def work():
    atexit.register(print, "tidied up")
    print("all of it", end="")
    sys.exit(3)

cli.main = work
cli.script()
"""


@pytest.mark.parametrize(("end", "status"), [("3", 3), ("None", 0), ("'no'", 1)])
def test_a_process_that_ends_at_once_still_says_all_and_tidies_up(
    end: str, status: int
) -> None:
    words = [sys.executable, "-c", ENDS.replace("exit(3)", f"exit({end})")]
    done = subprocess.run(words, check=False, stdout=subprocess.PIPE, text=True)
    assert done.returncode == status
    assert done.stdout == "all of ittidied up\n"


STILL_READING = """
import time
from kdseg_train import cli

def read():
    print("reading", flush=True)
    time.sleep(60)

cli.main = read
cli.script()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_machine_that_is_taken_back_before_a_run_begins_ends_it_with_75(
    name: str,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STILL_READING],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=20)
    assert process.returncode == 75
    assert "stopped to make way" in said


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize(
    ("name", "status"), [("SIGINT", 3), ("SIGTERM", 75), ("SIGUSR1", 75)]
)
def test_a_signal_stops_a_run_in_good_order_with_3_or_to_go_on_later_with_75(
    tmp_path: Path, name: str, status: int
) -> None:
    run = Run.create(tmp_path / "run", {"version": 1, "command": "wait"})
    process = subprocess.Popen(
        [sys.executable, "-c", WAIT_FOR_STOP, "run", run.folder],
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(run.events()[0]) < 2:
        time.sleep(0.02)
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=20)
    assert process.returncode == status
    assert run.state() == "stopped"
    assert run.events()[0][-1]["requeue"] is (status == 75)
    assert "what is finished is kept. The same command goes on with it." in said


@pytest.mark.parametrize("words", [("--resume",), ()])
@pytest.mark.parametrize("asked", ["stop", "requeue"])
def test_a_prediction_that_was_stopped_says_how_to_go_on(
    predict: Any,
    write_scan: Any,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    words: tuple[str, ...],
) -> None:
    def stop(run: Run) -> None:
        (run.folder / asked).touch()
        raise StopRequested("case_1: Stopped as asked after 3 of 9 windows.")

    monkeypatch.setattr(execute_module, "COMMANDS", {"predict": stop})
    status, _, said = predict(write_scan(), *words)
    assert status == {"stop": 3, "requeue": 75}[asked]
    how = "The same command" if words else "The same command with --resume"
    assert_one_sentence(said, f"after 3 of 9 windows. {how} goes on with it.")


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_a_second_ctrl_c_ends_a_run_at_once(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {"version": 1, "command": "wait"})
    stubborn = WAIT_FOR_STOP.replace("run.check_stop()", "pass")
    process = subprocess.Popen(
        [sys.executable, "-c", stubborn, "run", run.folder],
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(run.events()[0]) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    while not run.stop_requested():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode not in {0, 1}
    assert run.state() == "stopped"


# ---- predict ----


@pytest.fixture
def predict(
    call: Any, tmp_path: Path, model_folder: Any
) -> Callable[..., tuple[int, str, str]]:
    """Predict a scan with a model of one channel and two classes."""

    def run(scan: Path, *more: object) -> tuple[int, str, str]:
        model = tmp_path / "models/organs"
        if not model.exists():
            model_folder()
        words = ("--model", model, "--out", tmp_path / "out", "--device", "cpu")
        status, out, err = call("predict", scan, *words, *more)
        return status, out, err

    return run


def assert_one_sentence(said: str, *parts: str) -> None:
    lines = [line for line in said.splitlines() if line.startswith("kdseg-train:")]
    assert len(lines) == 1, said
    for part in parts:
        assert part in lines[0]
    assert "Traceback" not in said


def published(tmp_path: Path) -> list[str]:
    out = tmp_path / "out"
    found = out.iterdir() if out.exists() else ()
    return sorted(path.name for path in found if not path.name.startswith(".run"))


def test_predict_publishes_and_says_where(
    predict: Any, tmp_path: Path, write_scan: Any
) -> None:
    status, _, said = predict(write_scan(), "--uncertainty", "entropy", "--regions")
    assert status == 0, said
    assert published(tmp_path) == ["case_1"]
    names = {path.name for path in (tmp_path / "out/case_1").rglob("*.*")}
    assert names == {
        "labels.nii.gz",
        "uncertainty.nii.gz",
        "prediction.json",
        "regions.nii.gz",
        "regions.json",
    }


def test_predict_again_is_refused_and_changes_nothing(
    predict: Any, tmp_path: Path, write_scan: Any
) -> None:
    scan = write_scan()
    predict(scan)
    labels = tmp_path / "out/case_1/organs/labels.nii.gz"
    before = labels.read_bytes(), labels.stat().st_mtime_ns
    status, _, said = predict(scan)
    assert status == 2
    assert_one_sentence(said, "case_1", "exists already", "--resume")
    assert (labels.read_bytes(), labels.stat().st_mtime_ns) == before


def test_predict_again_with_resume_has_nothing_to_do(
    predict: Any, write_scan: Any
) -> None:
    scan = write_scan()
    predict(scan)
    assert predict(scan, "--resume")[0] == 0


def test_another_scan_goes_into_the_same_folder(
    predict: Any, tmp_path: Path, write_scan: Any
) -> None:
    predict(write_scan("a.nii.gz"))
    status, _, said = predict(write_scan("b.nii.gz"))
    assert status == 0, said
    assert published(tmp_path) == ["a", "b"]


def test_what_is_missing_is_predicted_with_resume(
    predict: Any, tmp_path: Path, write_scan: Any
) -> None:
    first = write_scan("a.nii.gz")
    predict(first)
    write_scan("b.nii.gz")
    status, _, said = predict(first.parent, "--resume")
    assert status == 0, said
    assert published(tmp_path) == ["a", "b"]


def test_another_model_joins_the_results_of_a_case(
    predict: Any, call: Any, tmp_path: Path, write_scan: Any, model_folder: Any
) -> None:
    scan = write_scan()
    predict(scan)
    before = (tmp_path / "out/case_1/organs/prediction.json").read_bytes()
    student = model_folder("student").folder
    words = ("--model", student, "--out", tmp_path / "out", "--device", "cpu")
    status, _, said = call("predict", scan, *words)
    assert status == 0, said
    names = {path.name for path in (tmp_path / "out/case_1").iterdir()}
    assert names == {"organs", "student"}
    assert (tmp_path / "out/case_1/organs/prediction.json").read_bytes() == before


def test_a_prediction_goes_on_with_another_number_of_threads(
    predict: Any, tmp_path: Path, write_scan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, found = write_scan(), []

    def half(run: Run) -> None:
        found.append((run.config["threads"], (run.partial / "half").exists()))
        (run.partial / "half").touch()
        raise StopRequested("case_1: Stopped as asked after 3 of 9 windows.")

    monkeypatch.setattr(execute_module, "COMMANDS", {"predict": half})
    predict(scan, "--threads", "2")
    predict(scan, "--threads", "1", "--resume")
    assert found == [(2, False), (1, True)]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".run"]


def test_another_model_does_not_join_the_results_of_another_file(
    predict: Any, call: Any, tmp_path: Path, write_scan: Any, model_folder: Any
) -> None:
    predict(write_scan())
    other = write_scan(folder=tmp_path / "other")
    words = ("--model", model_folder("student").folder, "--out", tmp_path / "out")
    status, _, said = call("predict", other, *words, "--device", "cpu")
    assert status == 2
    assert_one_sentence(said, "case_1 exists already")


def test_a_failed_prediction_is_repeated_with_another_setting(
    predict: Any, tmp_path: Path, write_scan: Any
) -> None:
    data = np.full((20, 24, 32), np.nan, np.float32)
    scan = write_scan(data=data)
    assert predict(scan)[0] == 1
    status, _, said = predict(scan, "--fill-nonfinite", "0")
    assert status == 0, said


@pytest.mark.parametrize("preview", ["5", "1,2,3", "z,5"])
def test_a_preview_is_told_what_it_is_made_of(
    predict: Any, write_scan: Any, preview: str
) -> None:
    status, _, said = predict(write_scan(), "--preview", preview)
    assert status == 2
    assert_one_sentence(said, f"--preview is '{preview}'", "0,12 (AXIS,INDEX)")


def test_no_uncertainty_can_be_asked_for(
    predict: Any, write_scan: Any, tmp_path: Path
) -> None:
    status, _, said = predict(write_scan(), "--uncertainty", "none")
    assert status == 0, said
    assert not list((tmp_path / "out").rglob("uncertainty*"))


@pytest.mark.parametrize("command", ["predict", "bulk predict"])
def test_help_lists_every_uncertainty(call: Any, command: str) -> None:
    _, told, _ = call(*command.split(), "--help")
    words = re.sub(r"[\s│]+", "", told)  # names are broken where a column ends
    assert all(name in words for name in (*UNCERTAINTIES, "none"))


def test_a_tile_that_is_no_number_is_refused(predict: Any, write_scan: Any) -> None:
    status, _, said = predict(write_scan(), "--tile", "big")
    assert status == 2
    assert_one_sentence(said, "--tile is 'big'")


def test_the_help_names_a_tile_for_either_kind_of_model(call: Any) -> None:
    told = " ".join(call("predict", "--help")[1].replace("\u2502", " ").split())
    assert "64,64 for a 2D model" in told
    assert "64,128,128 (z, y, x) for a 3D one" in told


def test_an_unknown_format_is_refused(predict: Any, write_scan: Any) -> None:
    status, _, said = predict(write_scan(), "--format", "dicom")
    assert status == 2
    assert_one_sentence(said, "format", "'dicom'")


# ---- Bad input: one sentence, status 1 or 2, nothing published ----


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def promise_more(path: Path) -> None:
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[42:44] = (4000).to_bytes(2, sys.byteorder)  # dim[1]
    path.write_bytes(gzip.compress(bytes(data)))


def five_dimensions(path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4, 2, 2), np.float32), np.eye(4))
    nibabel.save(image, path)


def nonfinite(path: Path) -> None:
    data = np.zeros((8, 8, 8), np.float32)
    data[1, 2, 3] = np.inf
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate, ""),
        (flip, ""),
        (promise_more, "4000"),
        (five_dimensions, ""),
        (nonfinite, "--fill-nonfinite"),
        (empty, ""),
    ],
)
def test_a_bad_scan_is_refused(
    predict: Any,
    tmp_path: Path,
    write_scan: Any,
    damage: Callable[[Path], None],
    says: str,
) -> None:
    scan = write_scan()
    damage(scan)
    status, _, said = predict(scan)
    assert status == 1
    assert_one_sentence(said, "case_1.nii.gz", says)
    assert published(tmp_path) == []


def test_a_scan_with_the_wrong_channels_is_refused(
    predict: Any, tmp_path: Path, write_scan: Any
) -> None:
    status, _, said = predict(write_scan(shape=(3, 20, 24, 32)))
    assert status == 1
    assert_one_sentence(said, "case_1.nii.gz has 3 channels", "organs takes 1 (image)")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_a_pickle_are_refused(
    predict: Any, tmp_path: Path, write_scan: Any, model_folder: Any
) -> None:
    model = model_folder()
    (model.folder / "weights.safetensors").write_bytes(pickle.dumps({"w": 1}))
    status, _, said = predict(write_scan())
    assert status == 1
    assert_one_sentence(said, "weights.safetensors", "pickle")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["predict", "bulk predict"])
@pytest.mark.parametrize("missing", ["model", "scan"])
def test_a_model_or_a_scan_that_is_not_there_is_wrong_use(
    call: Any,
    write_scan: Any,
    model_folder: Any,
    tmp_path: Path,
    command: str,
    missing: str,
) -> None:
    places = {"model": model_folder().folder, "scan": write_scan()}
    places[missing] = tmp_path / "nothing"
    words = ("--model", places["model"], "--out", tmp_path / "out")
    status, _, said = call(*command.split(), places["scan"], *words)
    assert status == 2
    assert_one_sentence(said, "nothing does not exist")


def test_a_file_in_place_of_a_model_is_an_error_of_the_model(
    call: Any, write_scan: Any, tmp_path: Path
) -> None:
    scan = write_scan()
    status, _, said = call("predict", scan, "--model", scan, "--out", tmp_path / "out")
    assert status == 1
    assert_one_sentence(said, "case_1.nii.gz is a file; a model is a folder")


def test_a_folder_that_is_no_data_set_is_refused(predict: Any, tmp_path: Path) -> None:
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "letter.txt").touch()
    status, _, said = predict(folder)
    assert status == 2
    assert_one_sentence(said, "letters is no data set")


@pytest.fixture
def evaluate(call: Any, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Compare labels, the reference of two cubes, with a file written by the test."""

    def run(labels: np.ndarray, spacing_mm: float = 1.0) -> tuple[int, str, str]:
        truth = np.zeros((8, 8, 8), np.uint8)
        truth[2:5, 2:5, 2:5] = 1
        for folder, array, edge in (
            ("truth", truth, 1.0),
            ("guess", labels, spacing_mm),
        ):
            (tmp_path / folder).mkdir()
            affine = np.diag([edge, edge, edge, 1.0])
            path = tmp_path / folder / "case_1.nii.gz"
            nibabel.save(nibabel.Nifti1Image(array, affine), path)
        places = ("--reference", tmp_path / "truth", "--prediction", tmp_path / "guess")
        status, out, err = call("evaluate", *places, "--out", tmp_path / "metrics.csv")
        return status, out, err

    return run


def test_evaluate_prints_means_definition_and_empty_rule(
    evaluate: Any, tmp_path: Path
) -> None:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2:5, 2:5, 2:5] = 1
    status, out, said = evaluate(labels)
    assert status == 0, said
    assert "1.000" in out
    assert "Both empty" in " ".join(out.split())
    names = ("metrics.csv", "metrics-summary.csv", "metrics-summary.md")
    written = [tmp_path / name for name in names]
    assert f"Written: {', '.join(map(str, written))}.\n" in said
    assert all(path.exists() for path in written)


@pytest.mark.parametrize(
    ("labels", "spacing_mm", "says"),
    [
        (np.full((8, 8, 8), 0.5, np.float32), 1.0, "0.5"),
        (np.ones((8, 8, 8), np.uint8), 2.0, "spacing"),
        (np.ones((8, 8, 4), np.uint8), 1.0, "shape"),
    ],
)
def test_bad_labels_are_refused(
    evaluate: Any, tmp_path: Path, labels: np.ndarray, spacing_mm: float, says: str
) -> None:
    status, _, said = evaluate(labels, spacing_mm)
    assert status == 1
    assert_one_sentence(said, "guess", says)
    assert not (tmp_path / "metrics.csv").exists()


# ---- sample, fit, describe, doctor ----


@pytest.mark.slow
def test_a_model_is_trained_on_a_made_sample(call: Any, tmp_path: Path) -> None:
    data, recipe = tmp_path / "data/abdomen", tmp_path / "recipe.yaml"
    small = ("--cases", 4, "--size", 32)
    assert call("sample", "abdomen", "--out", data, *small)[0] == 0
    assert call("new", "supervised", "--data", data, "--out", recipe)[0] == 0
    steps = ("training.epochs=1", "training.iterations_per_epoch=3")
    training = ("--set", steps[0], "--set", steps[1])
    network = ("--set", "network.parameters.width=4", "--set", "device=cpu")
    words = (recipe, "--out", tmp_path / "run", *training, *network)
    status, out, said = call("fit", *words)
    assert status == 0, said
    assert (tmp_path / "run/model/model.yaml").exists()
    assert "volumes" in out
    assert "pooled" in out
    assert call("fit", *words)[0] == 2
    assert call("fit", *words, "--resume")[0] == 0


def test_a_sample_of_an_unknown_name_is_refused(call: Any, tmp_path: Path) -> None:
    status, _, said = call("sample", "unicorn", "--out", tmp_path / "data")
    assert status == 2
    assert_one_sentence(said, "unicorn")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"learning_rat": 1}, "unknown key 'learning_rat'"),
        ({"method": "wishing"}, "no method 'wishing'"),
        ({"data": [{"path": "nowhere"}]}, "nowhere is no folder"),
    ],
)
def test_a_bad_recipe_is_refused(
    call: Any, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    recipe = {
        "version": 1,
        "command": "fit",
        "method": "supervised",
        "data": [{"path": "x"}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | change))
    status, _, said = call("fit", tmp_path / "recipe.yaml", "--out", tmp_path / "run")
    assert status == 2
    assert_one_sentence(said, says)
    assert not (tmp_path / "run").exists()


def test_a_missing_recipe_is_refused(call: Any, tmp_path: Path) -> None:
    status, _, said = call("fit", tmp_path / "none.yaml", "--out", tmp_path / "run")
    assert status == 2
    assert_one_sentence(said, "none.yaml")


def test_describe_prints_a_schema(call: Any) -> None:
    status, out, _ = call("describe", "ms-kd")
    assert status == 0
    assert "properties" in json.loads(out)["settings"]


def test_doctor_reports(call: Any) -> None:
    status, out, _ = call("doctor")
    assert status == 0
    assert "torch" in out
