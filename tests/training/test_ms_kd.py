"""MS-KD: every invariant of the method, on small numbers."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdseg_train.config import parse
from kdseg_train.methods import ms_kd
from kdseg_train.methods.ms_kd import Config, Distillation
from kdseg_train.patches import Batch
from kdseg_train.teachers import frozen_network
from napari_kdseg.models.model import Model, NetworkSpec, Tiling
from napari_kdseg.models.networks import build
from napari_kdseg.models.networks.unet import UNet


class Fixed(nn.Module):
    """A network that answers what it was told to, and can be trained to differ."""

    def __init__(self, logits: Tensor, features: Tensor | None = None) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())
        self.taps = nn.Parameter(
            features.clone()
            if features is not None
            else torch.zeros(len(logits), 2, 1, 1)
        )

    def features(
        self, image: Tensor, levels: tuple[int, ...]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        return self.logits, dict.fromkeys(levels, self.taps)


def teacher(*organ_prob: float) -> Tensor:
    """Logits of a teacher that gives its organ these probabilities, 1 2 1 pixels."""
    prob = torch.tensor(organ_prob)
    return torch.stack([1 - prob, prob]).log()[None, :, None, :]


def batch_of(pixels: int, organs: int) -> Batch:
    return Batch(
        torch.zeros(1, 1, 1, pixels),
        torch.zeros(1, 1, pixels, dtype=torch.int64),
        torch.zeros(1, organs, dtype=torch.bool),
    )


LW = Distillation(feature_weight=0)


def stacked(*teachers: Tensor) -> Tensor:
    return torch.stack([logits.softmax(1) for logits in teachers], dim=1)


def loss(student: Tensor, *teachers: Tensor, settings: Distillation = LW) -> Tensor:
    fixed = [Fixed(logits).requires_grad_(False) for logits in teachers]
    batch = batch_of(student.shape[-1], len(teachers))
    terms = ms_kd.distillation_terms(Fixed(student), fixed, batch, settings)
    return torch.stack(list(terms.values())).sum()


def gradient(student: Tensor, *teachers: Tensor, settings: Distillation = LW) -> Tensor:
    network = Fixed(student)
    fixed = [Fixed(logits).requires_grad_(False) for logits in teachers]
    batch = batch_of(student.shape[-1], len(teachers))
    terms = ms_kd.distillation_terms(network, fixed, batch, settings)
    torch.stack(list(terms.values())).sum().backward()
    assert network.logits.grad is not None
    return network.logits.grad


# ---- equations 2, 3 and 5 ----


def test_a_teacher_claims_a_pixel_where_its_organ_is_likelier_than_not() -> None:
    regions = ms_kd.organ_regions(stacked(teacher(0.9, 0.5, 0.1)))
    assert regions.flatten().tolist() == [True, False, False]


def test_background_is_what_no_teacher_claims() -> None:
    regions = ms_kd.organ_regions(
        stacked(teacher(0.9, 0.1, 0.1), teacher(0.1, 0.8, 0.1))
    )
    background = ms_kd.true_background(regions)
    assert background.flatten().tolist() == [False, False, True]
    # without overlap the regions and the background cover each pixel once
    assert (regions.sum(1) + background).flatten().tolist() == [1, 1, 1]


def test_a_teacher_speaks_of_background_and_its_organ_alone() -> None:
    prob = teacher(0.7).softmax(1)
    moved = ms_kd.in_student_classes(prob, organ=1, organs=3)
    assert moved.flatten().tolist() == pytest.approx([0.3, 0, 0.7, 0])


# ---- equations 4 and 6 ----


def test_loss_of_one_organ_and_one_background_pixel_is_worked_out_by_hand() -> None:
    # two teachers, two pixels; the student is uniform over three classes.
    # pixel 1: teacher A says 0.8 -> KL = 0.2 ln 0.6 + 0.8 ln 2.4      = 0.598209
    # pixel 2: A 0.2, B 0.4 -> mean (0.7, 0.1, 0.2)
    #          KL = 0.7 ln 2.1 + 0.1 ln 0.3 + 0.2 ln 0.6                = 0.296793
    # both divided by two pixels
    student = torch.zeros(1, 3, 1, 2)
    found = loss(student, teacher(0.8, 0.2), teacher(0.1, 0.4))
    first = 0.2 * math.log(0.6) + 0.8 * math.log(2.4)
    second = 0.7 * math.log(2.1) + 0.1 * math.log(0.3) + 0.2 * math.log(0.6)
    assert found.item() == pytest.approx((first + second) / 2, abs=1e-6)
    assert (first, second) == pytest.approx((0.598209, 0.296793), abs=1e-6)


def test_a_student_that_repeats_each_region_s_teacher_has_no_loss() -> None:
    # pixel 1 is A's, pixel 2 B's, pixel 3 background: the mean of both
    rows = [[0.1, 0.9, 1e-12], [0.2, 1e-12, 0.8], [0.75, 0.1, 0.15]]
    student = torch.tensor(rows).log().T[None, :, None, :]
    found = loss(student, teacher(0.9, 0.1, 0.2), teacher(0.2, 0.8, 0.3))
    assert found.item() == pytest.approx(0, abs=1e-6)


def test_any_other_student_has_a_loss() -> None:
    assert loss(torch.zeros(1, 3, 1, 1), teacher(0.9), teacher(0.1)).item() > 0.1


def test_gradient_is_student_minus_teacher_in_the_region_and_zero_elsewhere() -> None:
    # dL/dz = (softmax z - q) / pixels on M, here with the background term off
    settings = Distillation(feature_weight=0, background_weight=0)
    found = gradient(
        torch.zeros(1, 3, 1, 2), teacher(0.8, 0.1), teacher(0.1, 0.1), settings=settings
    )
    assert found[0, :, 0, 0].tolist() == pytest.approx(
        [(1 / 3 - 0.2) / 2, (1 / 3 - 0.8) / 2, (1 / 3) / 2], abs=1e-6
    )
    assert found[0, :, 0, 1].tolist() == [0, 0, 0]


def test_what_a_teacher_thinks_inside_another_organ_changes_nothing() -> None:
    student = torch.randn(1, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    sure, unsure = teacher(0.01), teacher(0.4)
    assert torch.equal(
        gradient(student, teacher(0.9), sure), gradient(student, teacher(0.9), unsure)
    )


def test_what_a_teacher_thinks_in_the_background_counts() -> None:
    student = torch.zeros(1, 3, 1, 1)
    assert loss(student, teacher(0.1), teacher(0.01)) != loss(
        student, teacher(0.1), teacher(0.4)
    )


def test_one_teacher_is_ordinary_distillation_on_every_pixel() -> None:
    student = torch.randn(1, 2, 1, 5, generator=torch.Generator().manual_seed(1))
    told = teacher(0.1, 0.3, 0.6, 0.8, 0.95)
    plain = (
        nn.functional.kl_div(student.log_softmax(1), told.softmax(1), reduction="none")
        .sum(1)
        .mean()
    )
    assert loss(student, told).item() == pytest.approx(plain.item(), abs=1e-6)


def test_background_weight_enters_linearly() -> None:
    student = torch.zeros(1, 3, 1, 1)
    once, twice, thrice = (
        loss(
            student,
            teacher(0.1),
            teacher(0.2),
            settings=Distillation(feature_weight=0, background_weight=weight),
        ).item()
        for weight in (1, 2, 3)
    )
    assert twice - once == pytest.approx(thrice - twice, abs=1e-6)


def test_organs_may_be_numbered_in_any_order() -> None:
    student = torch.randn(1, 3, 1, 2, generator=torch.Generator().manual_seed(2))
    one, other = teacher(0.9, 0.2), teacher(0.1, 0.3)
    swapped = student[:, [0, 2, 1]]
    assert loss(student, one, other).item() == pytest.approx(
        loss(swapped, other, one).item(), abs=1e-6
    )


# ---- where teachers overlap ----


def test_where_both_claim_a_pixel_sum_lets_both_teach() -> None:
    prob = stacked(teacher(0.9), teacher(0.6))
    taught = ms_kd.resolve_overlap(ms_kd.organ_regions(prob), prob[:, :, 1], "sum")
    assert taught.flatten().tolist() == [True, True]


def test_where_both_claim_a_pixel_the_surer_one_may_win() -> None:
    prob = stacked(teacher(0.9, 0.1), teacher(0.6, 0.7))
    taught = ms_kd.resolve_overlap(ms_kd.organ_regions(prob), prob[:, :, 1], "max_prob")
    assert taught[0, :, 0].tolist() == [[True, False], [False, True]]


def test_where_both_claim_a_pixel_neither_may_teach() -> None:
    prob = stacked(teacher(0.9, 0.1), teacher(0.6, 0.7))
    taught = ms_kd.resolve_overlap(ms_kd.organ_regions(prob), prob[:, :, 1], "ignore")
    assert taught[0, :, 0].tolist() == [[False, False], [False, True]]


def members(rule: str) -> tuple[Tensor, Tensor]:
    """How many claim each of 200 voxels, and in how many masks it is in the end.

    Of three teachers; the last voxel is claimed by two who are as sure as each other.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 2, 1, 200, generator=generator)
    logits[:, 0, :, 0, -1] = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    prob = stacked(*logits)
    regions = ms_kd.organ_regions(prob)
    taught = ms_kd.resolve_overlap(regions, prob[:, :, 1], rule)  # type: ignore[arg-type]
    assert not (taught & ~regions).any()
    background = ms_kd.true_background(regions)
    return regions.sum(1).flatten(), (taught.sum(1) + background).flatten()


def test_with_sum_every_voxel_is_in_a_mask_and_where_teachers_overlap_in_several() -> (
    None
):
    claimed, found = members("sum")
    assert set(claimed.tolist()) == {0, 1, 2, 3}
    assert torch.equal(found, claimed.clamp(min=1))


def test_with_max_prob_every_voxel_is_in_one_mask() -> None:
    claimed, found = members("max_prob")
    assert claimed.max() > 1
    assert (found == 1).all()


# ---- equation 7 ----


def everywhere(features: Tensor) -> Tensor:
    return torch.ones(features.shape[0], *features.shape[2:], dtype=torch.bool)


def test_feature_loss_of_two_channels_is_worked_out_by_hand() -> None:
    # teacher softmax (0.9, 0.1) sorts to (0.1, 0.9); student (0.5, 0.5)
    # KL = 0.1 ln 0.2 + 0.9 ln 1.8 = 0.368064
    told = torch.tensor([0.9, 0.1]).log().reshape(1, 2, 1, 1)
    found = ms_kd.feature_loss(told, torch.zeros(1, 2, 1, 1), everywhere(told), "all")
    assert found.item() == pytest.approx(0.368064, abs=1e-6)


def test_the_order_of_channels_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    told = torch.randn(2, 6, 3, 3, generator=generator)
    own = torch.randn(2, 6, 3, 3, generator=generator)
    plain = ms_kd.feature_loss(told, own, everywhere(told), "all")
    moved = ms_kd.feature_loss(
        told.flip(1), own[:, [3, 1, 0, 5, 4, 2]], everywhere(told), "all"
    )
    assert plain.item() == pytest.approx(moved.item(), abs=1e-6)


def test_features_that_are_a_permutation_of_the_teacher_s_have_no_loss() -> None:
    told = torch.randn(1, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    found = ms_kd.feature_loss(
        told, told[:, [4, 2, 0, 1, 3]] + 3.0, everywhere(told), "all"
    )
    assert found.item() == pytest.approx(0, abs=1e-6)


def test_sorting_never_raises_the_divergence() -> None:
    generator = torch.Generator().manual_seed(3)
    told = torch.randn(1, 8, 4, 4, generator=generator)
    own = torch.randn(1, 8, 4, 4, generator=generator)
    unsorted = ms_kd.voxel_kl(told.softmax(1), own.log_softmax(1)).mean()
    assert ms_kd.feature_loss(told, own, everywhere(told), "all") <= unsorted


def test_features_outside_the_organ_regions_do_not_matter() -> None:
    told = torch.randn(1, 4, 1, 2, generator=torch.Generator().manual_seed(0))
    own = torch.zeros(1, 4, 1, 2)
    region = torch.tensor([[[True, False]]])
    changed = told.clone()
    changed[..., 1] += torch.tensor([5.0, 0, 0, 0])[None, :, None]
    assert ms_kd.feature_loss(told, own, region, "all") == ms_kd.feature_loss(
        changed, own, region, "all"
    )


@pytest.mark.parametrize(
    ("rule", "expected"), [("nearest", [False]), ("any", [True]), ("majority", [True])]
)
def test_a_region_is_made_coarser_by_the_rule_in_force(
    rule: str, expected: list[bool]
) -> None:
    region = torch.tensor([[[False, True], [True, True]]])
    assert ms_kd.downsampled(region, 1, rule).flatten().tolist() == expected


def test_at_level_0_a_region_stays_as_it_is() -> None:
    region = torch.tensor([[[False, True], [True, True]]])
    assert torch.equal(ms_kd.downsampled(region, 0, "nearest"), region)


# ---- what must never happen ----


def test_with_background_alone_the_organ_and_feature_terms_are_zero_and_finite() -> (
    None
):
    student = Fixed(torch.zeros(1, 3, 2, 2), torch.zeros(1, 4, 1, 1))
    told = [
        Fixed(
            torch.tensor([9.0, -9.0])[None, :, None, None].expand(1, 2, 2, 2),
            torch.zeros(1, 4, 1, 1),
        )
        for _ in range(2)
    ]
    batch = Batch(
        torch.zeros(1, 1, 2, 2),
        torch.zeros(1, 2, 2, dtype=torch.int64),
        torch.zeros(1, 2, dtype=torch.bool),
    )
    terms = ms_kd.distillation_terms(student, told, batch, Distillation())
    torch.stack(list(terms.values())).sum().backward()
    assert terms["organs"].item() == 0
    assert terms["features"].item() == 0
    assert student.logits.grad is not None
    assert torch.isfinite(student.logits.grad).all()


def test_the_share_that_two_teachers_claim_is_told_and_is_no_loss() -> None:
    told = [Fixed(teacher(0.9, 0.9, 0.1, 0.1)), Fixed(teacher(0.1, 0.8, 0.1, 0.6))]
    student, batch = Fixed(torch.zeros(1, 3, 1, 4)), batch_of(4, 2)
    found = ms_kd.terms_and_overlap(student, told, batch, LW)
    assert found[ms_kd.OVERLAP].item() == 0.25
    assert ms_kd.OVERLAP not in ms_kd.distillation_terms(student, told, batch, LW)


def test_distillation_leaves_the_teachers_alone() -> None:
    told = [Fixed(teacher(0.9)), Fixed(teacher(0.1))]
    terms = ms_kd.distillation_terms(
        Fixed(torch.zeros(1, 3, 1, 1)), told, batch_of(1, 2), LW
    )
    torch.stack(list(terms.values())).sum().backward()
    assert all(parameter.grad is None for net in told for parameter in net.parameters())


def test_teachers_are_bit_for_bit_the_same_after_steps_of_the_student(
    model_folder: Callable[..., Model],
) -> None:
    # batch normalisation would remember what it sees, were a teacher in training mode
    spec = NetworkSpec(
        name="resnet18-unet", parameters={"decoder_widths": [4, 4, 4, 4, 4]}
    )
    tiling = Tiling(tile_vox=(32, 64), overlap=0.5, batch=1)
    models = [
        model_folder(organ, (organ,), network=spec, tiling=tiling)
        for organ in ("liver", "spleen")
    ]
    told = [frozen_network(model, torch.device("cpu")) for model in models]
    before = [
        {name: value.clone() for name, value in network.state_dict().items()}
        for network in told
    ]
    torch.manual_seed(0)
    student = build(spec, 1, 3).train()
    mean = student.encoder.bn1.running_mean.clone()
    optimiser = torch.optim.Adam(student.parameters(), 1e-3)
    for _ in range(3):
        batch = Batch(
            2 + torch.randn(2, 1, 32, 64),
            torch.zeros(2, 32, 64, dtype=torch.int64),
            torch.zeros(2, 2, dtype=torch.bool),
        )
        terms = ms_kd.distillation_terms(student, told, batch, Distillation())
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
    assert not torch.equal(student.encoder.bn1.running_mean, mean)
    for network, state in zip(told, before, strict=True):
        assert "encoder.bn1.running_mean" in state
        for name, value in network.state_dict().items():
            assert torch.equal(value, state[name]), name


def test_a_constant_of_its_own_at_each_voxel_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(channels: int, width: int) -> Tensor:
        return torch.randn(1, channels, 4, width, generator=generator)

    student = Fixed(drawn(3, 8), drawn(5, 4)[:, :, :2])
    told = [(drawn(2, 8), drawn(5, 4)[:, :, :2]) for _ in range(2)]
    batch = Batch(
        torch.zeros(1, 1, 4, 8),
        torch.zeros(1, 4, 8, dtype=torch.int64),
        torch.zeros(1, 2, dtype=torch.bool),
    )

    def asked(*, moved: bool) -> tuple[dict[str, float], Tensor]:
        size = 3.0 * moved
        teachers = [
            Fixed(logits + size * drawn(1, 8), taps + size * drawn(1, 4)[:, :, :2])
            for logits, taps in told
        ]
        found = ms_kd.distillation_terms(student, teachers, batch, Distillation())
        student.zero_grad()
        torch.stack(list(found.values())).sum().backward()
        assert student.logits.grad is not None
        return {k: v.item() for k, v in found.items()}, student.logits.grad.clone()

    (plain, slope), (shifted, other) = asked(moved=False), asked(moved=True)
    assert min(plain.values()) > 0.01
    assert shifted == pytest.approx(plain, rel=1e-5)
    assert torch.allclose(slope, other, atol=1e-6)


def test_the_student_never_reads_a_label() -> None:
    student, told = torch.zeros(1, 3, 1, 1), [teacher(0.9), teacher(0.1)]
    batch = batch_of(1, 2)
    poisoned = Batch(batch.image, batch.labels + 255, ~batch.annotated)
    terms = [
        ms_kd.distillation_terms(Fixed(student), [Fixed(t) for t in told], given, LW)
        for given in (batch, poisoned)
    ]
    assert terms[0] == terms[1]


@pytest.mark.parametrize("size", [50.0, -50.0])
def test_extreme_logits_stay_finite(size: float) -> None:
    student = torch.tensor([size, -size, 0.0])[None, :, None, None].repeat(1, 1, 1, 2)
    told = torch.tensor([[size, -size], [-size, size]])[None, :, None, :]
    assert torch.isfinite(loss(student, told, told.flip(1)))


def test_extreme_logits_stay_finite_under_autocast() -> None:
    torch.manual_seed(0)
    student, *told = (UNet(2, 1, classes, width=4, stages=3) for classes in (3, 2, 2))
    with torch.no_grad():
        for network in (student, *told):
            network.head.weight *= 300
    batch = Batch(
        torch.randn(2, 1, 8, 8),
        torch.zeros(2, 8, 8, dtype=torch.int64),
        torch.zeros(2, 2, dtype=torch.bool),
    )
    with torch.autocast("cpu", torch.bfloat16):
        logits = student(batch.image)
        terms = ms_kd.distillation_terms(student, told, batch, Distillation())
    assert logits.dtype == torch.bfloat16
    assert logits.abs().max() > 50
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    gradients = [value.grad for value in student.parameters()]
    assert all(value is not None and torch.isfinite(value).all() for value in gradients)
    assert any(value is not None and value.any() for value in gradients)


def test_a_batch_of_the_same_image_twice_has_the_same_loss() -> None:
    student, told = torch.zeros(1, 3, 1, 2), [teacher(0.9, 0.1), teacher(0.1, 0.2)]
    assert loss(student, *told).item() == pytest.approx(
        loss(student.repeat(2, 1, 1, 1), *[t.repeat(2, 1, 1, 1) for t in told]).item()
    )


def test_the_paper_s_numbers_are_the_defaults() -> None:
    settings = Distillation()
    assert (settings.background_weight, settings.feature_weight) == (1, 10)
    assert settings.feature_levels == (1,)
    assert (settings.overlap, settings.normaliser) == ("sum", "all")


def words(**values: object) -> str:
    given = {"method": "ms-kd", "data": [{"path": "x"}], **values}
    return parse(Config, given, "r").in_words


def test_the_log_says_which_reading_of_the_paper_ran() -> None:
    assert words() == (
        "student: organs + 1 background + 10 features of level 1 (regions by nearest), "
        "KL(teacher || student); normaliser all (printed: all), overlap sum "
        "(printed: sum); teachers online, foreground from teachers; on a plateau the "
        "rate falls to 20%"
    )


def test_the_log_says_where_a_run_leaves_the_print() -> None:
    told = {
        "feature_weight": 0,
        "overlap": "ignore",
        "normaliser": "region",
        "label_weight": 0.5,
        "foreground_from": "labels",
    }
    training = {"plateau": {"factor": 0.8}}
    assert words(distillation=told, training=training, teachers_at="cached") == (
        "student: organs + 1 background + 0.5 labels (not in the paper), "
        "KL(teacher || student); normaliser region (printed: all), overlap ignore "
        "(printed: sum); teachers cached, foreground from labels; on a plateau the "
        "rate falls to 80%"
    )
    assert "plateau" not in words(training={"schedule": "poly"})
