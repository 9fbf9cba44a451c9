"""Correcting a prediction by painting: what the Review dock's panel shows and does."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from psygnal import Signal

from napari_kdseg.errors import KdsegError, ReviewError
from napari_kdseg.project_folder import is_project, read
from napari_kdseg.review.correction_copy import Copy
from napari_kdseg.review.corrections import Place, corrected
from napari_kdseg.review.interpolation import changes, to_fill
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.state.correction.saving import OpenCorrection, Savings
from napari_kdseg.state.correction.view import AXES, Edit, Shown
from napari_kdseg.state.layers import LayerData, image_layers, labels_layer, with_record
from napari_kdseg.volumes.cache import Cache
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.opening import open_scan

KEEP_AFTER_S = 1.0
"""What was painted is put on disk after so long, whether or not painting goes on."""
_BUDGET_S = 0.03
_LABELS_BESIDE = (
    " But the scan came with labels, and training and Measure keep to these: to have "
    "the correction used, remove the scan in Volumes and add it without them."
)


class Correction:
    """One prediction at a time, being painted on.

    Nothing is raised; what goes wrong is told in `status_changed`. Starts no threads: a
    timer calls `poll`, which keeps what was painted and writes labels step by step.

    Attributes
    ----------
    changed
        Emitted when `shown` is another.
    status_changed
        Emitted with what there is to tell, a sentence or nothing.
    """

    changed = Signal()
    status_changed = Signal(str)

    def __init__(
        self, cache: Cache | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cache = cache
        self._clock = clock
        self._open: OpenCorrection | None = None
        self._beside = ""
        self._savings = Savings()
        self._place: Place | None = None
        self._unkept_since: float | None = None
        self._shown = Shown()

    # ---- Beginning and ending ----

    def begin(self, folder: Path, prediction: Prediction, reviewer: str = "") -> bool:
        """Open the correction of a prediction, or begin one.

        Parameters
        ----------
        folder
            The project, or what was given to `kdseg-train predict` as --out.
        prediction
            What is to be corrected.
        reviewer
            Who corrects it.

        Returns
        -------
        bool
            Whether it can be painted on now; else `status_changed` says why not.
        """
        if not self.end():
            return False
        try:
            found = self._savings.find(prediction)
            self._open = found or OpenCorrection.of(folder, prediction, self._cache)
            self._beside = _LABELS_BESIDE if _is_drawn(folder, prediction.case) else ""
        except (KdsegError, OSError) as error:
            self._tell(_words(error))
            return False
        copy = self._open.copy
        copy.by = reviewer
        self._tell(" ".join(copy.notes))
        self._show()
        return True

    def end(self) -> bool:
        """Put all on disk, and let `poll` write the labels.

        Returns
        -------
        bool
            Whether nothing is being corrected any more. Where what was painted cannot
            be put on disk it goes on, and `status_changed` says why.
        """
        current = self._open
        if current is None:
            return True
        if not self._do(current.copy.keep):
            return False
        self._open, self._place, self._unkept_since = None, None, None
        if not current.copy.discard() and current.copy.painting.blocks:
            self._save(current, lambda: None)
        self._release(current)
        self._show()
        return True

    def close(self) -> None:
        """Put all on disk and stop; nothing is lost, and the next `begin` goes on."""
        current = self._open
        if current is not None and self._do(current.copy.keep):
            self._do(current.copy.discard)
        self._open = None
        for one in {*self._savings.abandon(), *([] if current is None else [current])}:
            one.lock.release()

    # ---- What is corrected ----

    @property
    def prediction(self) -> Prediction | None:
        """What is being corrected; None: nothing."""
        return None if self._open is None else self._open.copy.prediction

    @property
    def classes(self) -> LabelSet:
        """What may be painted."""
        return LabelSet(classes=()) if self._open is None else self._open.copy.classes

    @property
    def shown(self) -> Shown:
        """How far it is."""
        return self._shown

    @property
    def busy(self) -> bool:
        """Whether labels are being written."""
        return bool(self._savings)

    def layers(self, channel: int = 0) -> list[LayerData]:
        """Give the layers of what is corrected: the scan's channels, then the labels.

        Parameters
        ----------
        channel
            Which of the scan's is visible.

        Returns
        -------
        list
            Empty where the scan is gone or damaged; `status_changed` says so.
        """
        current = self._open
        if current is None:
            return []
        try:
            images = self._images(current.copy.prediction)
        except (KdsegError, OSError) as error:
            self._tell(_words(error))
            return []
        for number, (_, arguments, _) in enumerate(images):
            arguments["visible"] = number == min(channel, len(images) - 1)
        prediction = current.copy.prediction
        record = {"correction": str(current.copy.home), "case": prediction.case}
        labels = labels_layer(
            current.copy.painting,
            prediction.grid,
            current.copy.classes,
            name=f"{prediction.case} corrected",
            record=record,
        )
        return [*images, labels]

    def corrected(self, folder: Path, case: str, model: str) -> set[Place]:
        """Find the slices of a scan that are not as a model predicted them.

        Returns
        -------
        set of tuple
            Axis and index; also those that were painted a moment ago.
        """
        found = corrected(folder, case, model)
        current = self.prediction
        if current is not None and (current.case, current.model) == (case, model):
            found |= {*self._shown.slices, *self._shown.interpolated}
        return found

    # ---- Painting ----

    def look(self, axis: int, index: int | None) -> None:
        """Say which slice is looked at; None where none is, as in three dimensions."""
        self._place = None if index is None else (axis, index)
        if self._open is not None:
            self._open.copy.look(axis)
        self._show()

    def interpolation(self) -> Edit | None:
        """Interpolate between the last two slices that were painted.

        Nothing is changed yet: that is for the layer, so that it can be undone.

        Returns
        -------
        Edit or None
            None where there is nothing to interpolate; `status_changed` says why.
        """
        current = self._open
        if current is None:
            return None
        axis, pairs = self._axis, self._pairs(current.copy)
        if not pairs:
            self._tell(
                f"There are no two corrected slices across {AXES[axis]} with others "
                "between them; these are filled. Correct a second slice some way off."
            )
            return None
        prediction = current.copy.prediction
        spacing = prediction.grid.spacing_mm
        indices, values = changes(current.copy.painting, axis, pairs, spacing)
        count = sum(upper - lower - 1 for lower, upper in pairs)
        text = (
            f"{count} slice{'s' * (count > 1)} between {AXES[axis]} {pairs[0][0]} and "
            f"{pairs[-1][1]} interpolated. Ctrl+Z takes that back."
        )
        return Edit(indices, values, text)

    def interpolating(self) -> AbstractContextManager[None]:
        """Note what is written meanwhile as interpolated.

        Raises
        ------
        ReviewError
            Where nothing is being corrected.
        """
        if self._open is None:
            raise ReviewError("Nothing is being corrected; choose a slice first.")
        return self._open.copy.interpolating()

    # ---- The labelled set ----

    def send_slice(self) -> None:
        """Count the slice that is looked at as labelled, or not any more."""
        current, place = self._open, self._place
        if current is None or place is None:
            self._tell("No slice is in view; step to one, in two dimensions.")
            return
        axis, index = place
        name = f"Slice {AXES[axis]} {index} of {current.copy.prediction.case!r}"
        if place in self._shown.sent:
            self._do(lambda: current.copy.take_out(axis, index))
            self._tell(f"{name} is not in the labelled set any more.")
            return

        def send() -> None:
            current.copy.send(axis, index)
            self._tell(f"{name} is in the labelled set.{self._beside}")

        self._save(current, send)

    def send_volume(self) -> None:
        """Count all slices as labelled, or only those sent one by one."""
        current = self._open
        if current is None:
            return
        name = f"All of {current.copy.prediction.case!r}"
        if self._shown.whole:
            self._do(current.copy.take_out_whole)
            self._tell(f"{name} is not in the labelled set any more.")
            return

        def send() -> None:
            current.copy.send_whole()
            self._tell(f"{name} is in the labelled set.{self._beside}")

        self._save(current, send)

    # ---- Now and then ----

    def poll(self) -> None:
        """Keep what was painted, and write labels for a while."""
        self._keep_some()
        self._write_some()
        self._show()

    # ---- Private ----

    @property
    def _axis(self) -> int:
        return 0 if self._place is None else self._place[0]

    def _images(self, prediction: Prediction) -> list[LayerData]:
        made: list[LayerData] = []
        for path, part in zip(prediction.images, prediction.parts, strict=True):
            volume = open_scan(path, part, fill_nonfinite=0.0, cache=self._cache)
            made += image_layers(volume, part)
        return [with_record(layer, case=prediction.case) for layer in made]

    def _pairs(self, copy: Copy) -> list[tuple[int, int]]:
        here = [one for one in copy.slices if one.axis == self._axis]
        painted = [one.index for one in here if one.how == "painted"]
        return to_fill(painted, {one.index for one in here} - {*painted})

    def _keep_some(self) -> None:
        """Keep what was painted a while ago."""
        current, now = self._open, self._clock()
        if current is None or current.copy.is_kept:
            self._unkept_since = None
            return
        if self._unkept_since is None:
            self._unkept_since = now
        if now - self._unkept_since >= KEEP_AFTER_S:
            self._do(lambda: current.copy.keep(lambda: self._clock() < now + _BUDGET_S))

    def _save(self, one: OpenCorrection, then: Callable[[], object]) -> None:
        self._savings.add(one, then)
        self.poll()

    def _write_some(self) -> None:
        """Write labels until the time is up, or one of them is finished."""
        until = self._clock() + _BUDGET_S
        waiting = self._savings.first
        try:
            while self._savings and self._savings.step() is None:
                if self._clock() >= until:
                    return
        except (KdsegError, OSError) as error:
            self._tell(_words(error))
        if waiting is not None:
            self._release(waiting)

    def _release(self, one: OpenCorrection) -> None:
        """Let others correct what nobody here needs any more."""
        if one is not self._open and not self._savings.holds(one):
            one.lock.release()

    def _do(self, action: Callable[[], object]) -> bool:
        """Do what may fail for want of room or rights; gives whether it was done."""
        try:
            action()
        except (KdsegError, OSError) as error:
            self._tell(_words(error))
            return False
        finally:
            self._show()
        return True

    def _tell(self, text: str) -> None:
        self.status_changed.emit(text)

    def _show(self) -> None:
        idle = Shown(fraction=self._savings.fraction)
        shown = idle if self._open is None else self._shown_of(self._open.copy)
        if shown != self._shown:
            self._shown = shown
            self.changed.emit()

    def _shown_of(self, copy: Copy) -> Shown:
        slices, pairs = copy.slices, self._pairs(copy)
        return Shown(
            slices=tuple(one.place for one in slices if one.how == "painted"),
            interpolated=tuple(one.place for one in slices if one.how != "painted"),
            sent=tuple(one.place for one in copy.record.sent),
            whole=copy.record.sent_whole is not None,
            place=self._place,
            kept=copy.is_kept,
            fraction=self._savings.fraction,
            pair=(pairs[0][0], pairs[-1][1]) if pairs else None,
        )


def _words(error: Exception) -> str:
    if isinstance(error, KdsegError):
        return str(error)
    return (
        f"What was painted could not be written ({error}); it is still in memory. Make "
        "room on the disk, or ask for the right to write, and go on."
    )


def _is_drawn(folder: Path, case: str) -> bool:
    """Whether a scan of a project came with labels."""
    if not is_project(folder):
        return False
    document, _ = read(folder)
    return any(one.case == case and one.labels is not None for one in document.scans)
