"""The copy of a prediction that a person paints on; see `corrections` for its files.

What is painted is put on disk in blocks, each a file, within seconds. `saving` writes
them into the labels. Until the first time there are no labels of its own: what was not
painted is read from the prediction, so that very large ones open at once.
"""

import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from napari_kdseg.atomic import publish_folder, sync_tree, temporary_beside
from napari_kdseg.errors import ReviewError
from napari_kdseg.review.arrays import Opener, always
from napari_kdseg.review.correction_files import (
    CHANGED,
    block_file,
    chunk_layer,
    chunk_row,
    edge_for,
    edge_of,
    merge_again,
    name_of_copy,
    opened,
    plain,
    remove_partial,
    restore,
    rows_of_blocks,
    writable,
    write_block,
)
from napari_kdseg.review.corrections import (
    RECORD,
    CorrectedSlice,
    How,
    Place,
    Record,
    home_of,
    read_record,
    write_record,
)
from napari_kdseg.review.painting import Key, Painting, Written
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.volumes.formats import ome_zarr, suffix_of, write_labels
from napari_kdseg.volumes.labels import LabelSet


class Copy:
    """The correction of one prediction, open to be painted on.

    Attributes
    ----------
    painting
        The labels, as an array to be read and written.
    record
        What is noted of it.
    notes
        What a person should know, a sentence each.
    by
        Who paints.
    """

    def __init__(
        self, prediction: Prediction, home: Path, painting: Painting, record: Record
    ) -> None:
        self.prediction = prediction
        self.home = home
        self.painting = painting
        self.record = record
        self.notes: tuple[str, ...] = ()
        self.by = ""
        self._on_disk = record if (home / RECORD).exists() else None
        self._merging_now = False
        self._axis = 0
        self._how: How = "painted"
        self._touched: dict[Place, How] = {}
        self._crossed: set[Place] = set()
        self._hows = {one.place: one.how for one in record.slices}
        self._settled = set(self._hows)
        self._strangers: dict[Key, str] = {}
        self._allowed = np.zeros(np.iinfo(painting.dtype).max + 1, bool)
        self._allowed[[0, *self.classes.values]] = True
        painting.on_write = self._on_write

    @classmethod
    def open(cls, folder: Path, prediction: Prediction, opener: Opener) -> "Copy":
        """Open the correction of a prediction, or begin one; nothing is written yet.

        Parameters
        ----------
        folder
            The project, or what was given to `kdseg-train predict` as --out.
        prediction
            What is corrected.
        opener
            Opens its labels.

        Raises
        ------
        ReviewError
            Where there is a record, and it is damaged.
        VolumeError
            Where the labels are gone or damaged.
        """
        home = home_of(folder, prediction)
        remove_partial(home)
        if (home / RECORD).exists():
            record = read_record(home / RECORD)
        else:
            record = Record.of(prediction, name_of_copy(prediction))
        own, changed = home / record.labels, home / CHANGED
        if record.merging:
            merge_again(own, changed)
            record = record.model_copy(update={"merging": False})
            write_record(home / RECORD, record)
        data = opened(own) if own.exists() else opener.labels(prediction)
        edge = edge_of(data) if own.exists() else edge_for(prediction.grid)
        painting = Painting(plain(data), edge)
        copy = cls(prediction, home, painting, record)
        copy.notes = tuple(restore(painting, changed))
        for key in painting.blocks:
            copy._check(key)
        return copy

    # ---- What there is ----

    @property
    def classes(self) -> LabelSet:
        """What may be painted."""
        return self.record.label_set

    @property
    def labels(self) -> Path:
        """The copy's file or folder; perhaps not there yet."""
        return self.home / self.record.labels

    @property
    def slices(self) -> tuple[CorrectedSlice, ...]:
        """Slices that are not as predicted, the last that was corrected last."""
        self._look_at_touched()
        return self.record.slices

    @property
    def is_kept(self) -> bool:
        """Whether all that was painted is on disk."""
        empty = self._on_disk is None and not self.record.slices
        waiting = self._touched or self._crossed or self.painting.unkept
        return (empty or self._on_disk == self.record) and not waiting

    @property
    def is_saved(self) -> bool:
        """Whether the labels hold all that was painted."""
        return self.labels.exists() and not self.painting.blocks

    # ---- Painting ----

    def look(self, axis: int) -> None:
        """Say across which axis of the array slices are looked at."""
        self._axis = axis

    @contextmanager
    def interpolating(self) -> Iterator[None]:
        """Note what is written meanwhile as interpolated."""
        self._how = "interpolated"
        try:
            yield
        finally:
            self._how = "painted"

    # ---- Keeping ----

    def keep(self, go_on: Callable[[], bool] = always) -> None:
        """Put on disk what was painted; what was put there before stays as it is.

        Parameters
        ----------
        go_on
            Asked after each block; where it says no, the others wait for the next call.

        Raises
        ------
        OSError
            Where there is no room, or no right to write.
        """
        self._look_at_touched()
        if self._merging_now or self.is_kept:
            return
        self._write_record()
        for key in self.painting.unkept:
            write_block(self.home / CHANGED, key, self.painting.block(key))
            self.painting.kept(key)
            self._check(key)
            if not go_on():
                return

    def saving(self) -> Generator[float, None, None]:
        """Write the labels with all that was painted, step by step.

        Closing the generator leaves the labels whole, and what was painted where it is
        kept. What is painted meanwhile is kept beside them.

        Yields
        ------
        float
            The share that is done, 0 to 1.

        Raises
        ------
        ReviewError
            Where a value was painted that is no class; says where.
        VolumeError, OSError
            Where the labels cannot be written.
        """
        self.keep()
        if self._strangers:
            raise ReviewError(next(iter(self._strangers.values())))
        if self.is_saved:
            return
        self._write_record()
        noted = self.painting.blocks
        if suffix_of(self.labels).endswith("zarr"):
            yield from self._merging() if self.labels.exists() else self._copying()
            below = plain(opened(self.labels))
        else:
            below = whole = np.asarray(self.painting)
            write_labels(self.labels, whole, self.prediction.grid, self.classes)
        self.keep()
        self.painting.settle(below, noted)
        self._settled = {one.place for one in self.record.slices}
        for key in noted:
            if key not in self.painting.blocks:
                block_file(self.home / CHANGED, key).unlink(missing_ok=True)
        yield 1.0

    def discard(self) -> bool:
        """Leave nothing behind where nothing was corrected; gives whether it was so."""
        record, copied = self.record, self.labels.exists()
        if self.slices or record.sent or record.sent_whole or copied or self.notes:
            return False
        if self._on_disk is not None:
            shutil.rmtree(self.home)
            with suppress(OSError):
                self.home.parent.rmdir()  # others may lie there
        return True

    # ---- The labelled set ----

    def send(self, axis: int, index: int) -> None:
        """Count a slice as labelled; the labels must be saved."""
        self._change(self.record.with_sent(axis, index, self.by))

    def send_whole(self) -> None:
        """Count all slices as labelled; the labels must be saved."""
        self._change(self.record.with_whole(self.by))

    def take_out(self, axis: int, index: int) -> None:
        """Do not count a slice as labelled any more."""
        self._change(self.record.without_sent(axis, index))

    def take_out_whole(self) -> None:
        """Do not count the volume as labelled any more."""
        self._change(self.record.without_whole())

    # ---- Private ----

    def _change(self, record: Record) -> None:
        self.record = record
        self._write_record()

    def _write_record(self) -> None:
        if self._on_disk == self.record:
            return
        self.home.mkdir(parents=True, exist_ok=True)
        write_record(self.home / RECORD, self.record)
        self._on_disk = self.record

    def _on_write(self, written: Written) -> None:
        axis = self._axis
        thin = [one for one in range(3) if written.places[one].size == 1]
        if written.by_hand and axis not in thin and len(thin) == 1:
            axis = thin[0]  # an undo of what was painted across another axis
        for index in written.places[axis].tolist():
            how = self._how
            if not written.by_hand and how == "painted":
                how = self._hows.get((axis, index), how)  # an undo, or a redo
            self._touched.pop((axis, index), None)
            self._touched[axis, index] = self._hows[axis, index] = how
        spans = [(places[0], places[-1]) for places in written.places]
        self._crossed |= {
            (other, index)
            for other, index in self._hows
            if other != axis and spans[other][0] <= index <= spans[other][1]
        }

    def _look_at_touched(self) -> None:
        """Note slices that were painted on, but for those that are as they were."""
        touched, crossed = self._touched, self._crossed
        self._touched, self._crossed = {}, set()
        differ: set[Place] = set()
        for axis in range(3):
            places = [index for other, index in {*touched, *crossed} if other == axis]
            found = self.painting.differing(axis, places)
            differ |= {(axis, index) for index in found}
        changed = {place: how for place, how in touched.items() if place in differ}
        undone = {*touched, *crossed} - differ - self._settled
        if changed or undone:
            self.record = self.record.with_slices(changed, self.by, undone)

    def _check(self, key: Key) -> None:
        """Look for values in a block that are no class."""
        self._strangers.pop(key, None)
        block = self.painting.block(key)
        strange = ~self._allowed[block]
        if not strange.any():
            return
        z, y, x = (int(place) for place in np.argwhere(strange)[0])
        box = self.painting.box(key)
        where = [part.start + at for part, at in zip(box, (z, y, x), strict=True)]
        known = ", ".join(f"{one.value} {one.name}" for one in self.classes.classes)
        self._strangers[key] = (
            f"The correction of {self.record.case!r} has the value {block[z, y, x]} at "
            f"z {where[0]}, y {where[1]}, x {where[2]}; the classes are {known}. Paint "
            "over it with one of these, or erase it."
        )

    def _copying(self) -> Generator[float, None, None]:
        """Make a large copy, a layer of chunks at a time."""
        painting, edge = self.painting, self.painting.edge
        temporary = temporary_beside(self.labels)
        z, y, x = painting.shape
        try:
            array = ome_zarr.create_array(
                temporary,
                painting.shape,
                painting.dtype,
                self.prediction.grid,
                labels=self.classes,
                chunks=(min(edge, z), min(edge, y), min(edge, x)),
            )
            layers = -(-z // edge)
            for layer in range(layers):
                for box in rows_of_blocks(painting, layer):
                    array[box] = painting[box]
                    yield layer / layers
                sync_tree(chunk_layer(temporary, layer))
                yield layer / layers
            ome_zarr.finish(temporary)
            publish_folder(temporary, self.labels)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _merging(self) -> Generator[float, None, None]:
        """Write blocks over the chunks of a large copy, all of them once begun."""
        keys = list(self.painting.blocks)
        array = writable(self.labels)
        self._merging_now = True
        try:
            self._change(self.record.model_copy(update={"merging": True}))
            for number, key in enumerate(keys):
                self._merge(array, key)
                try:
                    yield number / len(keys)
                except GeneratorExit:
                    for other in keys[number + 1 :]:
                        self._merge(array, other)
                    self._change(self.record.model_copy(update={"merging": False}))
                    raise
            self._change(self.record.model_copy(update={"merging": False}))
        finally:
            self._merging_now = False

    def _merge(self, array: zarr.Array[Any], key: Key) -> None:
        array[self.painting.box(key)] = self.painting.block(key)
        sync_tree(chunk_row(self.labels, key))
