"""What teachers say, kept on disk: the same as asking them, within the rounding."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdseg_train.config import Recipe, Training, parse
from kdseg_train.layouts import Case, read_data_set
from kdseg_train.methods import fit, ms_kd, prepare
from kdseg_train.methods.ms_kd import Distillation
from kdseg_train.patches import Patches, floored
from kdseg_train.prepared import StoredCase, store
from kdseg_train.samples import write_partial_sample
from kdseg_train.soft_labels import (
    check_predictions,
    mark_foreground_from_soft,
    soft_from,
    soft_from_folder,
    soft_from_model,
    to_bytes,
)
from kdseg_train.teachers import frozen_network
from napari_kdseg.errors import (
    DataSetError,
    GridError,
    ModelError,
    RecipeError,
    RequeueRequested,
)
from napari_kdseg.models.model import Model, Tiling
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.formats import read_labels, write_labels, write_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
from napari_kdseg.volumes.volume import Grid

CPU = torch.device("cpu")
SHAPE = (5, 16, 16)
PLAIN = Preprocessing(intensity=(Intensity(kind="none"),))
MakeModelFolder = Callable[..., Model]


def grid(shift: float = 0.0) -> Grid:
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])  # not the axes that a model wants
    affine[0, 3] = shift
    return Grid.from_affine(affine, SHAPE)


def a_case(folder: Path, name: str = "anna") -> tuple[Case, StoredCase]:
    noise = np.random.default_rng(sum(map(ord, name))).normal(size=SHAPE)
    path = folder / f"{name}.nii.gz"
    write_volume(path, noise.astype(np.float32), grid())
    case = Case(name, (path,), None, {}, ())
    return case, store(case, folder / "stored" / name, ("liver", "spleen"), PLAIN)


def a_run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "run", {"version": 1, "command": "fit"})
    run.partial.mkdir()
    return run


def whole_slices(model_folder: MakeModelFolder, organ: str) -> Model:
    """A teacher of one organ whose window is a whole slice."""
    return model_folder(organ, (organ,), tiling=Tiling(tile_vox=(16, 16), overlap=0))


def whole_slice_patches(stored: StoredCase, soft: Any) -> Patches:
    recipe = Recipe.model_validate(
        {
            "method": "ms-kd",
            "data": [{"path": "."}],
            "patch_vox": (16, 16),
            "network": {"name": "unet", "parameters": {"stages": 3}},
            "augmentation": {"probability": 0},
        }
    )
    return Patches([stored], recipe, Training(batch=4), "student", soft=soft)


# ---- as bytes ----


def test_a_temperature_needs_no_logits() -> None:
    # softmax(z / 2) for z = (0, ln 4): 1 and 2 in three -> 85 and 170 of 255,
    # though only softmax(z) = (0.2, 0.8) is known
    prob = np.array([[0.2], [0.8]], np.float32)
    assert to_bytes(prob, 2.0).ravel().tolist() == [85, 170]
    assert to_bytes(prob, 1.0).ravel().tolist() == [51, 204]


def test_a_probability_of_zero_survives_a_temperature() -> None:
    prob = np.array([[0.0], [1.0]], np.float32)
    assert to_bytes(prob, 5.0).ravel().tolist() == [0, 255]


def test_a_cached_zero_is_lifted_and_the_rest_makes_room() -> None:
    # (0, 255) -> (1, 255) / 256
    found = floored(torch.tensor([0.0, 1.0]).reshape(1, 2, 1))
    assert found.ravel().tolist() == pytest.approx([1 / 256, 255 / 256])


# ---- of models ----


def test_answers_are_those_of_the_network_within_the_rounding(
    tmp_path: Path, model_folder: MakeModelFolder
) -> None:
    _, stored = a_case(tmp_path)
    teacher = whole_slices(model_folder, "liver")
    (found,) = soft_from_model(a_run(tmp_path), [stored], teacher, 5.0, CPU)
    image = torch.from_numpy(np.asarray(stored.image, np.float32))
    with torch.no_grad():
        logits = frozen_network(teacher, CPU)(image.movedim(1, 0))
    asked = (logits / 5).softmax(1).movedim(0, 1).numpy()
    assert found.dtype == np.uint8
    assert abs(found / 255 - asked).max() <= 0.5 / 255 + 1e-6


def test_an_answer_is_asked_for_once_for_each_model_and_temperature(
    tmp_path: Path, model_folder: MakeModelFolder
) -> None:
    _, stored = a_case(tmp_path)
    run, one = a_run(tmp_path), whole_slices(model_folder, "liver")

    def files() -> set[str]:
        return {path.name for path in stored.folder.glob("soft-*")}

    soft_from_model(run, [stored], one, 1.0, CPU)
    first = files()
    (path,) = stored.folder.glob("soft-*.npy")
    written = path.stat().st_mtime_ns
    soft_from_model(run, [stored], one, 1.0, CPU)
    assert files() == first
    assert path.stat().st_mtime_ns == written
    soft_from_model(run, [stored], one, 2.0, CPU)
    soft_from_model(run, [stored], whole_slices(model_folder, "spleen"), 1.0, CPU)
    assert len(files()) == 3


def test_a_training_makes_way_while_a_teacher_is_asked(
    tmp_path: Path, model_folder: MakeModelFolder
) -> None:
    _, stored = a_case(tmp_path)
    run, teacher = a_run(tmp_path), whole_slices(model_folder, "liver")

    def work() -> None:
        run.request_requeue()
        soft_from_model(run, [stored], teacher, 1.0, CPU)

    with pytest.raises(RequeueRequested), run.executing():
        work()
    assert run.events()[0][-1]["requeue"] is True


def test_a_teacher_of_other_channels_is_refused_by_name(
    tmp_path: Path, model_folder: MakeModelFolder
) -> None:
    _, stored = a_case(tmp_path)
    teacher = model_folder("two", ("liver",), channels=("t1", "t2"))
    with pytest.raises(ModelError, match=r"anna has 1 channels; teacher two takes 2"):
        soft_from_model(a_run(tmp_path), [stored], teacher, 1.0, CPU)


def test_foreground_is_where_a_teacher_sees_its_organ(tmp_path: Path) -> None:
    _, stored = a_case(tmp_path)
    answer = np.zeros((2, *SHAPE), np.uint8)
    answer[0] = 255
    answer[:, 2, 3, 4] = (100, 155)
    nothing = np.broadcast_to(
        np.array([255, 0], np.uint8)[:, None, None, None], (2, *SHAPE)
    )
    mark_foreground_from_soft([stored], [[nothing, answer]])
    assert stored.places.tolist() == [[2, 2, 3, 4]]


# ---- MS-KD ----


@pytest.mark.parametrize("overlap", ["sum", "max_prob"])
def test_cached_and_online_losses_agree_within_the_rounding(
    tmp_path: Path, model_folder: MakeModelFolder, overlap: str
) -> None:
    case, stored = a_case(tmp_path)
    organs = {name: whole_slices(model_folder, name) for name in ("liver", "spleen")}
    soft = soft_from(a_run(tmp_path), organs, PLAIN, CPU, [case], [stored])
    batch = whole_slice_patches(stored, soft).batch(0)
    plain = whole_slice_patches(stored, None).batch(0)
    assert torch.equal(batch.image, plain.image)
    settings = Distillation.model_validate({"feature_weight": 0, "overlap": overlap})
    student = frozen_network(model_folder("student", ("liver", "spleen")), CPU)
    teachers = [frozen_network(model, CPU) for model in organs.values()]
    online = ms_kd.distillation_terms(student, teachers, plain, settings)
    cached = ms_kd.distillation_terms(student, [], batch, settings)
    for name, term in online.items():
        # a byte moves a probability by 0.002, and each voxel's KL by about as much
        # times log(p / q), which here stays below 4
        assert cached[name].item() == pytest.approx(term.item(), abs=0.01)
        assert term.item() > 0.05


def test_a_cache_is_refused_where_features_are_distilled() -> None:
    values = {"method": "ms-kd", "data": [{"path": "x"}], "teachers_at": "cached"}
    with pytest.raises(RecipeError, match=r"holds no features.*feature_weight to 0"):
        parse(ms_kd.Config, values, "r.yaml")
    parse(ms_kd.Config, {**values, "distillation": {"feature_weight": 0}}, "r.yaml")


# ---- of any tool ----


def labels() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[1:3, 2:9, 3:5] = 1
    array[3, 10:, 10:] = 2
    return array


def test_labels_of_any_tool_are_a_sure_teacher_in_the_model_s_frame(
    tmp_path: Path,
) -> None:
    case, stored = a_case(tmp_path)
    folder = tmp_path / "told"
    folder.mkdir()
    write_labels(folder / "anna.nii.gz", labels(), grid(), None)
    classes = ("liver", "spleen")
    (found,) = soft_from_folder(folder, [case], [stored], classes, PLAIN)
    assert found.shape == (3, *SHAPE)
    assert np.array_equal(found.argmax(0)[..., ::-1], labels())  # x was turned
    assert set(np.unique(found)) == {0, 255}


def test_probabilities_of_any_tool_keep_their_values(tmp_path: Path) -> None:
    case, stored = a_case(tmp_path)
    folder = tmp_path / "told" / "anna" / "their-model"
    folder.mkdir(parents=True)
    prob = np.random.default_rng(0).dirichlet([1, 1, 1], SHAPE).astype(np.float32)
    prob = prob.transpose(3, 0, 1, 2)
    write_volume(folder / "probabilities.nii.gz", prob, grid())
    classes = ("liver", "spleen")
    (found,) = soft_from_folder(tmp_path / "told", [case], [stored], classes, PLAIN)
    assert abs(found[..., ::-1] / 255 - prob).max() <= 0.5 / 255 + 1e-6
    (warm,) = soft_from_folder(
        tmp_path / "told", [case], [stored], classes, PLAIN, temperature=2
    )
    roots = np.sqrt(prob)
    assert abs(warm[..., ::-1] / 255 - roots / roots.sum(0)).max() < 0.5 / 255 + 1e-6


def test_a_case_without_a_prediction_is_named(tmp_path: Path) -> None:
    case, _ = a_case(tmp_path)
    (tmp_path / "told").mkdir()
    with pytest.raises(DataSetError, match="no prediction of case anna"):
        check_predictions(tmp_path / "told", [case], ("liver",))


def test_a_value_that_means_no_class_of_the_student_is_refused(tmp_path: Path) -> None:
    case, stored = a_case(tmp_path)
    folder = tmp_path / "told"
    folder.mkdir()
    write_labels(folder / "anna.nii.gz", labels(), grid(), None)
    with pytest.raises(DataSetError, match=r"the value 2 .*this teacher are liver"):
        soft_from_folder(folder, [case], [stored], ("liver",), PLAIN)


def test_a_file_that_says_what_its_values_mean_is_believed(tmp_path: Path) -> None:
    case, stored = a_case(tmp_path)
    folder = tmp_path / "told"
    folder.mkdir()
    named = LabelSet.from_names(("spleen", "liver"))
    write_labels(folder / "anna.seg.nrrd", labels(), grid(), named)
    classes = ("liver", "spleen")
    (found,) = soft_from_folder(folder, [case], [stored], classes, PLAIN)
    swapped = np.array([0, 2, 1])[labels()]
    assert np.array_equal(found.argmax(0)[..., ::-1], swapped)


def test_a_prediction_on_another_grid_is_refused(tmp_path: Path) -> None:
    case, stored = a_case(tmp_path)
    folder = tmp_path / "told"
    folder.mkdir()
    write_labels(folder / "anna.nii.gz", labels(), grid(shift=3.0), None)
    with pytest.raises(GridError, match=r"anna\.nii\.gz is not on the grid"):
        soft_from_folder(folder, [case], [stored], ("liver", "spleen"), PLAIN)


def test_what_does_not_sum_to_one_is_no_probability(tmp_path: Path) -> None:
    case, stored = a_case(tmp_path)
    folder = tmp_path / "told"
    folder.mkdir()
    write_volume(folder / "anna.nii.gz", np.ones((3, *SHAPE), np.float32), grid())
    with pytest.raises(DataSetError, match="sum to 3 to 3; probabilities are 0 to 1"):
        soft_from_folder(folder, [case], [stored], ("liver", "spleen"), PLAIN)


def test_the_divergence_from_a_cached_zero_is_finite() -> None:
    sure = floored(torch.tensor([0.0, 1.0]).reshape(1, 2, 1))
    assert math.isfinite(sure.log().sum().item())


# ---- whole runs ----


@pytest.mark.slow
def test_ms_kd_learns_from_a_cached_model_and_from_a_folder_of_predictions(
    tmp_path: Path,
) -> None:
    write_partial_sample("abdomen", tmp_path / "abdomen", cases=6, size=32, seed=3)
    told = tmp_path / "told"
    told.mkdir()
    # somebody else's spleens: the labels of the cases that have some, nothing elsewhere
    for organ in ("liver", "spleen"):
        found = read_data_set(tmp_path / "abdomen" / organ)
        for case in found.cases:
            assert case.label is not None
            array, where = read_labels(case.label)
            spleen = (array > 0) if organ == "spleen" else np.zeros_like(array)
            write_labels(
                told / f"{case.id}.nii.gz", spleen.astype(np.uint8), where, None
            )
    values = {
        "method": "ms-kd",
        "data": [{"path": "abdomen/liver"}, {"path": "abdomen/spleen"}],
        "network": {"name": "unet", "parameters": {"width": 4, "stages": 3}},
        "patch_vox": [32, 32],
        "teachers_at": "cached",
        "teachers": {"spleen": str(told)},
        "distillation": {"feature_weight": 0},
        "training": {"epochs": 2, "iterations_per_epoch": 3, "batch": 2},
    }
    run = Run.create(tmp_path / "run", prepare(values, "recipe", tmp_path))
    with run.executing():
        fit(run)
    student = Model.open(run.model_folder)
    liver = Model.open(run.folder / "teachers" / "liver")
    assert student.card.provenance.teachers == (liver.fingerprint,)
    assert not (run.folder / "teachers" / "spleen").exists()
