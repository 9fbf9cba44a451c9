"""What networks put out: classes that exclude one another, or nested regions.

Both have a network with a channel a class, background first. Of nested regions, such as
the whole tumour, its core and the enhancing part of that, each has one class of its
own. With the logits c of the classes put in order from outside in, background first,
the region that begins with class i has the logit ``z_i = c_i - c_{i-1}``. Then
``softmax(c)`` is how likely each nested answer is when the regions are independent: one
that goes inwards as far as i has the odds ``exp(z_1 + ... + z_i)``, which is
``exp(c_i)`` up to a factor that all share. So a network trained on regions predicts
like any other, and an answer that is not nested cannot arise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from kdseg_train.losses import one_hot
from napari_kdseg.errors import RecipeError

Regions = Mapping[str, Sequence[str]]
"""Name -> the classes that make it up."""


def chain_of(regions: Regions) -> tuple[str, ...]:
    """Classes of nested regions from outside in: each region's own comes first.

    Raises
    ------
    ValueError
        Where the regions are no chain that loses one class a step.
    """
    nested = sorted((set(members) for members in regions.values()), key=len)
    own: list[str] = []
    for inner, outer in pairwise([set(), *nested]):
        if not inner < outer or len(outer - inner) != 1:
            raise ValueError(
                "output is sigmoid, and regions are no chain in which each has one "
                "class less than the one around it, down to one class; such as {WT: "
                "[oedema, core, enhancing], TC: [core, enhancing], ET: [enhancing]}"
            )
        own += outer - inner
    if not own:
        raise ValueError("output is sigmoid, which needs regions")
    return tuple(reversed(own))


def check_regions(regions: Regions, classes: Sequence[str]) -> None:
    """Refuse regions of classes that there are not.

    Raises
    ------
    RecipeError
        Naming the region.
    """
    for name, members in regions.items():
        strangers = [member for member in members if member not in classes]
        if strangers or name in classes or not members:
            raise RecipeError(
                f"regions.{name} is {list(members)}; a region has classes of the data "
                f"({', '.join(classes)}) and a name that none of them has."
            )


def nested_output(regions: Regions, classes: Sequence[str]) -> "Output":
    """Output of nested regions.

    Raises
    ------
    RecipeError
        Where the largest region lacks a class.
    """
    chain = chain_of(regions)
    if {*chain} != {*classes}:
        raise RecipeError(
            f"the regions hold {', '.join(chain)}; with a sigmoid output the largest "
            f"holds every class ({', '.join(classes)})."
        )
    return Output(tuple(classes.index(name) + 1 for name in chain))


@dataclass(frozen=True)
class Output:
    """How logits become probabilities.

    Attributes
    ----------
    chain
        Sigmoid: class indices from the outermost region's own class inwards.
        Softmax: nothing.
    """

    chain: tuple[int, ...] = ()

    def logs(
        self, logits: Float[Tensor, "B C *S"], temperature: float = 1.0
    ) -> tuple[Float[Tensor, "B R *S"], Float[Tensor, "B R *S"]]:
        """``ln p`` and ``ln (1 - p)`` of each class or region, p from logits over T.

        Neither is ever infinite, nor without a gradient where the answer is wrong.
        """
        if self.chain:
            z = self.region_logits(logits) / temperature
            return functional.logsigmoid(z), functional.logsigmoid(-z)
        log_prob = (logits / temperature).log_softmax(dim=1)
        classes = range(log_prob.shape[1])
        others = [
            log_prob[:, [j for j in classes if j != c]].logsumexp(dim=1)
            for c in classes
        ]
        return log_prob, torch.stack(others, dim=1)

    def region_logits(self, logits: Float[Tensor, "B C *S"]) -> Float[Tensor, "B R *S"]:
        """``z_i = c_i - c_{i-1}`` along the chain, background before the first."""
        return logits[:, self.chain] - logits[:, (0, *self.chain[:-1])]

    def of_labels(
        self, labels: Int[Tensor, "B ..."], classes: int
    ) -> Float[Tensor, "B R *S"]:
        """y, a channel a class or region."""
        known = one_hot(labels, classes)
        if not self.chain:
            return known
        inward = known[:, self.chain]
        return inward.flip(1).cumsum(dim=1).flip(1)

    def binarised(self, logits: Float[Tensor, "B C *S"]) -> Float[Tensor, "B R *S"]:
        """``s*``: the class that wins, or the regions that are likelier than not."""
        if self.chain:
            return (self.region_logits(logits) >= 0).float()
        return one_hot(logits.argmax(dim=1), logits.shape[1])

    def of_dice(self, channels: Float[Tensor, "B R *S"]) -> Float[Tensor, "B D *S"]:
        """The channels that Dice is taken over: background is none."""
        return channels if self.chain else channels[:, 1:]
