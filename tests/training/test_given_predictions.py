"""Folders of predictions by any tool, in the forms that tools write."""

import json
from pathlib import Path

import numpy as np
import pytest

from kdseg_train.given_predictions import prediction_of, read_prediction
from kdseg_train.layouts import Case
from napari_kdseg.errors import DataSetError
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.volume import Grid

PLAIN = Preprocessing(orientation=None, intensity=(Intensity(kind="none"),))
SHAPE = (4, 5, 6)
GRID = Grid.from_affine(np.diag([0.8, 0.9, 2.0, 1.0]), SHAPE)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    image = tmp_path / "scans" / "anna.nii.gz"
    image.parent.mkdir()
    write_volume(image, np.zeros(SHAPE, np.float32), GRID)
    return Case(id="anna", images=(image,), label=None, annotated=(), values={})


def organs() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[1, 1:3] = 5
    array[2, 3:] = 1
    return array


def test_labels_of_many_organs_teach_one_as_a_dataset_json_names_it(
    tmp_path: Path, case: Case
) -> None:
    told = tmp_path / "told"
    told.mkdir()
    write_labels(told / "anna.nii.gz", organs(), GRID, None)
    named = {"labels": {"background": 0, "spleen": 1, "liver": 5}}
    (told / "dataset.json").write_text(json.dumps(named))
    path = prediction_of(case, told, ("liver",))
    found = read_prediction(path, case, ("liver",), PLAIN)
    assert np.array_equal(found[1], organs() == 5)
    assert np.array_equal(found[0], organs() != 5)


def test_the_decathlon_s_way_to_write_it_is_understood(
    tmp_path: Path, case: Case
) -> None:
    told = tmp_path / "told"
    told.mkdir()
    write_labels(told / "anna.nii.gz", organs(), GRID, None)
    named = {"labels": {"0": "background", "1": "spleen", "5": "liver"}}
    (told / "dataset.json").write_text(json.dumps(named))
    found = read_prediction(told / "anna.nii.gz", case, ("spleen", "liver"), PLAIN)
    assert np.array_equal(found.argmax(0), np.array([0, 1, 0, 0, 0, 2])[organs()])


def test_a_mask_a_class_is_found_as_totalsegmentator_names_it(
    tmp_path: Path, case: Case
) -> None:
    folder = tmp_path / "told" / "anna"
    folder.mkdir(parents=True)
    for name, value in (("liver", 5), ("kidney_left", 1)):
        mask = (organs() == value).astype(np.uint8)
        write_labels(folder / f"{name}.nii.gz", mask, GRID, None)
    path = prediction_of(case, tmp_path / "told", ("kidney left",))
    assert path.name == "kidney_left.nii.gz"
    found = read_prediction(path, case, ("kidney left",), PLAIN)
    assert np.array_equal(found[1], organs() == 1)


def test_files_of_other_cases_are_not_opened_to_find_one(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "told").mkdir()
    for name in ("anna", "berta", "carla"):
        write_labels(tmp_path / "told" / f"{name}.nii.gz", organs(), GRID, None)
    opened: list[str] = []

    def counted(path: Path) -> bool:
        opened.append(path.name)
        return True

    monkeypatch.setattr(formats, "is_volume", counted)
    assert prediction_of(case, tmp_path / "told").name == "anna.nii.gz"
    assert opened == ["anna.nii.gz"]


def test_probabilities_of_many_organs_teach_one_and_the_rest_is_background(
    tmp_path: Path, case: Case
) -> None:
    folder = tmp_path / "told" / "anna" / "their-model"
    folder.mkdir(parents=True)
    prob = np.random.default_rng(0).dirichlet([1, 1, 1], SHAPE).astype(np.float32)
    prob = prob.transpose(3, 0, 1, 2)
    write_volume(folder / "probabilities.nii.gz", prob, GRID)
    classes = [{"value": 1, "name": "spleen"}, {"value": 5, "name": "liver"}]
    record = {"labels": {"classes": classes}}
    (folder / "prediction.json").write_text(json.dumps(record))
    path = prediction_of(case, tmp_path / "told", ("liver",))
    found = read_prediction(path, case, ("liver",), PLAIN)
    np.testing.assert_allclose(found[1], prob[2], atol=1e-6)
    np.testing.assert_allclose(found[0], prob[0] + prob[1], atol=1e-6)


def test_a_class_that_nobody_predicted_is_named_with_those_there_are(
    tmp_path: Path, case: Case
) -> None:
    told = tmp_path / "told"
    told.mkdir()
    write_labels(told / "anna.nii.gz", organs(), GRID, None)
    named = {"labels": {"background": 0, "spleen": 1, "liver": 5}}
    (told / "dataset.json").write_text(json.dumps(named))
    with pytest.raises(DataSetError, match="nothing about aorta; it knows spleen, liv"):
        read_prediction(told / "anna.nii.gz", case, ("aorta",), PLAIN)
