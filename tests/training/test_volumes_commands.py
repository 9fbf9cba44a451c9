"""convert, inspect and cache: files of volumes on the command line."""

import json
from pathlib import Path
from typing import Any

import damaged_corpus
import independent
import nibabel
import numpy as np
import pytest

from kdseg_train.execute import execute
from kdseg_train.inputs import find_cases
from napari_kdseg.models.model import Model, Tiling
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.cache import default_cache
from napari_kdseg.volumes.formats import inspect_volume, read_label_set, read_volume


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_series_becomes_a_nifti_that_lies_on_it(call: Any, tmp_path: Path) -> None:
    series = damaged_corpus.dicom(tmp_path)
    status, _, said = call("convert", series, tmp_path / "ct.nii.gz")
    assert status == 0, said
    data, affine = independent.series(series)
    found = nibabel.load(tmp_path / "ct.nii.gz")
    assert np.array_equal(np.asarray(found.dataobj).T, data)
    assert np.allclose(found.affine, affine, atol=1e-4)


def test_labels_without_names_become_a_segmentation_with_the_option_that_is_told(
    call: Any, tmp_path: Path
) -> None:
    labels, target = tmp_path / "labels.nii", tmp_path / "labels.seg.nrrd"
    nibabel.save(nibabel.Nifti1Image(np.eye(3, dtype=np.uint8)[None], None), labels)
    status, _, said = call("convert", labels, target)
    assert status == 1
    assert "with --labels" in " ".join(said.split())
    status, _, said = call("convert", labels, target, "--labels")
    assert status == 0, said


def test_names_that_a_format_does_not_keep_are_told(call: Any, tmp_path: Path) -> None:
    organs = damaged_corpus.slicer(tmp_path)
    status, _, said = call("convert", organs, tmp_path / "organs.mha")
    assert status == 0, said
    assert "does not keep the names and colours" in " ".join(said.split())
    status, _, _ = call("convert", organs, tmp_path / "organs.nii.gz")
    assert status == 0
    known = read_label_set(tmp_path / "organs.nii.gz")
    assert known is not None
    assert known.names == ("liver", "spleen")


def test_an_existing_target_is_left_alone(call: Any, tmp_path: Path) -> None:
    scan = damaged_corpus.nifti(tmp_path)
    status, _, said = call("convert", scan, scan)
    assert status == 1
    assert "exists already" in said


def test_a_missing_voxel_size_can_be_given(call: Any, tmp_path: Path) -> None:
    scan = damaged_corpus.tiff(tmp_path)
    call("convert", scan, tmp_path / "a.nrrd", "--spacing", "0.02,0.01,0.01")
    assert inspect_volume(tmp_path / "a.nrrd").grid.spacing_mm == (0.02, 0.01, 0.01)
    status, _, said = call("convert", scan, tmp_path / "b.nrrd", "--spacing", "thick")
    assert status == 2
    assert "give millimetres along z, y, x" in said
    status, _, said = call("convert", scan, tmp_path / "b.nrrd", "--spacing", "2")
    assert status == 2
    assert "give millimetres along z, y, x" in said


def test_a_scan_is_resampled_onto_another_grid(call: Any, tmp_path: Path) -> None:
    scan = damaged_corpus.nifti(tmp_path)
    other = tmp_path / "other.nii.gz"
    affine = np.diag([1.6, 1.8, 4.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 8, 3), np.int16), affine), other)
    status, _, said = call("convert", scan, tmp_path / "on.nii.gz", "--onto", other)
    assert status == 0, said
    found = read_volume(tmp_path / "on.nii.gz")
    assert found.grid == read_volume(other).grid
    assert np.array_equal(found.data[0], damaged_corpus.DATA[::2, ::2, ::2])


def test_inspect_names_every_volume_and_goes_on_after_a_bad_one(
    call: Any, tmp_path: Path
) -> None:
    series, scan = damaged_corpus.dicom(tmp_path), damaged_corpus.tiff(tmp_path)
    bad = tmp_path / "notes.txt"
    bad.write_text("no volume")
    status, out, said = call("inspect", series, bad, scan)
    assert status == 1
    assert "LPS, 0.8 x 0.9 x 2.0 mm · 12 x 16 x 6 voxels · CT · int16" in out
    assert "stores no voxel size" in out
    assert "notes.txt is of no kind we know" in said


def test_inspect_calls_labels_labels(call: Any, tmp_path: Path) -> None:
    _, out, _ = call("inspect", damaged_corpus.slicer(tmp_path))
    assert " · labels · uint8" in out
    assert "image" not in out


def test_inspect_lists_every_volume_of_a_folder(call: Any, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    damaged_corpus.nifti(folder)
    (folder / "notes.txt").touch()
    damaged_corpus.slicer(folder)
    status, out, said = call("inspect", folder)
    assert status == 0, said
    listed = [line.split(": ")[0] for line in out.splitlines() if line[0] != " "]
    assert [Path(line).suffix for line in listed] == [".nrrd", ".gz"]


def test_inspect_lists_every_scan_of_a_data_set(call: Any, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    scan = damaged_corpus.nifti(tmp_path / "set")
    (tmp_path / "set/dataset.yaml").write_text(
        "channels: [CT]\nclasses: {}\n"
        f"cases: [{{id: a, images: {{CT: {scan.name}}}}}]"
    )
    status, out, said = call("inspect", tmp_path / "set")
    assert status == 0, said
    assert out.startswith(str(scan))


def test_a_dataset_json_beside_predictions_hides_no_volume(
    call: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "predictions"
    folder.mkdir()
    copied = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}
    (folder / "dataset.json").write_text(json.dumps(copied))
    status, _, said = call("inspect", folder)
    assert status != 0
    assert str(folder) in said.replace("\n", "")
    file = damaged_corpus.nifti(folder)
    status, out, said = call("inspect", folder)
    assert status == 0, said
    assert out.startswith(str(file))
    (case,) = find_cases([folder])
    assert (case.images, case.named) == ((file,), False)


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_what_does_not_exist_is_not_called_of_an_unknown_kind(
    call: Any, tmp_path: Path, command: str
) -> None:
    more = [tmp_path / "a.nrrd"] if command == "convert" else []
    status, _, said = call(command, tmp_path / "nothing", *more)
    assert status == 1
    assert "nothing does not exist; give a file or folder that does." in said


def test_a_folder_of_scans_is_not_converted_as_one(call: Any, tmp_path: Path) -> None:
    scan = damaged_corpus.nifti(tmp_path)
    status, _, said = call("convert", scan.parent, tmp_path / "a.nrrd")
    assert status == 1
    assert f"is a folder with a volume, such as {scan.name}; name one of them." in said


def test_the_cache_says_what_it_holds_and_is_cleared(call: Any, tmp_path: Path) -> None:
    scan = damaged_corpus.nifti(tmp_path)
    default_cache().convert(scan)
    status, out, _ = call("cache")
    assert status == 0
    assert str(scan) in out
    assert "in 1 scan." in out
    call("cache", "--clear")
    assert default_cache().find(scan) is None
    assert "in 0 scans" in call("cache")[1]


def test_a_prediction_for_a_series_lies_on_its_grid(
    tmp_path: Path, model_folder: Any, real_data: Path
) -> None:
    """DICOM in, NIfTI out: every voxel where the series has it, oblique as it is."""
    series = real_data / "dicom_mr_oblique"
    if not series.is_dir():
        pytest.skip(f"no {series}")
    model: Model = model_folder(
        "mr", channels=("MR",), tiling=Tiling(tile_vox=(64, 64), overlap=0.0, batch=16)
    )
    out = tmp_path / "out"
    config = {
        "version": 1,
        "command": "predict",
        "inputs": [series],
        "models": [model.folder],
        "out": out,
        "device": "cpu",
    }
    execute(Run.create(out / ".run", config))
    found = nibabel.load(out / "dicom_mr_oblique" / model.card.name / "labels.nii.gz")
    data, affine = independent.series(series)
    assert found.shape == data.shape[::-1]
    assert np.allclose(found.affine, affine, atol=1e-4)


def test_channels_in_files_of_any_name_are_one_case(
    tmp_path: Path, model_folder: Any, call: Any
) -> None:
    model: Model = model_folder("two", channels=("t1", "t2"))
    for name in ("anna_t1", "anna_t2"):
        place = tmp_path / name
        place.mkdir()
        damaged_corpus.nifti(place).rename(tmp_path / f"{name}.nii.gz")
    files = (tmp_path / "anna_t1.nii.gz", tmp_path / "anna_t2.nii.gz")
    status, _, said = call(
        *("predict", *files, "--model", model.folder, "--out", tmp_path / "out"),
        *("--case", "anna", "--format", "nrrd"),
    )
    assert status == 0, said
    assert (tmp_path / "out" / "anna" / "two" / "labels.seg.nrrd").is_file()
