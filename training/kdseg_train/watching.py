"""What a person sees of a training while it goes on: Dice and example slices.

Both are of cases kept apart, of the same patches each time, so that pictures of two
epochs compare. Nothing is drawn at random here: training goes on as it would without.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import imagecodecs
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from kdseg_train.patches import Batch
from kdseg_train.ranks import here
from napari_kdseg.atomic import write_bytes_atomic
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.labels import LabelSet

FOLDER = "examples"
PICTURED = 20
"""At most about so many epochs of a stage are pictured."""
GAP_VOX = 4
OPACITY = 0.45
GREY = (2.0, 98.0)
"""Percentiles of a slice that become black and white."""

Predict = Callable[[Tensor], Tensor]
Truth = Callable[[Batch], tuple[Tensor, Tensor]]


def as_they_are(batch: Batch) -> tuple[Tensor, Tensor]:
    """Labels of a batch and which classes they speak about."""
    return batch.labels, batch.annotated


@dataclass(frozen=True)
class Watched:
    """How a stage is looked at from outside.

    Attributes
    ----------
    classes
        Names of what the network tells apart, background left out.
    predict
        Image of a batch -> logits, the first class being background.
    truth
        Batch -> labels in the numbers of `classes`, and which of these they speak
        about.
    pictures
        How many patches are pictured; 0: none.
    """

    classes: tuple[str, ...]
    predict: Predict
    truth: Truth = as_they_are
    pictures: int = 0


@dataclass(frozen=True)
class Look:
    """What one look at the cases kept apart gave."""

    dice: dict[str, float]
    """By class, over the voxels of all patches together; of classes that were there."""
    pictures: tuple[UInt8[np.ndarray, "y x 3"], ...]

    @property
    def measured(self) -> dict[str, object]:
        """Fields of the event that tells of it."""
        if not self.dice:
            return {}
        mean = sum(self.dice.values()) / len(self.dice)
        return {"validation_dice": mean, "validation_dice_of": self.dice}


def look(watched: Watched, batches: Iterable[Batch], device: torch.device) -> Look:
    """Predict the patches of some batches, measure, and picture the first ones.

    A patch speaks only for the classes that its case annotates: voxels predicted as
    another class count as background there.
    """
    count = len(watched.classes)
    both, sizes = torch.zeros(count), torch.zeros(count)
    pictures: list[np.ndarray] = []
    for batch in batches:
        truth, annotated = watched.truth(batch)
        answer = watched.predict(batch.image.to(device)).argmax(dim=1).cpu()
        for place in range(len(truth)):
            found = _of_annotated(answer[place], annotated[place])
            for index in range(count):
                mine, right = found == index + 1, truth[place] == index + 1
                both[index] += float((mine & right).sum())
                sizes[index] += float(mine.sum() + right.sum())
            shown = int((truth[place] > 0).sum()) > 0
            if shown and len(pictures) < watched.pictures:
                image = batch.image[place, 0]
                pictures.append(picture(image, truth[place], found, watched.classes))
    counts = torch.stack([both, sizes]).to(device)
    both, sizes = here().mean(counts).cpu()  # of what all processes see
    dice = {
        name: float(2 * both[index] / sizes[index])
        for index, name in enumerate(watched.classes)
        if sizes[index] > 0
    }
    return Look(dice, tuple(pictures))


def is_pictured(epoch: int, epochs: int) -> bool:
    """Whether an epoch is one of the first, the last, or of those spread between."""
    every = -(-epochs // PICTURED)
    return epoch in (1, epochs) or epoch % every == 0


def write_pictures(run: Run, stage: str, epoch: int, found: Look) -> None:
    """Write ``RUN/examples/STAGE/EPOCH.png``, the patches side by side, and say so."""
    if not found.pictures:
        return
    folder = run.folder / FOLDER / stage
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{epoch:06d}.png"
    write_bytes_atomic(
        path, bytes(imagecodecs.png_encode(side_by_side(found.pictures)))
    )
    run.event(
        "example",
        stage=stage,
        epoch=epoch,
        file=path.relative_to(run.folder).as_posix(),
        count=len(found.pictures),
    )


def picture(
    image: Float[Tensor, "*S"], truth: Tensor, found: Tensor, classes: Sequence[str]
) -> UInt8[np.ndarray, "y x 3"]:
    """One slice twice: the labels drawn over it, and below what the network says.

    Of a patch in three dimensions the slice with most of the labels is taken.
    """
    if image.ndim == 3:
        best = int((truth > 0).flatten(1).sum(dim=1).argmax())
        image, truth, found = image[best], truth[best], found[best]
    voxels = image.float().numpy()
    low, high = np.percentile(voxels, GREY)
    grey = np.clip((voxels - low) / max(float(high - low), 1e-6), 0, 1)
    colours = _colours(classes)
    rows = [_drawn_over(grey, labels.numpy(), colours) for labels in (truth, found)]
    gap = np.zeros((GAP_VOX, grey.shape[1], 3), np.uint8)
    return np.concatenate([rows[0], gap, rows[1]])


def side_by_side(
    pictures: Sequence[UInt8[np.ndarray, "y x 3"]],
) -> UInt8[np.ndarray, "y X 3"]:
    """Pictures of one size in a row, with a gap between."""
    gap = np.zeros((pictures[0].shape[0], GAP_VOX, 3), np.uint8)
    parts = [part for one in pictures for part in (gap, one)]
    return np.concatenate(parts[1:], axis=1)


def _of_annotated(answer: Tensor, annotated: Tensor) -> Tensor:
    known = torch.cat([torch.ones(1, dtype=torch.bool), annotated.cpu()])
    return torch.where(known[answer], answer, torch.zeros_like(answer))


def _colours(classes: Sequence[str]) -> np.ndarray:
    """Colours of the classes as everywhere else; black, unused, for background."""
    known = LabelSet.from_names(classes).classes
    rgb = [[int(item.color[i : i + 2], 16) for i in (1, 3, 5)] for item in known]
    return np.array([[0, 0, 0], *rgb], np.float64)


def _drawn_over(
    grey: np.ndarray, labels: np.ndarray, colours: np.ndarray
) -> np.ndarray:
    base = np.repeat(255 * grey[..., None], 3, axis=2)
    mixed = (1 - OPACITY) * base + OPACITY * colours[labels]
    return np.where(labels[..., None] > 0, mixed, base).round().astype(np.uint8)
