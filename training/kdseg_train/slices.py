"""Training on chosen slices of prepared cases, and labelling such cases by a model.

Slices are those along z of the prepared case: its orientation says which axis of the
stored scan that is. With ``orientation: RSA`` for ``RAS``, say, they are coronal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from kdseg_train.config import Recipe, Training
from kdseg_train.layouts import Case
from kdseg_train.patches import Patches
from kdseg_train.prepared import StoredCase
from napari_kdseg.atomic import atomic_file
from napari_kdseg.inference.foreground import as_it_is
from napari_kdseg.inference.hooks import Hooks
from napari_kdseg.inference.predict import Settings, predict_tiles
from napari_kdseg.inference.quality import SLICES_AT_ONCE, QualityClassifier, stretched
from napari_kdseg.models.model import Model
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.preprocessing import Frame, Preprocessing
from napari_kdseg.volumes.volume import Grid, Volume


@dataclass(frozen=True)
class ChosenSlices:
    """Some slices of a prepared case."""

    case: StoredCase
    z: Int[np.ndarray, " N"]

    @classmethod
    def all_of(cls, case: StoredCase) -> "ChosenSlices":
        """Choose every slice."""
        return cls(case, np.arange(case.image.shape[1]))


class SlicePatches(Patches):
    """Patches of chosen slices, each slice drawn with the same probability.

    The share of samples that is centred on foreground takes a slice by its scan, then
    an organ, then one of the chosen slices that show it.
    """

    def __init__(
        self,
        chosen: Sequence[ChosenSlices],
        recipe: Recipe,
        settings: Training,
        stage: str,
    ) -> None:
        chosen = [part for part in chosen if len(part.z)]
        super().__init__([part.case for part in chosen], recipe, settings, stage)
        self._z = [part.z for part in chosen]
        self._ends = np.cumsum([len(z) for z in self._z])

    @property
    def count(self) -> int:
        """How many slices there are."""
        return int(self._ends[-1])

    def _drawn(
        self, rng: np.random.Generator, index: int
    ) -> tuple[int, np.ndarray, np.ndarray | None, np.ndarray]:
        pick = int(rng.integers(self.count))
        number = int(np.searchsorted(self._ends, pick, side="right"))
        z = int(self._z[number][pick - self._ends[number]])  # counted from its end
        image, labels, places = self._open[number]
        there = places[np.isin(places[:, 1], self._z[number])]
        if self._is_centred(index) and len(there):
            organ = rng.choice(np.unique(there[:, 0]))
            showing = there[there[:, 0] == organ]
            z = int(showing[rng.integers(len(showing))][1])
            there = showing
        there = there[there[:, 1] == z].copy()
        there[:, 1] = 0
        plane = None if labels is None else labels[z : z + 1]
        return number, image[:, z : z + 1], plane, there


def kept_array(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Memory-mapped array from a file; made and written first where there is none."""
    if not path.exists():
        made = make()
        with atomic_file(path) as file:
            np.save(file, made)
    array: np.ndarray = np.load(path, mmap_mode="r")
    return array


def predicted(
    run: Run, model: Model, case: StoredCase, device: str, file: str
) -> np.ndarray:
    """`predicted_indices`, worked out once and kept beside the case."""
    return kept_array(
        case.folder / file,
        lambda: predicted_indices(model, case, device, run.stop_requested),
    )


def predicted_indices(
    model: Model,
    case: StoredCase,
    device: str,
    should_stop: Callable[[], bool],
) -> UInt8[np.ndarray, "Z Y X"]:
    """What a model sees in a prepared case: its best class at each voxel, as an index.

    The case is turned, resized and scaled already, so the model only predicts.
    """
    reader = as_it_is(model)
    card, image = reader.card, case.image
    grid = Grid.from_affine(np.eye(4), image.shape[1:])
    volume = Volume(image, grid, card.channels, Path(case.id))
    settings = Settings(device=device, precision="float32", uncertainty=None)
    table = np.zeros(max(card.classes.values) + 1, np.uint8)
    table[list(card.classes.values)] = np.arange(1, card.classes.count)
    indices = np.zeros(grid.shape, np.uint8)
    for tile in predict_tiles(volume, [reader], settings, hooks=Hooks(should_stop)):
        indices[tile.index] = table[tile.labels[0]]
    return indices


def p_good(
    classifier: QualityClassifier,
    case: StoredCase,
    labels: np.ndarray,
    check_stop: Callable[[], None],
) -> np.ndarray:
    """P(good) of each slice of a prepared case with some labels."""
    image = case.image
    found = []
    for start in range(0, len(labels), SLICES_AT_ONCE):
        check_stop()
        stop = min(start + SLICES_AT_ONCE, len(labels))
        seen = [
            stretched(image[:, z], labels[z], classifier.size)
            for z in range(start, stop)
        ]
        found.append(classifier.judge(seen))
    return np.concatenate(found)


def stored_slices(
    case: Case, preprocessing: Preprocessing
) -> tuple[int, Int[np.ndarray, " N"]]:
    """Axis of the stored scan that slices lie along, and the index of each slice.

    Where the case is resized along z, the index of the stored slice nearest to it.
    """
    frame = Frame.of(formats.inspect_volume(case.images[0]).grid, preprocessing)
    turn = frame.orientation
    slices, stored = frame.model.shape[0], frame.oriented.shape[0]
    index = (np.arange(slices) + 0.5) * stored / slices
    nearest = np.minimum(index.astype(int), stored - 1)
    if turn.flipped[0]:
        nearest = stored - 1 - nearest
    return turn.order[0], nearest
