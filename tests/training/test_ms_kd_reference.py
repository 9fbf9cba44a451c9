"""MS-KD: eq. 8 as a whole against plain sums over pixels in double precision."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdseg_train.methods import ms_kd
from kdseg_train.methods.ms_kd import Distillation
from kdseg_train.patches import Batch

SAMPLES, ORGANS, HEIGHT, WIDTH = 2, 2, 8, 12
LEVELS = (1, 2)
CHANNELS = {1: 5, 2: 7}


class Fixed(nn.Module):
    """A network that answers what it was told to, with features of its own a level."""

    def __init__(self, logits: Tensor, features: dict[int, Tensor]) -> None:
        super().__init__()
        self.logits, self.taps = logits, features

    def features(
        self, image: Tensor, levels: tuple[int, ...]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        return self.logits, {level: self.taps[level] for level in levels}


def drawn(seed: int, classes: int) -> Fixed:
    generator = torch.Generator().manual_seed(seed)

    def normal(channels: int, factor: int) -> Tensor:
        shape = (SAMPLES, channels, HEIGHT // factor, WIDTH // factor)
        return 2 * torch.randn(*shape, generator=generator)

    taps = {level: normal(CHANNELS[level], 2**level) for level in LEVELS}
    return Fixed(normal(classes, 1), taps)


STUDENT = drawn(0, ORGANS + 1)
TEACHERS = [drawn(1, 2), drawn(2, 2)]


def terms(**settings: Any) -> dict[str, float]:
    batch = Batch(
        torch.zeros(SAMPLES, 1, HEIGHT, WIDTH),
        torch.zeros(SAMPLES, HEIGHT, WIDTH, dtype=torch.int64),
        torch.zeros(SAMPLES, ORGANS, dtype=torch.bool),
    )
    asked = Distillation.model_validate({"feature_levels": LEVELS, **settings})
    found = ms_kd.distillation_terms(STUDENT, TEACHERS, batch, asked)
    return {name: term.item() for name, term in found.items()}


# ---- the equations again, pixel by pixel ----


def softmax(values: np.ndarray) -> np.ndarray:
    raised = np.exp(values - values.max())
    return np.asarray(raised / raised.sum())


def kl(a: np.ndarray, b: np.ndarray) -> float:
    return sum(p * np.log(p / q) for p, q in zip(a, b, strict=True) if p > 0)


def at(values: Tensor, place: tuple[int, int, int]) -> np.ndarray:
    """The channels of one pixel of one sample."""
    sample, y, x = place
    return values[sample, :, y, x].numpy().astype(np.float64)


def pixels(level: int = 0) -> list[tuple[int, int, int]]:
    sides = (SAMPLES, HEIGHT // 2**level, WIDTH // 2**level)
    return [(int(n), int(y), int(x)) for n, y, x in np.ndindex(*sides)]


def q(k: int, place: tuple[int, int, int]) -> np.ndarray:
    return softmax(at(TEACHERS[k].logits, place))


def moved(k: int, place: tuple[int, int, int]) -> np.ndarray:
    """q of teacher k in the K + 1 classes of the student (eq. 3)."""
    found = np.zeros(ORGANS + 1)
    found[0], found[k + 1] = q(k, place)
    return found


def claims(k: int, place: tuple[int, int, int]) -> bool:
    """Eq. 2."""
    return int(q(k, place).argmax()) == 1


def mean(values: list[float], count: int, normaliser: str) -> float:
    """1/(W H) a sample and the mean over samples, or the mean over the region."""
    return sum(values) / (count if normaliser == "all" else max(len(values), 1))


def expected(normaliser: str) -> dict[str, float]:
    """The sums of eqs. 4, 6 and 7, before any weight."""

    def own(place: tuple[int, int, int]) -> np.ndarray:
        return softmax(at(STUDENT.logits, place))

    organs = features = 0.0
    for k in range(ORGANS):
        inside = [kl(moved(k, p), own(p)) for p in pixels() if claims(k, p)]
        organs += mean(inside, len(pixels()), normaliser)
        for level in LEVELS:
            inside = [
                kl(
                    np.sort(softmax(at(TEACHERS[k].taps[level], p))),
                    np.sort(softmax(at(STUDENT.taps[level], p))),
                )
                for p in pixels(level)
                # the mask at 1/2^l by its nearest pixel, the first of each block
                if claims(k, (p[0], p[1] * 2**level, p[2] * 2**level))
            ]
            features += mean(inside, len(pixels(level)), normaliser)
    outside = [
        kl(sum(moved(k, p) for k in range(ORGANS)) / ORGANS, own(p))
        for p in pixels()
        if not any(claims(k, p) for k in range(ORGANS))
    ]
    background = mean(outside, len(pixels()), normaliser)
    return {"organs": organs, "background": background, "features": features}


def test_the_drawn_teachers_overlap_somewhere_and_leave_background() -> None:
    counts = {sum(claims(k, p) for k in range(ORGANS)) for p in pixels()}
    assert counts == {0, 1, 2}


@pytest.mark.parametrize("normaliser", ["all", "region"])
def test_the_whole_objective_equals_plain_sums_in_double_precision(
    normaliser: str,
) -> None:
    found = terms(background_weight=0.7, feature_weight=3, normaliser=normaliser)
    wanted = expected(normaliser)
    assert set(found) == set(wanted)
    assert found["organs"] == pytest.approx(wanted["organs"], rel=1e-5)
    assert found["background"] == pytest.approx(0.7 * wanted["background"], rel=1e-5)
    assert found["features"] == pytest.approx(3 * wanted["features"], rel=1e-5)
    assert min(wanted.values()) > 0.05
    whole = wanted["organs"] + 0.7 * wanted["background"] + 3 * wanted["features"]
    assert sum(found.values()) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("normaliser", ["all", "region"])
def test_feature_weight_enters_linearly(normaliser: str) -> None:
    none, some, more = (
        sum(terms(feature_weight=weight, normaliser=normaliser).values())
        for weight in (0, 2, 10)
    )
    slope = expected(normaliser)["features"]
    assert slope > 0.05
    assert (some - none) / 2 == pytest.approx(slope, rel=1e-4)
    assert (more - none) / 10 == pytest.approx(slope, rel=1e-4)
