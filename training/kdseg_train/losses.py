"""Losses that more than one method uses.

Tensors are ``B C Y X`` or ``B C Z Y X``; class 0 is background.

Reductions are named: *voxel mean* divides by batch times voxels and sums over classes,
so a value does not shrink when classes are added. Where processes share a batch, means
are taken over the part that each has, and sums that a ratio is made of over the whole.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kdseg_train.ranks import summed

SMOOTH = 1e-5


def voxel_kl(
    prob: Float[Tensor, "B C *S"], log_prob: Float[Tensor, "B C *S"]
) -> Float[Tensor, "B ..."]:
    """Divergence KL(prob || q) at each voxel, q given by its logarithm, in nats.

    Zero probabilities count as zero (0 log 0 = 0), so the gradient stays finite where
    a teacher excludes a class. PyTorch's ``kl_div(input=log q, target=prob)`` is the
    same quantity: its *target* is the first argument.
    """
    return (torch.xlogy(prob, prob) - prob * log_prob).sum(dim=1)


def over_region(
    values: Float[Tensor, "B ..."], region: Bool[Tensor, "B ..."], normaliser: str
) -> Float[Tensor, ""]:
    """Sum over a region, divided by all voxels, or by the region's own number."""
    total = torch.where(region, values, torch.zeros_like(values)).sum()
    if normaliser == "all":
        return total / values.numel()
    return summed(total) / summed(region.sum()).clamp(min=1)


def one_hot(labels: Int[Tensor, "B ..."], classes: int) -> Float[Tensor, "B C *S"]:
    """Labels as one channel a class."""
    return torch.nn.functional.one_hot(labels.long(), classes).movedim(-1, 1).float()


def dice_per_class(
    prob: Float[Tensor, "B C *S"], target: Float[Tensor, "B C *S"]
) -> Float[Tensor, " C"]:
    """Soft Dice of the whole batch with linear denominators, for hard targets.

    ``(2 Σ p t + s) / (Σ p + Σ t + s)``, s = 1e-5: a class absent from both counts as
    1. Milletari et al. 2016, in nnU-Net's batch form.
    """
    axes = [0, *range(2, prob.ndim)]
    overlap = (prob * target).sum(axes)
    total = prob.sum(axes) + target.sum(axes)
    both = summed(torch.stack([overlap, total]))
    return (2 * both[0] + SMOOTH) / (both[1] + SMOOTH)


def dice_and_cross_entropy(
    logits: Float[Tensor, "B C *S"],
    labels: Int[Tensor, "B ..."],
    annotated: Bool[Tensor, "B K"],
) -> dict[str, Float[Tensor, ""]]:
    """Dice + cross-entropy, 1:1, where some classes are unknown in some cases.

    What a case has not annotated is never background: the probabilities of its unknown
    classes are added to background's before the comparison (marginal loss, Shi et al.
    2021), so the network may put an unknown organ wherever the label says 0. With all
    classes annotated this is nnU-Net's loss.

    Parameters
    ----------
    logits
        One channel a class, background first; K = C - 1 organs.
    labels
        Class indices; voxels of unannotated classes hold 0.
    annotated
        Which of the K organs the labels of a sample speak about.
    """
    prob, log_background = _marginal(logits, annotated)
    target = one_hot(labels, logits.shape[1])
    log_prob = torch.cat([log_background, logits.log_softmax(dim=1)[:, 1:]], dim=1)
    known = torch.cat([torch.ones_like(annotated[:, :1]), annotated], dim=1)
    keep = known.reshape(*known.shape, *[1] * (logits.ndim - 2))
    cross_entropy = -(target * keep * log_prob).sum(dim=1).mean()
    dice = dice_per_class(prob * keep, target * keep)[1:]
    spoken_about = summed(annotated.sum(dim=0)) > 0
    return {
        "dice": 1 - dice[spoken_about].mean() if spoken_about.any() else dice.sum() * 0,
        "cross_entropy": cross_entropy,
    }


def _marginal(
    logits: Float[Tensor, "B C *S"], annotated: Bool[Tensor, "B K"]
) -> tuple[Float[Tensor, "B C *S"], Float[Tensor, "B 1 *S"]]:
    """Probabilities, and log of background plus every unknown class."""
    log_prob = logits.log_softmax(dim=1)
    hidden = torch.cat([torch.zeros_like(annotated[:, :1]), annotated], dim=1)
    hidden = hidden.reshape(*hidden.shape, *[1] * (logits.ndim - 2))
    minus_infinity = torch.finfo(log_prob.dtype).min
    background = log_prob.masked_fill(hidden, minus_infinity).logsumexp(1, keepdim=True)
    return log_prob.exp(), background


# ---- For soft targets, and for one class against the rest ----


def soft_dice(
    prob: Float[Tensor, "B D *S"], target: Float[Tensor, "B D *S"], form: str
) -> Float[Tensor, "B D"]:
    """Dice of each sample and channel; soft targets are best met by themselves.

    ``2 Σ p t / (Σ p² + Σ t²)``; linear: ``2 Σ p t / (Σ p + Σ t)``. With 1e-5 above and
    below, a channel that is empty in both has 1.
    """
    axes = list(range(2, prob.ndim))
    power = 2 if form == "squared" else 1
    total = (prob**power).sum(axes) + (target**power).sum(axes)
    return (2 * (prob * target).sum(axes) + SMOOTH) / (total + SMOOTH)


def binary_cross_entropy(
    log_prob: Float[Tensor, "B R *S"],
    log_not: Float[Tensor, "B R *S"],
    target: Float[Tensor, "B R *S"],
) -> Float[Tensor, ""]:
    """``-t ln p - (1 - t) ln (1 - p)``, mean over voxels, channels and samples."""
    return -(target * log_prob + (1 - target) * log_not).mean()


# ---- FLARE22 cross teaching (arXiv 2211.05942; forms of its authors' code) ----


def negative_dice(
    prob: Float[Tensor, "B C *S"], labels: Int[Tensor, "B ..."]
) -> Float[Tensor, ""]:
    """Minus the mean soft Dice of the foreground classes over the batch, -1 to 0.

    Background is left out of the mean. A class absent from both counts as 1, and one
    that is absent from the labels alone as nearly 0.
    """
    return -dice_per_class(prob, one_hot(labels, prob.shape[1]))[1:].mean()


def focal_loss(
    prob: Float[Tensor, "B C *S"],
    labels: Int[Tensor, "B ..."],
    *,
    gamma: float,
    alpha: float,
    smoothing: float,
) -> Float[Tensor, ""]:
    """Focal loss ``-alpha (1 - p)^gamma ln p``, voxel mean, p of the labelled class.

    Lin et al. 2017, as FLARE22's code smooths it: the target is s/(C - 1) to 1 - s in
    place of 0 to 1, and p is the probability of that target plus s.

    Parameters
    ----------
    prob
        Probabilities, background first.
    labels
        Class indices.
    gamma
        How little a voxel counts that is nearly right; 0: cross-entropy.
    alpha
        Weight of all classes alike.
    smoothing
        s, above 0 where a probability may be 0.
    """
    classes = prob.shape[1]
    target = one_hot(labels, classes)
    target = target.clamp(smoothing / max(classes - 1, 1), 1 - smoothing)
    right = (target * prob).sum(dim=1) + smoothing
    wrong = (1 - right).clamp(min=0)  # rounding may leave it below
    return -(alpha * wrong**gamma * right.log()).mean()


def mean_probability(
    logits: Sequence[Float[Tensor, "B C *S"]], temperature: float = 1.0
) -> Float[Tensor, "B C *S"]:
    """Mean of several networks' probabilities (not of their logits), no gradient."""
    told = [(one.detach() / temperature).softmax(dim=1) for one in logits]
    return torch.stack(told).mean(dim=0)


def mean_teacher_kl(
    teachers: Sequence[Float[Tensor, "B C *S"]],
    student: Float[Tensor, "B C *S"],
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """Divergence KL(mean of the teachers || student) from logits, voxel mean.

    The teachers are averaged as probabilities and get no gradient. With a temperature
    other than 1 all logits are divided by it and the loss is multiplied by its square
    (Hinton et al. 2015), which keeps the gradients' size.
    """
    told = mean_probability(teachers, temperature)
    log_prob = (student / temperature).log_softmax(dim=1)
    return temperature**2 * voxel_kl(told, log_prob).mean()


def ramp_up(time: float, length: float) -> float:
    """Gaussian ramp ``exp(-5 (1 - t/T)^2)``, from 0.0067 at 0 to 1 at T and beyond.

    Laine and Aila 2017. A length of 0 is no ramp: 1 throughout.
    """
    if length <= 0:
        return 1.0
    return math.exp(-5 * (1 - min(max(time, 0.0), length) / length) ** 2)
