"""Models that a recipe names: whether they have seen the cases it tests on."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdseg_train.classifier import NETWORK
from kdseg_train.data import fingerprint, resolve
from kdseg_train.given_models import check_given_models, given_models, learnt_from
from kdseg_train.methods import medaka, ms_kd, prepare
from kdseg_train.supervised import gather
from napari_kdseg.errors import DataSetError
from napari_kdseg.models.card import Calibration
from napari_kdseg.models.model import Model, Provenance, save_composite, save_model
from napari_kdseg.models.networks import build_classifier
from napari_kdseg.models.parameters import NetworkSpec
from napari_kdseg.review.verdicts import Verdict, write_verdicts
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.volume import Grid

MakeModelFolder = Callable[..., Model]
GRID = Grid.from_affine(np.eye(4), (4, 16, 16))
ORGANS = ("liver", "spleen")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Six scans, a to f, with labels of both organs, in our own layout."""
    folder = tmp_path / "scans"
    folder.mkdir()
    lines = ["channels: [image]", "classes: {liver: 1, spleen: 2}", "cases:"]
    for seed, name in enumerate("abcdef"):
        noise = np.random.default_rng(seed).normal(size=GRID.shape)
        write_volume(folder / f"{name}.nii.gz", noise.astype(np.float32), GRID)
        labels = np.ones(GRID.shape, np.uint8)
        labels[:, 8:] = 2
        write_labels(folder / f"{name}-labels.nii.gz", labels, GRID, None)
        images = f"images: {{image: {name}.nii.gz}}"
        lines.append(f"- {{id: {name}, {images}, label: {name}-labels.nii.gz}}")
    (folder / "dataset.yaml").write_text("\n".join(lines))
    return tmp_path


def recipe(**more: Any) -> dict[str, Any]:
    """Trains on a and b, looks at c and d without labels, tests on e and f."""
    return {
        "method": "medaka",
        "data": [{"path": "scans", "cases": "0:2"}],
        "unlabelled": [{"path": "scans", "cases": "2:4"}],
        "test": [{"path": "scans", "cases": "4:6"}],
        "quality": {"source": "none"},
        **more,
    }


def trained_by(values: dict[str, Any], root: Path) -> Provenance:
    """Where a model of this recipe says it comes from."""
    config = medaka.Config.model_validate(values)
    return Provenance(
        method=config.method,
        recipe=config.model_dump(mode="json", exclude={"frozen"}),
        data_fingerprint=fingerprint(resolve(config, root).all),
    )


def check(values: dict[str, Any], root: Path) -> list[str]:
    """What a run of this recipe notes in its log; it is refused otherwise."""
    config = medaka.Config.model_validate(prepare(values, "recipe", root))
    return check_given_models(config, resolve(config, root))


def test_a_teacher_of_the_same_training_cases_may_teach(
    scans: Path, model_folder: MakeModelFolder
) -> None:
    known = trained_by(recipe(), scans)
    teacher = model_folder(role="teacher", provenance=known)
    assert check(recipe(teacher=str(teacher.folder)), scans) == []


def test_a_teacher_that_was_trained_on_a_test_case_is_refused(
    scans: Path, model_folder: MakeModelFolder
) -> None:
    leaky = recipe(data=[{"path": "scans", "cases": ["a", "e"]}], test=[])
    known = trained_by(leaky, scans)
    teacher = model_folder(role="teacher", provenance=known)
    message = r"teacher names .*organs, which has learnt from .*e\.nii\.gz; that scan"
    with pytest.raises(DataSetError, match=message):
        check(recipe(teacher=str(teacher.folder)), scans)


def test_a_scan_is_recognised_under_another_name(
    scans: Path, model_folder: MakeModelFolder
) -> None:
    shutil.copytree(scans / "scans", scans / "copies")
    elsewhere = recipe(data=[{"path": "copies", "cases": "3:6"}], test=[])
    del elsewhere["unlabelled"]
    elsewhere["pseudo"] = False
    teacher = model_folder(role="teacher", provenance=trained_by(elsewhere, scans))
    with pytest.raises(DataSetError, match=r"copies/e\.nii\.gz; .*scans/e\.nii\.gz"):
        check(recipe(teacher=str(teacher.folder)), scans)


@pytest.mark.parametrize(("role", "refused"), [("teacher", False), ("student", True)])
def test_unlabelled_cases_were_seen_by_students_and_not_by_teachers(
    scans: Path, model_folder: MakeModelFolder, role: str, refused: bool
) -> None:
    wider = recipe(unlabelled=[{"path": "scans", "cases": "2:6"}], test=[])
    model = model_folder(role=role, provenance=trained_by(wider, scans))
    learnt = learnt_from(model.card, scans)
    assert learnt is not None
    assert ("e" in {case.id for case in learnt}) == refused


def test_a_teacher_of_one_organ_has_seen_the_cases_that_annotate_it(
    scans: Path, model_folder: MakeModelFolder
) -> None:
    values = {
        "method": "ms-kd",
        "data": [
            {"path": "scans", "cases": "0:3", "annotated": ["liver"]},
            {"path": "scans", "cases": "3:6", "annotated": ["spleen"]},
        ],
    }
    config = ms_kd.Config.model_validate(values)
    known = Provenance(
        method="ms-kd",
        recipe=config.model_dump(mode="json", exclude={"frozen"}),
        data_fingerprint=fingerprint(resolve(config, scans).all),
    )
    model = model_folder("made", ("liver",), role="teacher", provenance=known)
    learnt = learnt_from(model.card, scans)
    assert learnt is not None
    assert [case.id for case in learnt] == ["a", "b", "c"]


def test_data_that_has_changed_is_noted_and_not_guessed_about(
    scans: Path, model_folder: MakeModelFolder
) -> None:
    leaky = recipe(data=[{"path": "scans", "cases": ["a", "e"]}], test=[])
    teacher = model_folder(role="teacher", provenance=trained_by(leaky, scans))
    write_volume(scans / "scans" / "a.nii.gz", np.zeros(GRID.shape, np.float32), GRID)
    (note,) = check(recipe(teacher=str(teacher.folder)), scans)
    assert note.startswith("teacher: whether")
    assert "is not known" in note


@pytest.mark.parametrize(
    "known",
    [
        Provenance(),
        Provenance(method="medaka", recipe={"data": [{"path": "gone"}]}),
        Provenance(method="medaka", recipe={"data": "what"}),
        Provenance(method="medaka", recipe={"data": [{"path": r"\\far\away"}]}),
        Provenance(method="quality-fit", recipe={"reviews": "gone", "images": "x"}),
        Provenance(
            method="quality-fit", recipe={"reviews": "mysql://far", "images": ""}
        ),
    ],
)
def test_a_card_that_does_not_tell_is_noted(
    scans: Path, model_folder: MakeModelFolder, known: Provenance
) -> None:
    teacher = model_folder(role="teacher", provenance=known)
    (note,) = check(recipe(teacher=str(teacher.folder)), scans)
    assert "is not known" in note


def test_nothing_is_said_where_nothing_is_tested(
    scans: Path, model_folder: MakeModelFolder
) -> None:
    teacher = model_folder(role="teacher")
    assert check(recipe(teacher=str(teacher.folder), test=[]), scans) == []


def test_a_classifier_with_verdicts_on_a_test_case_is_refused(
    scans: Path, model_folder: MakeModelFolder
) -> None:
    verdicts = [Verdict(case, 0, 1, "good", "human") for case in "ce"]
    write_verdicts(scans / "verdicts.csv", verdicts)
    told = {"reviews": str(scans / "verdicts.csv"), "images": str(scans / "scans")}
    classifier = a_classifier(
        model_folder, Provenance(method="quality-fit", recipe=dict(told))
    )
    quality = {"source": "model", "model": str(classifier)}
    with pytest.raises(DataSetError, match=r"quality\.model names .*e\.nii\.gz"):
        check(recipe(quality=quality), scans)
    test = [{"path": "scans", "cases": ["f"]}]
    assert check(recipe(quality=quality, test=test), scans) == []


def a_classifier(model_folder: MakeModelFolder, known: Provenance) -> Path:
    """A quality-classifier that was never trained."""
    made = model_folder("plain")
    spec = NetworkSpec(name=NETWORK, parameters={"width": 4})
    changes = {
        "name": "judge",
        "role": "quality-classifier",
        "network": spec.model_dump(),
        "calibration": Calibration().model_dump(),
        "tiling": {"tile_vox": (32, 32), "overlap": 0},
        "provenance": known.model_dump(),
    }
    card = type(made.card).model_validate(made.card.model_dump() | changes)
    network = build_classifier(card.network, 1, card.classes.count)
    return save_model(made.folder.parent / "judge", card, network).folder


def test_both_parts_of_a_composite_are_looked_at(
    scans: Path, model_folder: MakeModelFolder, tmp_path: Path
) -> None:
    leaky = recipe(data=[{"path": "scans", "cases": ["a", "f"]}], test=[])
    good = model_folder("fine", provenance=trained_by(recipe(), scans))
    bad = model_folder("coarse", provenance=trained_by(leaky, scans))
    pair = save_composite(tmp_path / "pair", bad, good)
    with pytest.raises(DataSetError, match=r"pair/coarse, which .*f\.nii\.gz"):
        check(recipe(teacher=str(pair.folder)), scans)


def test_every_setting_that_names_a_model_is_found(
    scans: Path, model_folder: MakeModelFolder
) -> None:
    for name in ("one", "two"):
        model_folder(name)
    config = ms_kd.Config.model_validate(
        {
            "method": "ms-kd",
            "data": [{"path": "models/one"}],  # data is no model
            "teachers": {"liver": "models/one", "spleen": "models/two", "x": "gone"},
        }
    )
    found = [(name, model.card.name) for name, model in given_models(config, scans)]
    assert found == [("teachers.liver", "one"), ("teachers.spleen", "two")]


def test_a_run_with_a_leaky_teacher_ends_before_cases_are_prepared(
    scans: Path, model_folder: MakeModelFolder
) -> None:
    leaky = recipe(data=[{"path": "scans", "cases": ["a", "e"]}], test=[])
    teacher = model_folder(role="teacher", provenance=trained_by(leaky, scans))
    values = recipe(teacher=str(teacher.folder))
    run = Run.create(scans / "run", prepare(values, "recipe", scans))
    with pytest.raises(DataSetError, match="has learnt from"), run.executing():
        gather(run, medaka.Config.model_validate(run.config))
    assert not (run.partial / "cases").exists()
