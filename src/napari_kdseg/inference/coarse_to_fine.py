"""Two passes over a volume: a coarse model finds the box, a fine one segments it.

FLARE22's inference (arXiv 2211.05942; steps and numbers from the authors' code,
``predict_s_s.sh``): the coarse model sees the whole volume resized, the largest
component of each class stays, the box around all of them is enlarged by a tenth, and
the fine model sees what is in it, resized again. Nothing is written in between, and
results leave slab by slab: what is there as a whole is the coarse model's small volume,
and the box where the fine model asks for that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from napari_kdseg.atomic import temporary_beside
from napari_kdseg.errors import ModelError, StopRequested
from napari_kdseg.inference.boxes import box_around, box_in_source, central_box
from napari_kdseg.inference.foreground import as_it_is
from napari_kdseg.inference.hooks import NO_HOOKS, Hooks
from napari_kdseg.inference.plan import plan_passes
from napari_kdseg.inference.predict import (
    FinishedTile,
    Prediction,
    box_of,
    gathered,
    maps_of,
    predict_tiles,
    predict_volume,
    shared_box,
    tile_of,
)
from napari_kdseg.inference.reduce import Maps
from napari_kdseg.inference.rolling import slow_axis
from napari_kdseg.inference.settings import Settings
from napari_kdseg.inference.surroundings import (
    Surroundings,
    beside,
    cropped,
    in_pieces,
)
from napari_kdseg.models.card import CoarseToFine, ModelCard, Postprocessing
from napari_kdseg.models.model import Model
from napari_kdseg.volumes.preprocessing import Frame, prepare
from napari_kdseg.volumes.volume import Box, Grid, Volume

__all__ = [
    "box_around",
    "box_in_source",
    "central_box",
    "final_card",
    "find_box",
    "look",
    "predict_any_tiles",
    "predict_any_volume",
    "predict_coarse_to_fine",
    "predict_composite_tiles",
]

_NO_COMPOSITE = (
    "{} is one model; from coarse to fine takes two. Pair a coarse and a fine one."
)


@dataclass(frozen=True)
class Found:
    """What the coarse model found."""

    box: Box
    """Where to look, in the source array (z, y, x as stored)."""
    is_fallback: bool
    """Whether it found nothing, and the box is the central one."""
    frame: Frame
    """What the coarse model saw."""
    uncertainty: NDArray[np.float32] | None
    """0 (sure) to 1, z, y, x of the coarse model's voxels, where it was asked for."""

    def write(self, path: Path) -> None:
        """Keep it in a file, for an execution that goes on."""
        arrays: dict[str, NDArray[Any]] = {
            "box": np.array([[span.start, span.stop] for span in self.box]),
            "is_fallback": np.array(self.is_fallback),
        }
        if self.uncertainty is not None:
            arrays["uncertainty"] = self.uncertainty
        temporary = temporary_beside(path)
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path, grid: Grid, model: Model) -> "Found | None":
        """What `write` kept of a composite's look at a grid; None where nothing is."""
        if model.parts is None:
            return None
        frame = Frame.of(grid, model.parts[0].card.preprocessing)
        try:
            with np.load(path) as kept:
                z, y, x = (slice(int(a), int(b)) for a, b in kept["box"])
                unsure = kept.get("uncertainty")
                return cls((z, y, x), bool(kept["is_fallback"]), frame, unsure)
        except (OSError, ValueError, KeyError, BadZipFile):
            return None


def predict_coarse_to_fine(
    volume: Volume,
    model: Model,
    settings: Settings | None = None,
    hooks: Hooks = NO_HOOKS,
) -> Prediction:
    """Predict a volume with a composite model; the result lies on the source's grid.

    Outside the box the labels are background, its probability is 1, and the
    uncertainty is that of the coarse model. A tile or an overlap in the settings is
    for the fine pass; the coarse model keeps its own.

    Parameters
    ----------
    volume
        The scan.
    model
        A composite: from a folder, or from `Model.paired`.
    settings, hooks
        As for `predict_tiles`.

    Raises
    ------
    ModelError
        Where the model is no composite, or one of its parts does not fit the scan.
    StopRequested
        Where the hooks said so.
    """
    tiles = predict_composite_tiles(volume, model, settings, hooks=hooks)
    return gathered(tiles, volume.grid, [final_card(model)])


def predict_composite_tiles(
    volume: Volume,
    model: Model,
    settings: Settings | None = None,
    *,
    box: Box | None = None,
    found: Found | None = None,
    hooks: Hooks = NO_HOOKS,
) -> Iterator[FinishedTile]:
    """Predict a volume with a composite model, a slab after the other.

    First what the fine model sees, then what lies around it, each slab beside one
    that was there before. Labels are as they are before any clean-up; that of
    `final_card` belongs to them.

    Parameters
    ----------
    volume, model, settings, box, hooks
        As for `predict_coarse_to_fine` and `predict_tiles`.
    found
        What the coarse model found, where it has looked; None: it looks. Whoever goes
        on with a volume gives what it found the first time.

    Raises
    ------
    ModelError, StopRequested, UsageError
        As these.
    """
    if model.parts is None:
        raise ModelError(_NO_COMPOSITE.format(model.card.name))
    # Where the fine model looks is found by the coarse one; once is enough.
    settings = replace(settings or Settings(), roi="all")
    fine = model.parts[1]
    fine.card.check_fits(volume)
    wanted = box_of(volume, box)
    if found is None:
        found = look(volume, model, settings, hooks=hooks)
    axis = slow_axis(volume.grid, [fine.card], plan_passes([fine.card], settings))
    outside = Surroundings(found.frame, found.uncertainty, fine.card.classes, settings)
    size = wanted[axis].stop - wanted[axis].start
    inner, own = shared_box(wanted, found.box)
    reached, done = None, 0
    if all(span.stop > span.start for span in inner):
        for tile in predict_tiles(
            cropped(volume, found.box),
            [fine],
            settings,
            box=own,
            axis=axis,
            hooks=hooks,
        ):
            place = _moved(tile.index, found.box)
            planes = inner[axis].stop - inner[axis].start
            done = round(tile.fraction * planes) - place[axis].stop + place[axis].start
            downwards = _is_downwards(place[axis], reached, inner[axis], wanted[axis])
            for span in in_pieces(place[axis], downwards=downwards):
                done += span.stop - span.start
                index = _with(wanted, axis, span)
                part = _part(tile, axis, span.start - place[axis].start, span)
                maps = outside.around(part, _with(place, axis, span), index)
                yield tile_of(index, maps, done / size)
            reached = place[axis]
        reached, done = inner[axis], inner[axis].stop - inner[axis].start
    for span in beside(wanted[axis], reached or slice(0, 0), volume.grid.shape[axis]):
        if hooks.should_stop():
            raise StopRequested(f"{volume.name}: stopped as asked, beside the box.")
        done += span.stop - span.start
        index = _with(wanted, axis, span)
        yield tile_of(index, outside.at(index), done / size)


def look(
    volume: Volume,
    model: Model,
    settings: Settings | None = None,
    hooks: Hooks = NO_HOOKS,
) -> Found:
    """Let the coarse model of a composite find the box, and tell the log.

    Parameters and exceptions are those of `predict_coarse_to_fine`.
    """
    if model.parts is None or model.card.coarse_to_fine is None:
        raise ModelError(_NO_COMPOSITE.format(model.card.name))
    coarse, way = model.parts[0], model.card.coarse_to_fine
    settings = replace(settings or Settings(), roi="all")
    found = find_box(volume, coarse, way, settings, hooks=hooks)
    hooks.log(f"{volume.name}: {_told(found, coarse, volume.grid)}")
    return found


def find_box(
    volume: Volume,
    coarse: Model,
    way: CoarseToFine,
    settings: Settings,
    hooks: Hooks = NO_HOOKS,
) -> Found:
    """Let the coarse model look at the whole volume, and box what it found.

    The volume is turned, scaled and resized once; its clean-up and its box are settled
    on that small grid.

    Raises
    ------
    ModelError
        Where the model does not fit the scan.
    """
    coarse.card.check_fits(volume)
    seen = prepare(volume, coarse.card.preprocessing)
    prediction = predict_volume(
        Volume(seen.data, seen.grid, volume.channels, volume.source),
        [as_it_is(_cleaning(coarse, way))],
        replace(settings, probabilities=False, tile=None, overlap=None),
        hooks=hooks,
    )
    fractions = box_around(prediction.labels[0] > 0, way.margin)
    box = (
        central_box(seen.frame.oriented, way.fallback_mm)
        if fractions is None
        else box_in_source(fractions, seen.frame.oriented.shape)
    )
    unsure = prediction.uncertainty
    return Found(
        seen.frame.source_index(box),
        fractions is None,
        seen.frame,
        None if unsure is None else unsure[0],
    )


# ---- Models of any kind ----


def predict_any_volume(
    volume: Volume,
    models: Sequence[Model],
    settings: Settings | None = None,
    hooks: Hooks = NO_HOOKS,
) -> Prediction:
    """`predict_volume`, where some of the models may be composites.

    Models that are not go through the volume together, each composite by itself.
    """
    plain = [model for model in models if model.parts is None]
    together = None
    if plain or not models:
        together = predict_volume(volume, plain, settings, hooks=hooks)
    if together is not None and len(plain) == len(models):
        return together
    alone = []
    for model in models:
        if model.parts is None and together is not None:
            alone.append(_one(together, plain.index(model)))
        else:
            alone.append(predict_coarse_to_fine(volume, model, settings, hooks=hooks))
    return Prediction(
        tuple(found.labels[0] for found in alone),
        _row([found.uncertainty for found in alone]),
        _row([found.probabilities for found in alone]),
    )


def predict_any_tiles(
    volume: Volume,
    models: Sequence[Model],
    settings: Settings | None = None,
    *,
    box: Box | None = None,
    found: Found | None = None,
    hooks: Hooks = NO_HOOKS,
) -> Iterator[FinishedTile]:
    """`predict_tiles`, where some of the models may be composites.

    A composite alone comes in slabs as well, see `predict_composite_tiles`, also for
    ``found``; beside other models the whole box comes as one tile.
    """
    if all(model.parts is None for model in models):
        yield from predict_tiles(volume, models, settings, box=box, hooks=hooks)
        return
    if len(models) == 1:
        yield from predict_composite_tiles(
            volume,
            models[0],
            settings,
            box=box,
            found=found,
            hooks=hooks,
        )
        return
    whole = predict_any_volume(volume, models, settings, hooks=hooks)
    z, y, x = box or tuple(slice(0, size) for size in volume.grid.shape)
    index = (z, y, x)

    def cut(arrays: tuple[NDArray[Any], ...] | None) -> Any:
        return None if arrays is None else tuple(a[(..., *index)] for a in arrays)

    yield FinishedTile(
        index, cut(whole.labels), cut(whole.uncertainty), cut(whole.probabilities), 1.0
    )


def _one(prediction: Prediction, place: int) -> Prediction:
    def pick(arrays: tuple[NDArray[Any], ...] | None) -> Any:
        return None if arrays is None else (arrays[place],)

    return Prediction(
        pick(prediction.labels),
        pick(prediction.uncertainty),
        pick(prediction.probabilities),
    )


def _row(
    found: Sequence[tuple[NDArray[np.float32], ...] | None],
) -> tuple[NDArray[np.float32], ...] | None:
    arrays = [one[0] for one in found if one is not None]
    return tuple(arrays) if len(arrays) == len(found) else None


# ---- Inside ----


def final_card(model: Model) -> ModelCard:
    """The card whose clean-up the labels of a model get."""
    if model.parts is None or model.card.coarse_to_fine is None:
        return model.card
    return _cleaning(model.parts[1], model.card.coarse_to_fine).card


def _cleaning(model: Model, way: CoarseToFine) -> Model:
    """The model with the clean-up of the two passes in its card."""
    rules = model.card.postprocessing.model_copy(
        update={"keep_largest": _kept(model.card, way)}
    )
    return replace(model, card=model.card.model_copy(update={"postprocessing": rules}))


def _kept(card: ModelCard, way: CoarseToFine) -> dict[str, int]:
    kept = {name: way.keep_largest.get(name, 1) for name in card.classes.names}
    own: Postprocessing = card.postprocessing
    return kept | own.keep_largest


def _is_downwards(
    planes: slice, reached: slice | None, inner: slice, wanted: slice
) -> bool:
    """Whether the pieces of a tile go down, to begin beside what was there before.

    Parameters
    ----------
    planes, reached
        Of the tile and of that before; None: it is the first, and lies beside what an
        earlier execution finished, if any.
    inner, wanted
        What the fine model sees, and all that is wanted.
    """
    if reached is not None:
        return bool(planes.stop == reached.start)
    above = wanted.start > 0 and planes.start == wanted.start
    return bool(planes.stop == inner.stop) and not above


def _part(tile: FinishedTile, axis: int, first: int, span: slice) -> Maps:
    """Some planes of a tile, from the first one on."""
    where = _with(
        (slice(None),) * 3, axis, slice(first, first + span.stop - span.start)
    )
    return maps_of(tile).change(lambda array: array[(..., *where)])


def _moved(box: Box, corner: Box) -> Box:
    """A box that was counted from the corner of another."""
    z, y, x = (
        slice(span.start + whole.start, span.stop + whole.start)
        for span, whole in zip(box, corner, strict=True)
    )
    return (z, y, x)


def _with(box: Box, axis: int, span: slice) -> Box:
    """The box with another span along an axis."""
    z, y, x = (span if place == axis else own for place, own in enumerate(box))
    return (z, y, x)


def _told(found: Found, coarse: Model, grid: Grid) -> str:
    sides = [span.stop - span.start for span in found.box]
    of = " x ".join(str(size) for size in grid.shape)
    box = f"{' x '.join(map(str, sides))} of {of} voxels (z, y, x)"
    if found.is_fallback:
        return (
            f"{coarse.card.name} found nothing; the fine model sees the middle, {box}."
        )
    return f"the fine model sees {box}."
