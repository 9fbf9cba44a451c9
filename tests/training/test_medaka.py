"""Medaka: every invariant of the method, on small numbers, and whole runs."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdseg_train.accepted import background
from kdseg_train.config import find_recipe, load_recipe, parse
from kdseg_train.data import Cases, resolve
from kdseg_train.loop import Stage, train
from kdseg_train.methods import fit, medaka, prepare
from kdseg_train.methods.medaka import Config, Distillation
from kdseg_train.new import new_recipe
from kdseg_train.patches import Batch
from kdseg_train.prepared import StoredCase
from kdseg_train.quality import SimulateConfig, simulate
from kdseg_train.quality_source import Labelled
from kdseg_train.samples import write_sample
from kdseg_train.slices import ChosenSlices, SlicePatches, stored_slices
from napari_kdseg.errors import DataSetError, ModelError, RecipeError, StopRequested
from napari_kdseg.models.model import Model
from napari_kdseg.runs.run import Run

BOTH = ("student_teacher", "teacher_student")
SHORT = {"epochs": 2, "iterations_per_epoch": 4, "batch": 4, "learning_rate": 0.003}


class Fixed(nn.Module):
    """A network that answers what it was told to."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, image: Tensor) -> Tensor:
        return self.logits


def logits(seed: int, classes: int = 3, *, dtype: Any = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, classes, 3, 4, generator=generator, dtype=dtype)


def batch_of(seed: int = 0, classes: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (2, 3, 4), generator=generator)
    annotated = torch.ones(2, classes - 1, dtype=torch.bool)
    return Batch(torch.zeros(2, 1, 3, 4), labels, annotated)


def kd(student: Tensor, teacher: Tensor, **settings: Any) -> Tensor:
    return medaka.distillation_loss(student, teacher, Distillation(**settings))


def pixel(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[None, :, None, None]


# ---- equations 1 to 3 ----


def test_the_divergence_of_one_pixel_is_worked_out_by_hand() -> None:
    # tau 2: student (0, 2 ln 3) -> (1/4, 3/4), teacher (0, 0) -> (1/2, 1/2)
    # KL(s||t) = 1/4 ln 1/2 + 3/4 ln 3/2 = 0.130812
    # KL(t||s) = 1/2 ln 2 + 1/2 ln 2/3   = 0.143841
    student, teacher = pixel(0, 2 * math.log(3)), pixel(0, 0)
    found = [kd(student, teacher, temperature=2, kl_direction=how) for how in BOTH]
    assert [value.item() for value in found] == pytest.approx(
        [0.130812, 0.143841], abs=1e-6
    )


def test_the_divergence_is_a_mean_over_pixels() -> None:
    alike, unlike = pixel(0, 0), pixel(0, 8 * math.log(3))
    one = kd(unlike, alike)
    two = kd(torch.cat([unlike, alike], dim=3), torch.cat([alike, alike], dim=3))
    assert two.item() == pytest.approx(one.item() / 2)


@pytest.mark.parametrize("how", BOTH)
def test_the_divergence_agrees_with_a_reference(how: str) -> None:
    student, teacher = logits(0), logits(1)
    own, told = (
        np.exp(z.numpy() / 4) / np.exp(z.numpy() / 4).sum(1, keepdims=True)
        for z in (student, teacher)
    )
    first, second = (own, told) if how == "student_teacher" else (told, own)
    wanted = (first * np.log(first / second)).sum(1).mean()
    found = kd(student, teacher, kl_direction=how)
    assert found.item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("how", BOTH)
def test_logits_that_differ_by_a_constant_a_pixel_have_no_divergence(how: str) -> None:
    shift = torch.randn(2, 1, 3, 4, dtype=torch.float64)
    student, teacher = logits(0), logits(1)
    assert kd(student + shift, student, kl_direction=how).item() == pytest.approx(
        0, abs=1e-12
    )
    plain = kd(student, teacher, kl_direction=how)
    assert plain > 0
    assert kd(student + shift, teacher, kl_direction=how).item() == pytest.approx(
        plain.item(), abs=1e-12
    )


def expected_gradient(own: Tensor, told: Tensor, how: str) -> Tensor:
    """Of one pixel's KL with respect to the student's logits, tau 4 (dossier, 0)."""
    p, q = (own / 4).softmax(1), (told / 4).softmax(1)
    if how == "teacher_student":
        return (p - q) / 4
    kl = (p * (p / q).log()).sum(1, keepdim=True)
    return p * ((p / q).log() - kl) / 4


@pytest.mark.parametrize("how", BOTH)
def test_the_gradient_has_its_formula_and_that_of_finite_differences(how: str) -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    kd(student, teacher, kl_direction=how).backward()
    assert student.grad is not None
    pixels = 2 * 3 * 4
    formula = expected_gradient(student.detach(), teacher, how) / pixels
    assert torch.allclose(student.grad, formula, atol=1e-12)
    step = 1e-6
    for place in ((0, 0, 0, 0), (1, 2, 1, 3), (0, 1, 2, 2)):
        moved = torch.zeros_like(teacher)
        moved[place] = step
        up, down = (
            kd(student.detach() + sign * moved, teacher, kl_direction=how)
            for sign in (1, -1)
        )
        slope = ((up - down) / (2 * step)).item()
        assert student.grad[place].item() == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("how", BOTH)
def test_tau_squared_multiplies_by_exactly_16(how: str) -> None:
    student, teacher = logits(0), logits(1)
    plain, scaled = (
        kd(student, teacher, kl_direction=how, tau_squared=on) for on in (False, True)
    )
    assert scaled.item() == 16 * plain.item()


@pytest.mark.parametrize("how", BOTH)
def test_at_temperature_1_it_is_plain_kl(how: str) -> None:
    student, teacher = logits(0), logits(1)
    first, second = student, teacher
    if how == "teacher_student":
        first, second = teacher, student
    # torch's target is the first argument of the divergence
    wanted = nn.functional.kl_div(
        second.log_softmax(1), first.softmax(1), reduction="none"
    ).sum(1)
    found = kd(student, teacher, temperature=1, kl_direction=how)
    assert found.item() == pytest.approx(wanted.mean().item(), abs=1e-12)


@pytest.mark.parametrize("how", BOTH)
def test_hot_both_directions_are_half_the_variance_of_the_difference(how: str) -> None:
    student, teacher = logits(0), logits(1)
    apart = student - teacher
    apart = apart - apart.mean(1, keepdim=True)
    limit = apart.square().sum(1).mean() / (2 * 3)
    found = kd(student, teacher, temperature=1e3, tau_squared=True, kl_direction=how)
    assert found.item() == pytest.approx(limit.item(), rel=1e-2)


@pytest.mark.parametrize("how", BOTH)
@pytest.mark.parametrize("size", [200.0, -200.0])
def test_extreme_logits_stay_finite(how: str, size: float) -> None:
    student = torch.tensor([size, -size, 0.0])[None, :, None, None].requires_grad_()
    teacher = torch.tensor([-size, size, 0.0])[None, :, None, None]
    found = kd(student, teacher, temperature=1, kl_direction=how)
    found.backward()
    assert torch.isfinite(found)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_cross_entropy_is_worked_out_by_hand() -> None:
    # p = (1/4, 3/4): -ln 3/4 for class 1, -ln 1/4 for class 0
    found = [
        medaka.segmentation_loss(
            pixel(0, math.log(3)), torch.full((1, 1, 1), label)
        ).item()
        for label in (0, 1)
    ]
    assert found == pytest.approx([math.log(4), math.log(4 / 3)])


def test_cross_entropy_agrees_with_a_reference() -> None:
    given, labels = logits(2), batch_of().labels
    prob = np.exp(given.numpy()) / np.exp(given.numpy()).sum(1, keepdims=True)
    wanted = -np.log(np.take_along_axis(prob, labels.numpy()[:, None], 1)).mean()
    found = medaka.segmentation_loss(given, labels)
    assert found.item() == pytest.approx(wanted, abs=1e-12)


# ---- equation 4 ----


def terms(alpha: float, batch: Batch | None = None, **settings: Any) -> Any:
    student, teacher = Fixed(logits(0).float()), Fixed(logits(1).float())
    how = Distillation(alpha=alpha, **settings)
    found = medaka.student_terms(student, teacher, batch or batch_of(), how)
    return student, teacher, found


def total(alpha: float) -> float:
    return float(sum(term.item() for term in terms(alpha)[2].values()))


def test_alpha_0_is_cross_entropy_alone() -> None:
    plain = medaka.segmentation_loss(logits(0).float(), batch_of().labels)
    assert total(0) == pytest.approx(plain.item())
    alone = medaka.student_terms(
        Fixed(logits(0).float()), None, batch_of(), Distillation()
    )
    assert list(alone) == ["cross_entropy"]
    assert alone["cross_entropy"].item() == pytest.approx(plain.item())


def test_at_alpha_1_no_label_is_read() -> None:
    batch = batch_of()
    poisoned = Batch(batch.image, batch.labels + 1000, batch.annotated)
    assert terms(1, batch)[2] == terms(1, poisoned)[2]
    assert list(terms(1)[2]) == ["distillation"]


def test_the_loss_is_linear_in_alpha() -> None:
    none, some, half, all_ = (total(alpha) for alpha in (0, 0.1, 0.5, 1))
    assert half == pytest.approx((none + all_) / 2)
    assert some == pytest.approx(0.9 * none + 0.1 * all_)


@pytest.mark.parametrize("how", BOTH)
def test_the_teacher_gets_no_gradient(how: str) -> None:
    student, teacher, found = terms(0.1, kl_direction=how)
    sum(found.values()).backward()
    assert student.logits.grad is not None
    assert teacher.logits.grad is None


@pytest.mark.parametrize("how", BOTH)
def test_a_student_that_starts_as_the_teacher_has_nothing_to_distil(how: str) -> None:
    torch.manual_seed(0)

    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))

    teacher, student = network().eval(), network().eval()
    student.load_state_dict(teacher.state_dict())
    batch = Batch(
        torch.rand(2, 1, 5, 6),
        torch.zeros(2, 3, 4, dtype=torch.int64),
        torch.ones(2, 2, dtype=torch.bool),
    )
    how_ = Distillation(alpha=1, kl_direction=how)
    loss = medaka.student_terms(student, teacher, batch, how_)["distillation"]
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7)
    for parameter in student.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() < 1e-6


# ---- the recipe ----

ANY: dict[str, Any] = {"method": "medaka", "data": [{"path": "x"}]}
NONE = {"quality": {"source": "none"}}


def recipe(**values: Any) -> Config:
    return parse(Config, {**ANY, **values}, "r.yaml")


def test_the_paper_s_numbers_are_the_defaults() -> None:
    config = recipe(**NONE)
    told = config.distillation
    assert (told.alpha, told.temperature) == (0.1, 4)
    assert (told.kl_direction, told.tau_squared) == ("student_teacher", False)
    assert (config.network.name, config.patch_vox) == ("resnet18-unet", (256, 256))
    assert config.init == "teacher"
    for training, epochs in ((config.teacher_training, 15), (config.training, 5)):
        assert (training.epochs, training.batch) == (epochs, 64)
        assert (training.learning_rate, training.optimiser) == (3e-4, "adam")
        assert (training.schedule, training.weight_decay) == ("constant", 0)
        assert not training.amsgrad
    assert config.quality.slices == 1000


def test_what_the_paper_s_recipe_says_is_the_default() -> None:
    values = load_recipe(find_recipe(Path("medaka/paper")))
    written = parse(Config, values, "paper")
    default = recipe(**NONE)
    assert written.distillation == default.distillation
    assert written.preprocessing == default.preprocessing
    assert (written.patch_vox, written.network) == (default.patch_vox, default.network)
    steps = {"iterations_per_epoch": 1078}
    assert written.training == default.training.model_copy(update=steps)
    assert written.teacher_training == default.teacher_training.model_copy(update=steps)
    assert written.quality.source == "reviews"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, r"quality\.reviews is empty"),
        ({"quality": {"source": "reviews", "reviews": "v"}}, r"quality\.labels is"),
        ({"quality": {"source": "model"}}, r"quality\.model is empty"),
        ({"quality": {"source": "simulated"}}, r"quality\.reference is empty"),
        ({**NONE, "patch_vox": [32, 32, 32]}, "medaka works on slices"),
        ({**NONE, "distillation": {"alpha": 1.5}}, "less than or equal to 1"),
        ({"quality": {"source": "none", "size_vox": 100}}, "a multiple of 32"),
        (
            {**NONE, "equal_steps": True, "training": {"iterations_per_epoch": 70}},
            "no whole number of epochs of 70",
        ),
    ],
)
def test_what_a_recipe_lacks_is_named(values: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        recipe(**{"network": {"name": "unet", "parameters": {"stages": 3}}, **values})


def test_without_pseudo_labels_no_verdicts_are_needed() -> None:
    assert recipe(pseudo=False).quality.source == "reviews"


def test_the_paper_s_recipe_trains_the_teacher_that_it_names_later() -> None:
    first = ("pseudo=false", "init=scratch", "distillation.alpha=0")
    values = load_recipe(find_recipe(Path("medaka/paper")), first)
    config = parse(Config, values, "medaka/paper")
    assert config.teacher == Path("teacher/model")  # which is not there yet
    cases = Cases(("CT",), ("brain",), (), (), (), ())
    assert medaka.checked(config, cases) is cases


ROWS = {  # pseudo, alpha, init, source -> needs a teacher
    "fully supervised": (False, 0, "scratch", "none", False),
    "pseudo-labelling": (True, 0, "scratch", "none", True),
    "distillation": (True, 0.1, "scratch", "none", True),
    "checkpoint": (True, 0, "teacher", "none", True),
    "quality": (True, 0, "scratch", "proxy", True),
    "proposed": (True, 0.1, "teacher", "proxy", True),
}


def row(name: str, **more: Any) -> dict[str, Any]:
    pseudo, alpha, init, source, _ = ROWS[name]
    return {
        "pseudo": pseudo,
        "distillation": {"alpha": alpha},
        "init": init,
        "quality": {"source": source, **more},
    }


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_the_paper_s_table_is_trained_for_as_many_steps(name: str) -> None:
    config = recipe(
        **row(name),
        equal_steps=True,
        teacher_training={"epochs": 3, "iterations_per_epoch": 20},
        training={"epochs": 2, "iterations_per_epoch": 10},
    )
    assert config.needs_teacher == ROWS[name][4]
    before = config.teacher_training.steps if config.init == "teacher" else 0
    assert before + config.student_training.steps == 80


def test_the_log_says_what_ran_and_what_is_not_in_the_paper() -> None:
    plain = recipe(**row("proposed")).in_words
    assert "0.9 CE + 0.1 KL(student || teacher), tau 4; starts from teacher" in plain
    assert "proxy (not in the paper)" in plain
    told = {"kl_direction": "teacher_student", "tau_squared": True}
    assert "0.1 16 KL(teacher || student)" in recipe(**NONE, distillation=told).in_words


# ---- slices ----


def stored_case(folder: Path, depth: int = 6) -> StoredCase:
    """A case whose voxels hold their z, with an organ in slice 4."""
    folder.mkdir(parents=True)
    image = np.broadcast_to(
        np.arange(depth, dtype=np.float16)[None, :, None, None], (1, depth, 8, 8)
    )
    labels = np.zeros((depth, 8, 8), np.uint8)
    labels[4, 2:4, 2:4] = 1
    np.save(folder / "image.npy", image)
    np.save(folder / "labels.npy", labels)
    case = StoredCase(folder.name, folder, (True,))
    case.set_places(labels)
    return case


def drawn(
    chosen: list[ChosenSlices], foreground: float = 0.0, steps: int = 40
) -> tuple[list[int], SlicePatches]:
    """Slices that patches are of."""
    config = recipe(
        **NONE,
        network={"name": "unet", "parameters": {"stages": 3}},
        patch_vox=[8, 8],
        training={"batch": 4, "foreground": foreground},
        augmentation={"probability": 0},
    )
    source = SlicePatches(chosen, config, config.training, "student")
    images = [source.batch(step).image for step in range(steps)]
    return torch.cat(images)[:, 0, 0, 0].int().tolist(), source


def test_only_chosen_slices_are_drawn_and_each_as_often(tmp_path: Path) -> None:
    one, other = (stored_case(tmp_path / name) for name in "ab")
    chosen = [ChosenSlices(one, np.array([1, 3])), ChosenSlices(other, np.array([5]))]
    found, source = drawn(chosen)
    assert source.count == 3
    counts = np.bincount(found)
    assert set(np.flatnonzero(counts)) == {1, 3, 5}
    assert counts[[1, 3, 5]].min() > 160 / 3 * 0.7


def test_a_patch_has_the_labels_of_its_slice(tmp_path: Path) -> None:
    case = stored_case(tmp_path / "a")
    _, source = drawn([ChosenSlices.all_of(case)], steps=1)
    for step in range(10):
        batch = source.batch(step)
        assert batch.labels.dtype == torch.int64
        assert not batch.labels.requires_grad
        for image, labels in zip(batch.image, batch.labels, strict=True):
            z = int(image[0, 0, 0])
            assert np.array_equal(labels.numpy(), np.asarray(case.labels)[z])


def test_centred_samples_are_of_slices_that_show_an_organ(tmp_path: Path) -> None:
    case = stored_case(tmp_path / "a")
    assert set(drawn([ChosenSlices.all_of(case)], 1.0)[0]) == {4}
    # where no chosen slice shows one, any is drawn
    assert set(drawn([ChosenSlices(case, np.array([0, 2]))], 1.0)[0]) == {0, 2}


def test_a_case_without_an_accepted_slice_is_left_out(tmp_path: Path) -> None:
    one, other = (stored_case(tmp_path / name) for name in "ab")
    nothing = ChosenSlices(other, np.array([], dtype=np.int64))
    assert drawn([ChosenSlices.all_of(one), nothing])[1].count == 6


def test_empty_slices_two_or_more_from_every_organ_are_background() -> None:
    labels = np.zeros((9, 2, 2), np.uint8)
    labels[3, 0, 0] = 1
    labels[4, 1, 1] = 2
    assert background(labels, 1).nonzero()[0].tolist() == [0, 1, 2, 5, 6, 7, 8]
    assert background(labels, 2).nonzero()[0].tolist() == [0, 1, 6, 7, 8]
    assert background(labels, 4).nonzero()[0].tolist() == [8]
    assert not background(labels, None).any()


def test_a_scan_in_which_nothing_was_found_has_no_background() -> None:
    assert not background(np.zeros((5, 2, 2), np.uint8), 1).any()


# ---- whole runs ----


@pytest.fixture(scope="module")
def fish(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small made fish."""
    folder = tmp_path_factory.mktemp("samples")
    write_sample("fish", folder / "fish", cases=8, size=32, seed=3)
    return folder


SMALL = {
    "size_vox": 32,
    "width": 4,
    "bad_below": 0.02,
    "slices": 120,
    "training": {**SHORT, "batch": 8},
}


def run_of(fish: Path, folder: Path, **values: Any) -> Run:
    given = {
        "method": "medaka",
        "name": "made",
        "data": [{"path": "fish", "cases": "0:3"}],
        "unlabelled": [{"path": "fish", "cases": "3:6"}],
        "test": [{"path": "fish", "cases": "6:7"}],
        "network": {"name": "unet", "parameters": {"width": 4, "stages": 3}},
        "patch_vox": [24, 32],
        "teacher_training": {**SHORT, "epochs": 8, "foreground": 0.7},
        "training": SHORT,
        "device": "cpu",
        **values,
    }
    return Run.create(folder, prepare(given, "recipe", fish))


def done(run: Run) -> Run:
    with run.executing():
        fit(run)
    return run


def weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def quality(source: str, **more: Any) -> dict[str, Any]:
    return {"quality": {**SMALL, "source": source, **more}}


def counted(run: Run, stage: str, key: str) -> int:
    events, _ = run.events()
    return next(e[key] for e in events if e.get("stage") == stage and key in e)


@pytest.fixture(scope="module")
def whole(fish: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The whole path, with verdicts from truth."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return done(run_of(fish, folder, **quality("simulated", reference="fish")))


@pytest.mark.slow
def test_a_run_leaves_teacher_classifier_student_and_scores(whole: Run) -> None:
    student = Model.open(whole.model_folder)
    teacher = Model.open(whole.folder / "teacher")
    judge = Model.open(whole.folder / "quality")
    assert student.card.provenance.teachers == (teacher.fingerprint,)
    assert (student.card.role, teacher.card.role) == ("student", "teacher")
    assert judge.card.role == "quality-classifier"
    assert judge.card.classes.names == student.card.classes.names
    with (whole.folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"made", "made-teacher"}
    assert {row["case"] for row in rows} == {"fish_007"}
    notes = [e["message"] for e in whole.events()[0] if e["event"] == "note"]
    assert "quality from simulated (not in the paper)" in notes[0]
    assert not (whole.partial / "cases").exists()


@pytest.mark.slow
def test_every_slice_is_scored_and_labelled_ones_are_never_filtered(whole: Run) -> None:
    with (whole.folder / "scores.csv").open(encoding="utf-8") as file:
        scores = list(csv.DictReader(file))
    assert len(scores) == 3 * 80
    assert {row["case"] for row in scores} == {"fish_004", "fish_005", "fish_006"}
    threshold = Model.open(whole.folder / "quality").card.calibration.threshold
    accepted = counted(whole, "accepted", "accepted")
    assert accepted == sum(float(row["p_good"]) >= threshold - 1e-6 for row in scores)
    assert counted(whole, "teacher", "slices") == 3 * 80
    assert counted(whole, "student", "slices") == 3 * 80 + accepted  # |X_L| + |X_R|


@pytest.mark.slow
def test_a_threshold_of_0_keeps_all_and_above_1_none(
    whole: Run, fish: Path, tmp_path: Path
) -> None:
    models = {"teacher": str(whole.folder / "teacher")}
    kept = {}
    for threshold in (0, 0.5, 1.5):
        given = quality("model", model=str(whole.folder / "quality"))
        given["quality"]["threshold"] = threshold
        run = done(run_of(fish, tmp_path / f"{threshold}", **models, **given, test=[]))
        kept[threshold] = counted(run, "student", "slices")
        assert not (run.folder / "teacher").exists()
    assert (kept[0], kept[1.5]) == (6 * 80, 3 * 80)
    assert kept[1.5] <= kept[0.5] <= kept[0]


@pytest.mark.slow
def test_background_is_learnt_from_whatever_the_classifier_says(
    whole: Run, fish: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted = medaka.pseudo_labelled

    def in_ten_slices(*given: Any) -> list[Labelled]:
        found = [replace(one, labels=np.array(one.labels)) for one in predicted(*given)]
        for one in found:
            one.labels[:] = 0
            one.labels[30:40, 5, 5] = 1
        return found

    monkeypatch.setattr(medaka, "pseudo_labelled", in_ten_slices)
    given = quality("model", model=str(whole.folder / "quality"), threshold=1.5)
    given["quality"]["background_from"] = 2
    teacher = str(whole.folder / "teacher")
    run = done(run_of(fish, tmp_path / "run", teacher=teacher, **given, test=[]))
    assert counted(run, "accepted", "background") == 3 * (80 - 12)
    assert counted(run, "student", "slices") == 3 * 80 + 3 * (80 - 12)


@pytest.mark.slow
def test_pseudo_labels_are_the_teacher_s_best_class(
    whole: Run, fish: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdseg_train.methods.shutil.rmtree", lambda *_, **__: None)
    teacher = str(whole.folder / "teacher")
    values = {"teacher": teacher, "quality": {"source": "none"}, "test": []}
    run = done(run_of(fish, tmp_path / "run", **values))
    network = Model.open(Path(teacher)).network("cpu")
    folder = run.partial / "cases-no-more" / "0003-fish_004"
    image = torch.from_numpy(np.load(folder / "image.npy").astype(np.float32))
    with torch.inference_mode():
        best = network(image.movedim(1, 0)).argmax(dim=1)  # one window a slice
    assert np.array_equal(np.load(folder / "labels.npy"), best.numpy())


@pytest.fixture(scope="module")
def by_proxy(fish: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The path with the most stages, never stopped."""
    folder = tmp_path_factory.mktemp("runs") / "proxy"
    return done(run_of(fish, folder, **quality("proxy"), test=[]))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["teacher", "fold-2", "quality", "student"])
def test_a_run_stopped_in_any_stage_resumes_to_the_same_weights(
    fish: Path,
    tmp_path: Path,
    by_proxy: Run,
    stage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut = run_of(fish, tmp_path / "cut", **quality("proxy"), test=[])
    progress = Run.progress

    def stop_there(self: Run, step: int, total: int, **more: Any) -> None:
        progress(self, step, total, **more)
        if more.get("stage") == stage:
            self.request_stop()

    with monkeypatch.context() as patched:
        patched.setattr("kdseg_train.loop.PROGRESS_SECONDS", 0.0)
        patched.setattr(Run, "progress", stop_there)
        with pytest.raises(StopRequested), cut.executing():
            fit(cut)
    assert not cut.model_folder.exists()
    done(cut)
    for name in ("teacher", "folds/fold-2", "quality", "model"):
        assert weights(cut.folder / name) == weights(by_proxy.folder / name)
    for name in ("scores.csv", "verdicts.csv", "quality.csv"):
        assert (cut.folder / name).read_text() == (by_proxy.folder / name).read_text()


@pytest.mark.slow
def test_people_s_verdicts_are_cut_from_the_predictions_they_judged(
    fish: Path, tmp_path: Path
) -> None:
    labels = fish / "fish" / "labelsTr"  # stands for predictions; every slice is good
    verdicts = simulate(
        SimulateConfig(reference=labels, labels=labels, out=tmp_path / "v.csv"),
        lambda done, total: None,
    )
    lines = (tmp_path / "v.csv").read_text().splitlines()
    kept = [line for line in lines[1:] if line[:8] in ("fish_001", "fish_004")]
    spoilt = [line.replace("good", "bad") for line in kept[::2]] + kept[1::2]
    (tmp_path / "v.csv").write_text("\n".join([lines[0], *spoilt]) + "\n")
    assert verdicts
    given = quality("reviews", reviews=str(tmp_path / "v.csv"), labels=str(labels))
    run = done(run_of(fish, tmp_path / "run", **given, test=[]))
    assert counted(run, "quality", "slices") == len(kept)


@pytest.mark.slow
def test_the_paper_s_student_starts_as_the_teacher_ended(
    fish: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: dict[str, dict[str, Tensor]] = {}

    def noting(stage: Stage, run: Run, device: torch.device) -> None:
        state = stage.network.state_dict()
        begun[stage.name] = {name: value.clone() for name, value in state.items()}
        train(stage, run, device)

    monkeypatch.setattr("kdseg_train.targets.train_stage", noting)
    short = {**SHORT, "epochs": 1, "iterations_per_epoch": 2}
    small = {"decoder_widths": [4, 4, 4, 4, 4]}
    values = {
        "network": {"name": "resnet18-unet", "parameters": small},
        "patch_vox": [32, 64],
        "teacher_training": short,
        "training": short,
        "pseudo": False,
        "distillation": {"alpha": 1},
        "test": [],
    }
    run = done(run_of(fish, tmp_path / "run", **values))
    teacher = Model.open(run.folder / "teacher").network("cpu")
    ended = teacher.state_dict()
    assert set(begun["student"]) == set(ended)
    for name, value in ended.items():
        assert torch.equal(begun["student"][name], value), name
    # also what its batch normalisation has seen, which is not where it began
    mean = "encoder.bn1.running_mean"
    assert not torch.equal(begun["teacher"][mean], ended[mean])
    # so that in evaluation mode there is nothing to learn at the first step
    student = Model.open(run.folder / "teacher").network("cpu")
    student.load_state_dict(begun["student"])
    batch = Batch(
        torch.rand(2, 1, 32, 64),
        torch.zeros(2, 32, 64, dtype=torch.int64),
        torch.ones(2, 5, dtype=torch.bool),
    )
    found = medaka.student_terms(student, teacher, batch, Distillation(alpha=1))
    found["distillation"].backward()
    assert found["distillation"].item() == pytest.approx(0, abs=1e-7)
    for parameter in student.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() < 1e-6


@pytest.mark.slow
def test_without_pseudo_labels_there_is_one_network(fish: Path, tmp_path: Path) -> None:
    run = done(run_of(fish, tmp_path / "run", **row("fully supervised"), test=[]))
    assert Model.open(run.model_folder).card.provenance.teachers == ()
    assert not (run.folder / "teacher").exists()
    assert counted(run, "student", "slices") == 3 * 80


# ---- what is refused, before anything is trained ----


def refused(run: Run, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says), run.executing():
        fit(run)
    assert not (run.folder / "teacher").exists()


def test_an_unlabelled_case_that_is_a_test_case_is_refused(
    fish: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataSetError, match=r"fish_007.*kept for testing"):
        run_of(
            fish,
            tmp_path / "run",
            **quality("none"),
            unlabelled=[{"path": "fish", "cases": "3:7"}],
        )


def test_nothing_to_pseudo_label_is_refused(fish: Path, tmp_path: Path) -> None:
    run = run_of(fish, tmp_path / "run", **quality("none"), unlabelled=[])
    refused(run, DataSetError, "no unlabelled case")


def test_partly_annotated_cases_are_refused(fish: Path, tmp_path: Path) -> None:
    data = [
        {"path": "fish", "cases": "0:2"},
        {"path": "fish", "cases": "2:3", "annotated": ["brain"]},
    ]
    run = run_of(fish, tmp_path / "run", **quality("none"), data=data)
    refused(run, DataSetError, "case fish_003 does not annotate eyes")


def verdicts_on(folder: Path, *cases: str) -> dict[str, Any]:
    lines = ["case,axis,index,verdict,source"]
    for case in cases:
        lines += [f"{case},0,1,good,human", f"{case},0,2,bad,human"]
    path = folder / "v.csv"
    path.write_text("\n".join(lines) + "\n")
    return quality("reviews", reviews=str(path), labels=str(folder))


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("fish_007", "kept for validation or testing"),
        ("fish_008", "no case of this recipe"),
    ],
)
def test_verdicts_on_scans_kept_apart_are_refused(
    fish: Path, tmp_path: Path, case: str, says: str
) -> None:
    given = verdicts_on(tmp_path, "fish_004", case)
    refused(run_of(fish, tmp_path / "run", **given), DataSetError, says)


def test_verdicts_of_one_kind_are_refused(fish: Path, tmp_path: Path) -> None:
    given = verdicts_on(tmp_path)
    refused(run_of(fish, tmp_path / "run", **given), DataSetError, "0 good and 0 bad")


def test_simulated_verdicts_without_truth_are_refused(
    fish: Path, tmp_path: Path
) -> None:
    write_sample("fish", tmp_path / "few", cases=4, size=32, seed=3)
    given = quality("simulated", reference=str(tmp_path / "few"))
    run = run_of(fish, tmp_path / "run", **given)
    refused(run, DataSetError, "no case 'fish_005' with labels")


def test_models_of_another_kind_are_refused(
    fish: Path, tmp_path: Path, model_folder: Any
) -> None:
    other = str(model_folder().folder)
    run = run_of(fish, tmp_path / "a", **quality("none"), teacher=other)
    refused(run, ModelError, "segments liver, spleen; the recipe has brain")
    run = run_of(fish, tmp_path / "b", **quality("model", model=other))
    refused(run, ModelError, "must be a quality-classifier")


# ---- where a slice lies ----


@pytest.mark.parametrize(
    ("orientation", "axis", "first"),
    [("RAS", 0, 0), ("RAI", 0, 79), ("RSA", 1, 0), ("ASR", 2, 0), ("ASL", 2, 31)],
)
def test_slices_are_named_by_the_axis_of_the_stored_scan(
    fish: Path, orientation: str, axis: int, first: int
) -> None:
    given = {**ANY, **NONE, "data": [{"path": "fish"}]}
    config = parse(
        Config, {**given, "preprocessing": {"orientation": orientation}}, "r"
    )
    case = resolve(config, fish).training[0]
    found, index = stored_slices(case, config.preprocessing)
    assert (found, index[0]) == (axis, first)
    assert sorted(index) == list(range((80, 24, 32)[axis]))


def test_slices_of_a_resized_case_are_named_by_the_nearest_stored_one(
    fish: Path,
) -> None:
    config = recipe(**NONE, preprocessing={"resize_vox": [20, 24, 32]})
    given = config.model_copy(
        update={"data": recipe(**NONE, data=[{"path": "fish"}]).data}
    )
    case = resolve(given, fish).training[0]
    assert stored_slices(case, config.preprocessing)[1].tolist() == list(
        range(2, 80, 4)
    )


def test_a_new_recipe_needs_only_the_unlabelled_scans(
    fish: Path, tmp_path: Path
) -> None:
    new_recipe("medaka", [fish / "fish"], tmp_path / "r.yaml")
    config = parse(Config, load_recipe(tmp_path / "r.yaml"), "r.yaml")
    assert (config.patch_vox, config.quality.source) == ((32, 32), "proxy")
    assert config.training == recipe(**NONE).training


def test_settings_are_described() -> None:
    schema = json.dumps(Config.model_json_schema())
    assert "KL(student || teacher) as eq. 3 is printed" in schema
