"""KD-Net: every invariant of the method, on small numbers."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdseg_train.config import find_recipe, load_recipe, parse
from kdseg_train.data import Cases
from kdseg_train.folds import Part
from kdseg_train.layouts import Case
from kdseg_train.losses import binary_cross_entropy, soft_dice
from kdseg_train.methods import kd_net
from kdseg_train.methods.kd_net import Config, Distillation
from kdseg_train.outputs import Output, chain_of, check_regions
from kdseg_train.patches import Batch
from napari_kdseg.errors import DataSetError, RecipeError
from napari_kdseg.models.networks.unet import UNet
from napari_kdseg.volumes.formats import write_volume
from napari_kdseg.volumes.volume import Grid

SOFTMAX = Output()
NESTED = Output((2, 1, 3))  # oedema is WT's own class, necrotic core TC's
BRATS = {"WT": ("ncr", "ed", "et"), "TC": ("ncr", "et"), "ET": ("et",)}
ANY: dict[str, Any] = {"method": "kd-net", "data": [{"path": "x"}]}


class Fixed(nn.Module):
    """A network that answers what it was told to, and can be trained to differ."""

    def __init__(self, logits: Tensor, bottleneck: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())
        self.bottle = nn.Parameter(bottleneck.clone())

    def with_bottleneck(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits, self.bottle


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(seed: int = 0) -> tuple[Fixed, Fixed, Batch]:
    """Student, teacher and a batch of 2 samples, 4 classes, 3 x 4 pixels."""
    student = Fixed(random(2, 4, 3, 4, seed=seed), random(2, 5, 2, 2, seed=seed + 1))
    teacher = Fixed(
        random(2, 4, 3, 4, seed=seed + 2), random(2, 5, 2, 2, seed=seed + 3)
    )
    labels = torch.arange(24).reshape(2, 3, 4) % 4
    batch = Batch(random(2, 3, 3, 4), labels, torch.ones(2, 3, dtype=torch.bool))
    return student, teacher.requires_grad_(requires_grad=False), batch


def terms(output: Output = SOFTMAX, **settings: Any) -> dict[str, Tensor]:
    student, teacher, batch = pair()
    asked = Distillation.model_validate(settings)
    return kd_net.kd_net_terms(student, teacher, batch, 1, asked, output)


def loss(output: Output = SOFTMAX, **settings: Any) -> float:
    return float(sum(term.item() for term in terms(output, **settings).values()))


# ---- equation 3: the bottlenecks ----


def bottle(*values: float) -> Tensor:
    return torch.tensor(values).log().reshape(1, -1, 1, 1)


def test_the_divergence_has_the_teacher_first_and_is_worked_out_by_hand() -> None:
    # q = (0.8, 0.2), p = (0.5, 0.5): 0.8 ln 1.6 + 0.2 ln 0.4 = 0.192745
    told, own = bottle(0.8, 0.2), bottle(0.5, 0.5)
    found = kd_net.bottleneck_loss(told, own, "vector")
    assert found.item() == pytest.approx(0.192745, abs=1e-6)
    # the other way round: 0.5 ln 0.625 + 0.5 ln 2.5 = 0.223144
    swapped = kd_net.bottleneck_loss(own, told, "vector")
    assert swapped.item() == pytest.approx(0.223144, abs=1e-6)


def test_a_vector_is_normalised_as_a_whole_and_channels_at_each_voxel() -> None:
    # one channel, two voxels: as a vector (0.8, 0.2) against (0.5, 0.5); of one
    # channel alone each voxel is 1, whatever it holds
    told, own = bottle(0.8, 0.2).reshape(1, 1, 1, 2), bottle(1, 1).reshape(1, 1, 1, 2)
    vector = kd_net.bottleneck_loss(told, own, "vector").item()
    assert vector == pytest.approx(0.192745, abs=1e-6)
    assert kd_net.bottleneck_loss(told, own, "channel").item() == 0
    # two channels, two voxels alike: twice the value of one
    two = bottle(0.8, 0.2).repeat(1, 1, 1, 2)
    even = bottle(0.5, 0.5).repeat(1, 1, 1, 2)
    twice = kd_net.bottleneck_loss(two, even, "channel").item()
    assert twice == pytest.approx(2 * 0.192745, abs=1e-6)


@pytest.mark.parametrize("norm", ["vector", "channel"])
def test_bottlenecks_diverge_unless_they_are_alike_up_to_a_constant(norm: str) -> None:
    told, own = random(2, 4, 2, 3), random(2, 4, 2, 3, seed=1)
    assert kd_net.bottleneck_loss(told, own, norm).item() > 0.01
    same = kd_net.bottleneck_loss(told, told + 7, norm).item()
    assert same == pytest.approx(0, abs=1e-6)
    moved = kd_net.bottleneck_loss(told - 3, own + 5, norm).item()
    plain = kd_net.bottleneck_loss(told, own, norm).item()
    assert moved == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("norm", ["vector", "channel"])
def test_the_divergence_equals_a_plain_sum_in_double_precision(norm: str) -> None:
    told, own = 3 * random(2, 4, 2, 3), 3 * random(2, 4, 2, 3, seed=1)
    total = 0.0
    for sample in range(2):
        t, o = (np.float64(v[sample].numpy()) for v in (told, own))
        axes = 0 if norm == "channel" else None
        q = np.exp(t) / np.exp(t).sum(axis=axes)
        p = np.exp(o) / np.exp(o).sum(axis=axes)
        total += float((q * np.log(q / p)).sum())
    found = kd_net.bottleneck_loss(told, own, norm).item()
    assert found == pytest.approx(total / 2, rel=1e-5)


def test_the_divergence_reaches_the_student_s_encoder_alone() -> None:
    torch.manual_seed(0)
    student = UNet(3, 1, 4, width=4, stages=3)
    teacher = UNet(3, 2, 4, width=4, stages=3).requires_grad_(requires_grad=False)
    batch = Batch(
        random(1, 2, 8, 8, 8),
        torch.zeros(1, 8, 8, 8, dtype=torch.int64),
        torch.ones(1, 3, dtype=torch.bool),
    )
    settings = Distillation(imitation=0)
    found = kd_net.kd_net_terms(student, teacher, batch, 0, settings, SOFTMAX)
    found["bottleneck"].backward()
    for name, parameter in student.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == name.startswith("encoder."), name
    assert all(parameter.grad is None for parameter in teacher.parameters())


# ---- equations 1, 2 and 4 ----


def test_squared_dice_of_a_soft_target_is_worked_out_by_hand() -> None:
    # p = (0.5, 0.5), t = (1, 0): squared 2 · 0.5 / (0.5 + 1) = 2/3; linear 1 / 2
    prob = torch.tensor([0.5, 0.5]).reshape(1, 1, 1, 2)
    target = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    assert soft_dice(prob, target, "squared").item() == pytest.approx(2 / 3, abs=1e-5)
    assert soft_dice(prob, target, "linear").item() == pytest.approx(1 / 2, abs=1e-5)


def test_only_squared_dice_is_best_where_the_student_equals_a_soft_teacher() -> None:
    soft = torch.tensor([0.7, 0.4, 0.2, 0.1]).reshape(1, 1, 1, 4)
    assert soft_dice(soft, soft, "squared").item() == pytest.approx(1, abs=1e-6)
    # linear: 2 · 0.7 / 2.8 = 0.5, and one-hot does better: 2 · 0.7 / (1 + 1.4) = 0.58
    assert soft_dice(soft, soft, "linear").item() == pytest.approx(0.5, abs=1e-4)
    hard = torch.tensor([1.0, 0, 0, 0]).reshape(1, 1, 1, 4)
    assert soft_dice(hard, soft, "linear").item() == pytest.approx(0.5833, abs=1e-3)


def test_an_organ_that_is_nowhere_costs_nothing_where_the_student_sees_none() -> None:
    nothing = torch.zeros(1, 1, 2, 2)
    assert soft_dice(nothing, nothing, "squared").item() == 1


@pytest.mark.parametrize("output", [SOFTMAX, NESTED])
def test_imitation_of_oneself_costs_no_dice(output: Output) -> None:
    logits = random(2, 4, 3, 4)
    soft = output.logs(logits, 5.0)[0].exp()
    told = soft, output.binarised(logits)
    settings = Distillation(temperature_student=5)
    found = kd_net.imitation_terms(output, logits, told, settings)
    assert found["dice"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("form", ["squared", "linear"])
@pytest.mark.parametrize("output", [SOFTMAX, NESTED])
def test_imitation_equals_a_plain_sum_in_double_precision(
    output: Output, form: str
) -> None:
    own, told = (random(2, 4, 3, 4, seed=seed).double().numpy() for seed in (0, 2))

    def prob(logits: np.ndarray, temperature: float) -> np.ndarray:
        if output.chain:
            order = [0, *output.chain]
            steps = pairwise(order)
            z = np.stack([logits[:, b] - logits[:, a] for a, b in steps], axis=1)
            return np.asarray(1 / (1 + np.exp(-z / temperature)))
        raised = np.exp(logits / temperature)
        return np.asarray(raised / raised.sum(1, keepdims=True))

    p, s = prob(own, 1), prob(told, 5)
    if output.chain:
        hard = (prob(told, 1) >= 0.5).astype(float)
    else:
        hard = np.moveaxis(np.eye(4)[told.argmax(1)], -1, 1)
    bce = -(hard * np.log(p) + (1 - hard) * np.log(1 - p)).mean()
    first = 0 if output.chain else 1
    power = 2 if form == "squared" else 1
    dice = []
    for sample in range(2):
        for channel in range(first, p.shape[1]):
            a, b = p[sample, channel], s[sample, channel]
            total = (a**power).sum() + (b**power).sum()
            dice.append((2 * (a * b).sum() + 1e-5) / (total + 1e-5))
    found = terms(output, imitation=1, bottleneck_weight=0, dice_form=form)
    assert found["kd_bce"].item() == pytest.approx(bce, rel=1e-5)
    assert found["kd_dice"].item() == pytest.approx(1 - np.mean(dice), rel=1e-5)


def test_labels_cost_what_a_plain_sum_in_double_precision_costs() -> None:
    student, _, batch = pair()
    p = student.logits.detach().double().softmax(1).numpy()
    y = np.moveaxis(np.eye(4)[batch.labels.numpy()], -1, 1)
    bce = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    overlap = 2 * (p * y).sum((2, 3)) + 1e-5
    dice = overlap / ((p**2).sum((2, 3)) + (y**2).sum((2, 3)) + 1e-5)
    found = kd_net.label_terms(SOFTMAX, student.logits, batch.labels, "squared")
    assert found["bce"].item() == pytest.approx(bce, rel=1e-5)
    assert found["dice"].item() == pytest.approx(1 - dice[:, 1:].mean(), rel=1e-5)


@pytest.mark.parametrize("form", ["squared", "linear"])
def test_labels_of_nested_regions_cost_what_a_plain_sum_in_double_precision_costs(
    form: str,
) -> None:
    student, _, batch = pair()
    c, known = student.logits.detach().double().numpy(), batch.labels.numpy()
    # outermost first: WT is 2, 1 and 3, TC 1 and 3, ET 3 alone
    inside = [[2, 1, 3], [1, 3], [3]]
    steps = [c[:, 2] - c[:, 0], c[:, 1] - c[:, 2], c[:, 3] - c[:, 1]]
    power = 2 if form == "squared" else 1
    bce, dice = [], []
    for z, members in zip(steps, inside, strict=True):
        p, y = 1 / (1 + np.exp(-z)), np.isin(known, members).astype(float)
        bce.append(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())
        for own, true in zip(p, y, strict=True):
            total = (own**power).sum() + (true**power).sum()
            dice.append((2 * (own * true).sum() + 1e-5) / (total + 1e-5))
    found = kd_net.label_terms(NESTED, student.logits, batch.labels, form)
    assert found["bce"].item() == pytest.approx(np.mean(bce), rel=1e-5)
    assert found["dice"].item() == pytest.approx(1 - np.mean(dice), rel=1e-5)


def test_a_temperature_softens_the_teacher_and_never_its_binary_answer() -> None:
    logits = random(1, 4, 3, 4)
    warm, cold = (SOFTMAX.logs(logits, t)[0].exp() for t in (1e4, 1e-3))
    assert torch.allclose(warm, torch.full_like(warm, 1 / 4), atol=1e-3)
    assert torch.allclose(cold, SOFTMAX.binarised(logits), atol=1e-3)
    assert torch.allclose(SOFTMAX.logs(logits)[0].exp(), logits.softmax(1))
    for output in (SOFTMAX, NESTED):
        for t in (0.1, 5, 100):
            assert torch.equal(output.binarised(logits / t), output.binarised(logits))


@pytest.mark.parametrize("output", [SOFTMAX, NESTED])
def test_the_student_s_temperature_is_one_unless_asked_for(output: Output) -> None:
    assert loss(output) == loss(output, temperature_student=1)
    assert loss(output) != loss(output, temperature_student=5)


# ---- the cross-entropy of one class against the rest ----


def test_cross_entropy_is_least_where_the_student_is_sure_and_right() -> None:
    target = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)

    def cost(first: float, second: float) -> float:
        prob = torch.tensor([first, second]).reshape(1, 1, 1, 2)
        return binary_cross_entropy(prob.log(), (1 - prob).log(), target).item()

    # -(ln 0.9 + ln 0.8) / 2
    assert cost(0.9, 0.2) == pytest.approx(0.164252, abs=1e-6)
    assert cost(1 - 1e-6, 1e-6) < cost(0.9, 0.2) < cost(0.5, 0.5) < cost(0.1, 0.9)


@pytest.mark.parametrize("output", [SOFTMAX, NESTED])
@pytest.mark.parametrize("size", [30.0, 1e4, -1e4])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_sure_answers_stay_finite_and_keep_a_gradient(
    output: Output, size: float, kind: torch.dtype
) -> None:
    made = torch.zeros(1, 4, 1, 2, dtype=kind)
    made[:, 2] = size
    logits = made.clone().requires_grad_()
    wrong = torch.tensor([[[0, 2]]]) if size < 0 else torch.tensor([[[0, 1]]])
    found = kd_net.label_terms(output, logits.float(), wrong, "squared")
    total = found["bce"] + found["dice"]
    total.backward()
    assert torch.isfinite(total)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.any()


# ---- equation 5 ----


def test_without_imitation_and_bottleneck_the_loss_is_that_of_the_labels() -> None:
    student, _, batch = pair()
    alone = kd_net.label_terms(SOFTMAX, student.logits, batch.labels, "squared")
    found = terms(imitation=0, bottleneck_weight=0)
    assert set(found) == {"gt_dice", "gt_bce"}
    assert found["gt_dice"] == alone["dice"]
    assert found["gt_bce"] == alone["bce"]


def test_with_imitation_alone_no_label_is_read() -> None:
    student, teacher, batch = pair()
    poisoned = replace(batch, labels=batch.labels + 10**6)
    settings = Distillation(imitation=1, bottleneck_weight=0)
    asked = [
        kd_net.kd_net_terms(student, teacher, given, 1, settings, SOFTMAX)
        for given in (batch, poisoned)
    ]
    assert asked[0] == asked[1]
    assert set(asked[0]) == {"kd_dice", "kd_bce"}


@pytest.mark.parametrize("name", ["imitation", "bottleneck_weight"])
def test_each_weight_enters_linearly(name: str) -> None:
    asked: list[dict[str, Any]] = [{name: value} for value in (0.2, 0.5, 0.8)]
    low, middle, high = (loss(**settings) for settings in asked)
    assert high - middle == pytest.approx(middle - low, abs=1e-5)
    assert abs(high - middle) > 1e-3


def test_the_loss_is_the_weighted_sum_of_its_three_parts() -> None:
    imitation = loss(imitation=1, bottleneck_weight=0)
    labels = loss(imitation=0, bottleneck_weight=0)
    bottleneck = loss(imitation=0, bottleneck_weight=1) - labels
    # lambda 0.75, alpha 10
    whole = 0.75 * imitation + 0.25 * labels + 10 * bottleneck
    assert loss() == pytest.approx(whole, rel=1e-5)


def test_the_teacher_is_left_alone() -> None:
    student, teacher, batch = pair()
    teacher.requires_grad_()
    found = kd_net.kd_net_terms(student, teacher, batch, 1, Distillation(), SOFTMAX)
    torch.stack(list(found.values())).sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_cached_answers_cost_what_the_teacher_s_own_cost() -> None:
    student, teacher, batch = pair()
    settings = Distillation(bottleneck_weight=0)
    soft = (teacher.logits / 5).softmax(1)[:, None].detach()
    cached = replace(batch, soft=(255 * soft).round() / 255)
    online = kd_net.kd_net_terms(student, teacher, batch, 1, settings, SOFTMAX)
    found = kd_net.kd_net_terms(student, None, cached, 1, settings, SOFTMAX)
    for name, term in online.items():
        assert found[name].item() == pytest.approx(term.item(), abs=0.01)


def test_the_log_says_which_reading_of_the_paper_ran() -> None:
    config = parse(Config, {**ANY, "distillation": {"dice_form": "linear"}}, "r")
    assert config.in_words == (
        "student: 0.75 L_KD + 0.25 L_GT + 10 KL(teacher || student) of bottlenecks, "
        "softmax by vector, mean over samples; softmax output, linear Dice, T 5 on the "
        "teacher and 1 on the student"
    )


def test_a_softened_background_says_next_to_nothing_of_an_organ() -> None:
    # 72 of 32768 voxels; s is 0.57 there and 0.164 elsewhere, as a teacher at T = 5 has
    # it. One number everywhere has 2 * 886.1 / (902.8 + 881.3): what T 5 hides.
    soft = torch.full((1, 1, 32768), 0.164)
    soft[..., :72] = 0.57
    flat = torch.full_like(soft, 0.164)
    assert soft_dice(flat, soft, "squared").item() == pytest.approx(0.9933, abs=1e-3)
    # and an answer that is sure and right has 2 * 41.04 / (72 + 902.8)
    sure = torch.zeros_like(soft)
    sure[..., :72] = 1
    assert soft_dice(sure, soft, "squared").item() == pytest.approx(0.0842, abs=1e-3)


# ---- who sees what ----


def networks() -> tuple[UNet, UNet]:
    torch.manual_seed(0)
    return UNet(2, 1, 4, width=4, stages=3), UNet(2, 3, 4, width=4, stages=3)


def cases_of(channels: tuple[str, ...] = ("t1", "t1ce", "t2")) -> Cases:
    return Cases(channels, ("ncr", "ed", "et"), (), (), (), ())


def test_the_student_sees_its_modality_and_the_teacher_sees_them_all() -> None:
    student, teacher = networks()
    config = parse(Config, {**ANY, "folds": 1}, "r.yaml")
    image = random(2, 3, 8, 8)
    batch = Batch(
        image,
        torch.ones(2, 8, 8, dtype=torch.int64),
        torch.ones(2, 3, dtype=torch.bool),
    )
    hidden = image.clone()
    hidden[:, [0, 2]] = float("nan")
    poisoned = replace(batch, image=hidden)

    def asked(network: UNet, name: Any, channels: tuple[int, ...]) -> list[float]:
        part = Part(name, name, name, Path(), channels)
        objective = kd_net.objective_of(config, cases_of(), network, part, None)
        found = [objective(given) for given in (batch, poisoned)]
        return [sum(term.item() for term in one.values()) for one in found]

    for name in ("baseline", "student"):
        seen, blind = asked(student, name, (1,))
        assert seen == blind
    seen, blind = asked(teacher, "teacher", (0, 1, 2))
    assert math.isfinite(seen)
    assert math.isnan(blind)


# ---- nested regions ----


def test_regions_nest_by_union() -> None:
    assert chain_of(BRATS) == ("ed", "ncr", "et")
    labels = torch.tensor([[[0, 1, 2, 3]]])
    found = NESTED.of_labels(labels, 4)[0, :, 0]
    assert found.tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]
    whole, core, enhancing = found
    assert (enhancing <= core).all()
    assert (core <= whole).all()


def test_softmax_over_classes_is_the_distribution_of_nested_answers() -> None:
    # z = (2, 1, -1): background 1, WT alone e^2, TC e^3, ET e^2, up to a factor
    logits = torch.zeros(1, 4, 1, 1)
    logits[0, [2, 1, 3], 0, 0] = torch.tensor([2.0, 3.0, 2.0])
    assert NESTED.region_logits(logits).flatten().tolist() == [2, 1, -1]
    p, not_p = (value.exp().flatten() for value in NESTED.logs(logits))
    answers = [
        not_p[0] * not_p[1] * not_p[2],
        p[0] * not_p[1] * not_p[2],
        p[0] * p[1] * not_p[2],
        p[0] * p[1] * p[2],
    ]
    nested = torch.stack(answers) / sum(answers)
    found = logits.softmax(1).flatten()[[0, 2, 1, 3]]
    assert torch.allclose(found, nested, atol=1e-6)
    assert int(logits.argmax(1)) == 1  # inside TC and not ET, as z says


@pytest.mark.parametrize(
    "regions",
    [
        {},
        {"WT": ("a", "b"), "TC": ("c",)},
        {"WT": ("a", "b", "c"), "ET": ("a",)},
        {"WT": ("a", "b")},
    ],
)
def test_regions_that_are_no_chain_have_no_sigmoid_output(
    regions: dict[str, Any],
) -> None:
    with pytest.raises(RecipeError, match="sigmoid"):
        parse(Config, {**ANY, "output": "sigmoid", "regions": regions}, "r.yaml")
    parse(Config, {**ANY, "regions": regions}, "r.yaml")


def test_a_region_of_a_class_that_there_is_not_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"regions\.TC is \['core'\]"):
        check_regions({"TC": ("core",)}, ("ncr", "ed"))


# ---- what is refused before anything is trained ----


def labelled(
    folder: Path, name: str, channels: int, annotated: tuple[str, ...] | None = None
) -> Case:
    paths = []
    for channel in range(channels):
        path = folder / f"{name}_{channel}.nii.gz"
        data = np.zeros((2, 2, 2), np.float32)
        write_volume(path, data, Grid.from_affine(np.eye(4), (2, 2, 2)))
        paths.append(path)
    known = ("ncr", "ed", "et") if annotated is None else annotated
    return Case(name, tuple(paths), None, {}, known)


def test_a_case_that_lacks_a_modality_is_named(tmp_path: Path) -> None:
    config = parse(Config, ANY, "r.yaml")
    whole, short = labelled(tmp_path, "anna", 3), labelled(tmp_path, "bert", 2)
    cases = replace(cases_of(), training=(whole, short))
    with pytest.raises(DataSetError, match=r"bert has 2 channels and 3 are needed"):
        kd_net.checked(config, cases)


def test_a_case_without_labels_of_a_class_is_named(tmp_path: Path) -> None:
    config = parse(Config, ANY, "r.yaml")
    partly = labelled(tmp_path, "anna", 3, ("ncr", "ed"))
    with pytest.raises(DataSetError, match="anna has no labels of et"):
        kd_net.checked(config, replace(cases_of(), training=(partly,)))


def test_a_student_of_a_modality_that_there_is_not_is_refused(tmp_path: Path) -> None:
    config = parse(Config, {**ANY, "student_channel": "pet"}, "r.yaml")
    with pytest.raises(RecipeError, match=r"'pet'; the data has t1 \(0\), t1ce \(1\)"):
        kd_net.checked(config, cases_of())


def test_one_modality_makes_no_teacher() -> None:
    config = parse(Config, {**ANY, "student_channel": 0}, "r.yaml")
    with pytest.raises(RecipeError, match="see no more than the student"):
        kd_net.checked(config, cases_of(("t1",)))


def test_a_rate_that_follows_nothing_is_refused(tmp_path: Path) -> None:
    config = parse(Config, {**ANY, "folds": 1}, "r.yaml")
    cases = replace(cases_of(), training=(labelled(tmp_path, "anna", 3),))
    with pytest.raises(RecipeError, match=r"set split\.validation above 0"):
        kd_net.checked(config, cases)


def test_folds_leave_no_other_test_cases() -> None:
    with pytest.raises(RecipeError, match=r"folds is 3.*set split\.test to 0"):
        parse(Config, {**ANY, "split": {"test": 0.2}}, "r.yaml")


def test_a_cache_is_refused_where_bottlenecks_are_compared() -> None:
    values = {**ANY, "teachers_at": "cached"}
    with pytest.raises(RecipeError, match=r"set distillation\.bottleneck_weight to 0"):
        parse(Config, values, "r.yaml")
    parse(Config, {**values, "distillation": {"bottleneck_weight": 0}}, "r.yaml")


# ---- the paper's numbers ----


def test_the_paper_s_numbers_are_the_defaults() -> None:
    settings = Distillation()
    assert (settings.imitation, settings.bottleneck_weight) == (0.75, 10)
    assert (settings.temperature, settings.temperature_student) == (5, 1)
    written = parse(Config, load_recipe(find_recipe(Path("kd-net/paper"))), "paper")
    short = parse(Config, ANY, "short")
    assert written.training == short.training
    assert written.distillation == short.distillation
    assert written.network_spec == short.network_spec
    assert written.augmentation == short.augmentation
    assert (written.folds, written.patch_vox) == (short.folds, short.patch_vox)
    training = written.training
    assert (training.epochs, training.learning_rate) == (500, 1e-4)
    assert training.plateau.factor == 0.2
    assert training.plateau.patience_epochs == 50
