"""What napari gets of files that hold more than one volume, and what it gives back."""

import json
import shutil
from pathlib import Path

import damaged_corpus
import dicom_files
import nibabel
import nrrd
import numpy as np
import zarr

from napari_kdseg.contributions import (
    get_reader,
    read,
    write_image,
    write_labels_dicom,
)
from napari_kdseg.state.layers import record_of
from napari_kdseg.volumes.convert import convert
from napari_kdseg.volumes.formats import inspect_volume, read_labels, write_labels
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid


def test_every_series_of_a_folder_is_a_layer_and_the_first_is_visible(
    tmp_path: Path,
) -> None:
    series = damaged_corpus.dicom(tmp_path / "one")
    (tmp_path / "two").mkdir()
    for file in damaged_corpus.dicom(tmp_path / "two").iterdir():
        shutil.copy(file, series / f"other-{file.name}")
    layers = read(str(series))
    assert len(layers) == 2
    assert [arguments.get("visible", True) for _, arguments, _ in layers] == [
        True,
        False,
    ]
    parts = [record_of(arguments)["part"] for _, arguments, _ in layers]
    assert len(set(parts)) == 2
    assert all(
        part in arguments["name"]
        for part, (_, arguments, _) in zip(parts, layers, strict=True)
    )


def test_a_single_dicom_series_is_read_from_its_folder(tmp_path: Path) -> None:
    folder = damaged_corpus.dicom(tmp_path)
    assert get_reader(str(folder)) is not None
    ((data, _, kind),) = read(str(folder))
    assert kind == "image"
    assert np.array_equal(np.asarray(data), damaged_corpus.DATA)


def test_overlapping_segments_are_a_layer_each(tmp_path: Path) -> None:
    path = tmp_path / "organs.seg.nrrd"
    data = np.zeros((2, 4, 5, 6), np.uint8)
    data[0, 1:3], data[1, 2:4] = 1, 1
    header = {
        "space": "left-posterior-superior",
        "kinds": ["list", "domain", "domain", "domain"],
        "space directions": np.vstack([[np.nan] * 3, np.eye(3)]),
        "space origin": [0.0, 0, 0],
        "Segment0_Name": "liver",
        "Segment0_LabelValue": "1",
        "Segment0_Layer": "0",
        "Segment1_Name": "tumour",
        "Segment1_LabelValue": "1",
        "Segment1_Layer": "1",
    }
    nrrd.write(str(path), data, header)
    layers = read(str(path))
    assert [kind for _, _, kind in layers] == ["labels", "labels"]
    names = [arguments["features"]["class"][1] for _, arguments, _ in layers]
    assert names == ["liver", "tumour"]
    assert [int(np.asarray(array).sum()) for array, _, _ in layers] == [60, 60]


def test_the_labels_inside_an_ome_zarr_are_shown_over_its_image(tmp_path: Path) -> None:
    scan = damaged_corpus.nifti(tmp_path)
    target = tmp_path / "scan.ome.zarr"
    convert(scan, target)
    grid = inspect_volume(target).grid
    organs = LabelSet.from_names(["liver", "spleen"])
    group = zarr.open_group(str(target), mode="a")
    labels = group.create_group("labels")
    labels.attrs["ome"] = {"version": "0.5", "labels": ["organs"]}
    array = (damaged_corpus.DATA % 3).astype(np.uint8)
    write_labels(tmp_path / "organs.ome.zarr", array, grid, organs)
    (tmp_path / "organs.ome.zarr").rename(target / "labels" / "organs")
    image, shown = read(str(target))
    assert (image[2], shown[2]) == ("image", "labels")
    assert np.array_equal(np.asarray(shown[0]), array)
    assert shown[1]["features"]["class"] == ["background", "liver", "spleen"]


def test_a_converted_scan_is_a_pyramid(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 99, (80, 90, 100)).astype(np.uint8)
    scan = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(data.T, np.eye(4)), scan)
    convert(scan, tmp_path / "scan.ome.zarr")
    ((levels, _, _),) = read(str(tmp_path / "scan.ome.zarr"))
    assert [level.shape for level in levels] == [(80, 90, 100), (40, 45, 50)]
    assert np.array_equal(np.asarray(levels[0]), data)


def test_a_scan_is_saved_where_it_lies(tmp_path: Path) -> None:
    scan = damaged_corpus.nrrd_file(tmp_path)
    ((data, arguments, _),) = read(str(scan))
    written = write_image(str(tmp_path / "copy.nii.gz"), data, arguments)
    found = nibabel.load(written[0])
    source = inspect_volume(scan).grid
    assert np.allclose(found.affine, source.affine, atol=1e-4)
    assert isinstance(record_of(arguments)["grid"], Grid)
    assert np.array_equal(np.asarray(found.dataobj).T, damaged_corpus.DATA)


def test_a_prediction_of_a_series_is_saved_as_a_segmentation_of_it(
    tmp_path: Path,
) -> None:
    series = tmp_path / "series"
    person = {"PatientID": "1", "PatientBirthDate": "", "PatientSex": "O"}
    study = {"StudyDate": "", "StudyTime": "", "AccessionNumber": "", "StudyID": "1"}
    dicom_files.write_series(
        series,
        dicom_files.gradient((6, 5, 7)),
        **person,
        **study,
        FrameOfReferenceUID="1.2.3",
    )
    grid = inspect_volume(series).grid
    labels = np.zeros(grid.shape, np.uint8)
    labels[2:4, 1:3, 2:5] = 1
    made = tmp_path / "predicted" / "labels.nii.gz"
    made.parent.mkdir()
    write_labels(made, labels, grid, LabelSet.from_names(("liver",)))
    record = {"source": [{"path": str(series)}]}
    (made.parent / "prediction.json").write_text(json.dumps(record))
    ((data, arguments, _),) = read(str(made))
    (written,) = write_labels_dicom(str(tmp_path / "saved"), data, arguments)
    assert written == str(tmp_path / "saved.dcm")
    found, back = read_labels(Path(written))
    assert np.array_equal(found, labels)
    assert back.matches(grid, 1e-4)
