"""Losses that more than one method uses.

Tensors are ``B C Y X`` or ``B C Z Y X``; class 0 is background.

Reductions are named: *voxel mean* divides by batch times voxels and sums over classes,
so a value does not shrink when classes are added.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
    return (2 * overlap + SMOOTH) / (total + SMOOTH)


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
    spoken_about = annotated.any(dim=0)
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
