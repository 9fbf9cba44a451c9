"""Figure 4: logits to the source's grid and to labels, beside nnU-Net's export.

Each contender has a process of its own, in turns: least seconds of some runs, highest
memory beyond the logits. nnU-Net gets float16, as it keeps them, we float32 of the same
values. Logits are smooth random fields.
"""

from typing import Any

import numpy as np
import torch

from figures.rows import (
    PeerError,
    Row,
    at_least,
    at_most,
    isolated,
    measured_peak,
    not_run,
)

Sizes = tuple[int, int, int]
LARGE: tuple[Sizes, Sizes] = ((128, 128, 128), (200, 224, 224))
SMALL: tuple[Sizes, Sizes] = ((64, 64, 64), (100, 112, 112))
GOALS = {14: (3.0, 0.35), 105: (5.0, 0.10)}
SLAB = 48


def measure(*, quick: bool) -> list[Row]:
    """Both numbers of classes."""
    cases = ((14, SMALL if quick else LARGE), (105, SMALL))
    return [
        row for classes, sizes in cases for row in _one(classes, sizes, quick=quick)
    ]


def _one(classes: int, sizes: tuple[Sizes, Sizes], *, quick: bool) -> list[Row]:
    faster, smaller = GOALS[classes]
    what = f"{classes} classes, {sizes[0][0]}^3 to {' x '.join(map(str, sizes[1]))}"
    given: dict[str, Any] = {"classes": classes, "sizes": sizes}
    ours, theirs = [], []
    try:
        for _ in range(1 if quick else 4):
            ours.append(isolated(napari_kdseg, **given))
            theirs.append(isolated(nnunet, **given))
        equal = isolated(agreement, **given)
    except PeerError as error:
        return [not_run("4", what, f"at least {faster}", error)]
    ratio = least(theirs, "seconds") / least(ours, "seconds")
    share = least(ours, "bytes") / least(theirs, "bytes")
    return [
        Row(
            "4",
            f"{what}, time against nnU-Net's export",
            f"{ratio:.2f} times as fast",
            f"at least {faster:g}",
            at_least(ratio, faster),
            f"{least(theirs, 'seconds'):.1f} s and {least(ours, 'seconds'):.1f} s",
        ),
        Row(
            "4",
            "  its memory",
            f"{share:.3f}",
            f"at most {smaller:.2f}",
            at_most(share, smaller),
            f"{least(theirs, 'bytes') / 1e6:.0f} MB and "
            f"{least(ours, 'bytes') / 1e6:.0f} MB",
        ),
        Row(
            "4",
            "  its labels equal to nnU-Net's",
            f"{equal[0]:.6f}",
            "at least 0.999",
            at_least(equal[0], 0.999),
            f"{equal[1]:.6f} with ours rounded to float16, as nnU-Net rounds them; to "
            f"labels in double precision ours {equal[2]:.6f}, nnU-Net's {equal[3]:.6f}",
        ),
    ]


def least(runs: list[dict[str, float]], what: str) -> float:
    """The least of some runs."""
    return min(run[what] for run in runs)


# ---- Each in a process of its own ----


def napari_kdseg(classes: int, sizes: list[list[int]]) -> dict[str, float]:
    """Ours, a slab of planes after the other."""
    logits = _logits(classes, sizes[0]).float()
    _ours(logits[:, :8, :8, :8], [16, 16, 16])
    return measured_peak(lambda: _ours(logits, sizes[1]))


def nnunet(classes: int, sizes: list[list[int]]) -> dict[str, float]:
    """nnU-Net's export with its default settings."""
    logits = _logits(classes, sizes[0])
    _nnunet(logits[:, :8, :8, :8], [16, 16, 16])
    return measured_peak(lambda: _nnunet(logits, sizes[1]))


def agreement(classes: int, sizes: list[list[int]]) -> list[float]:
    """Part of the voxels with the same label.

    Ours and theirs, then ours rounded as theirs are, then ours and theirs with what
    comes out in double precision.
    """
    logits = _logits(classes, sizes[0])
    theirs = _nnunet(logits, sizes[1])
    ours, rounded = (
        _ours(logits.float(), sizes[1], rounded=rounded) for rounded in (False, True)
    )
    exact = _in_double(logits, sizes[1])
    pairs = ((ours, theirs), (rounded, theirs), (ours, exact), (theirs, exact))
    return [float((one == other).mean()) for one, other in pairs]


def _ours(
    logits: torch.Tensor, target: list[int], *, rounded: bool = False
) -> np.ndarray:
    from napari_kdseg.inference.reduce import best_class
    from napari_kdseg.inference.resize import PlaneResizer

    depth, height, width = logits.shape[1:]
    z, y, x = target
    resizer = PlaneResizer(
        (depth, height, width),
        (z, y, x),
        box=(slice(0, depth), slice(0, height), slice(0, width)),
        wanted=(slice(0, z), slice(0, y), slice(0, x)),
        device="cpu",
    )
    labels = np.empty((z, y, x), np.uint8)
    done = 0
    for first in range(0, depth, SLAB):
        for plane in resizer.push(first, logits[:, first : first + SLAB]):
            seen = plane.half().float() if rounded else plane
            labels[done] = best_class(seen).numpy()
            done += 1
    return labels


def _in_double(logits: torch.Tensor, target: list[int]) -> np.ndarray:
    """Labels of torch's own interpolation in double precision."""
    best = torch.full(target, -torch.inf, dtype=torch.float64)
    labels = torch.zeros(target, dtype=torch.uint8)
    for number, field in enumerate(logits):  # one after the other: it is a great deal
        one = torch.nn.functional.interpolate(
            field[None, None].double(), target, mode="trilinear"
        )[0, 0]
        better = one > best
        labels[better] = number
        best = torch.where(better, one, best)
    return labels.numpy()


def _nnunet(logits: torch.Tensor, target: list[int]) -> np.ndarray:
    from nnunetv2.preprocessing.resampling.default_resampling import (
        resample_data_or_seg_to_shape,
    )
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    coarse = [size / goal for size, goal in zip(logits.shape[1:], target, strict=True)]
    resampled = resample_data_or_seg_to_shape(
        logits,
        target,
        [1.0, 1.0, 1.0],
        coarse,
        is_seg=False,
        order=1,
        order_z=0,
        force_separate_z=None,
    )
    names = {"background": 0} | {f"class {n}": n for n in range(1, len(logits))}
    labels: np.ndarray = np.asarray(
        LabelManager(names, None).convert_logits_to_segmentation(resampled)
    )
    return labels.astype(np.uint8)


def _logits(classes: int, shape: list[int]) -> torch.Tensor:
    """Smooth random fields, channel first."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn((classes, 1, *(s // 8 for s in shape)), generator=generator)
    fields = [
        torch.nn.functional.interpolate(one[None], shape, mode="trilinear")[0, 0].half()
        for one in coarse
    ]
    return torch.stack(fields) * 4
