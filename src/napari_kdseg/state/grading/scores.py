"""P(good) of the slices under review, and what a threshold would accept of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from napari_kdseg.review.curves import accepted_by_threshold
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.review.scores import Scores, file_of, read
from napari_kdseg.review.verdicts import Place

_STEPS = 201


class ScoredSlices:
    """What a classifier says of predictions, as far as it is known.

    Parameters
    ----------
    folder
        Where scores are kept.
    predictions
        All that were found, of one model.
    axes
        Along which slices are scored.
    """

    def __init__(
        self, folder: Path, predictions: Sequence[Prediction], axes: Sequence[int]
    ) -> None:
        self.folder = folder
        self.axes = tuple(axes)
        self._wanted = {
            (one.case, axis): one
            for one in predictions
            if not one.missing
            for axis in axes
        }
        self._found: dict[tuple[str, int], np.ndarray] = {}
        self._words: Mapping[Place, bool] = {}
        self._machine: np.ndarray | None = None

    @property
    def total(self) -> int:
        """Slices that shall have a score."""
        return sum(one.slices(axis) for (_, axis), one in self._wanted.items())

    @property
    def done(self) -> int:
        """Slices that have one."""
        return sum(len(found) for found in self._found.values())

    @property
    def missing(self) -> tuple[str, ...]:
        """Scans that lack scores."""
        cases = (case for case, axis in self._wanted if (case, axis) not in self._found)
        return tuple(dict.fromkeys(cases))

    @property
    def scores(self) -> Scores:
        """All that is known, by slice."""
        return Scores(self._found)

    def look(self) -> bool:
        """Read the files that are new; gives whether there were any."""
        new = False
        for (case, axis), one in self._wanted.items():
            if (case, axis) in self._found:
                continue
            prob = read(file_of(self.folder, case, axis, one.labels_hash))
            if prob is not None and len(prob) == one.slices(axis):
                self._found[case, axis] = prob
                new = True
        if new:
            self._machine = None
        return new

    def set_words(self, words: Mapping[Place, bool]) -> None:
        """Take what people agree on: it comes before what the classifier says."""
        self._words = words
        self._machine = None

    # ---- What a threshold accepts ----

    def accepted(self, threshold: float) -> tuple[int, int]:
        """Count the slices that are accepted, and those that could be."""
        machine, good, judged = self._counted()
        accepted = int(accepted_by_threshold(machine, np.array([threshold], float))[0])
        return accepted + good, len(machine) + judged

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Thresholds from 0 to 1, and how many slices each accepts."""
        machine, good, _ = self._counted()
        across = np.linspace(0, 1, _STEPS)
        return across, accepted_by_threshold(machine, across) + good

    def by_machine(self, threshold: float) -> list[Place]:
        """List the slices that are accepted without anybody's word."""
        found = []
        for (case, axis), prob in self._found.items():
            enough = np.flatnonzero(prob.astype(float) >= threshold)
            places = ((case, axis, int(index)) for index in enough)
            found += [place for place in places if place not in self._words]
        return found

    def _counted(self) -> tuple[np.ndarray, int, int]:
        """Scores of slices that nobody judged, sorted; slices judged good; judged."""
        words = {
            place: word
            for place, word in self._words.items()
            if place[:2] in self._wanted
        }
        if self._machine is None:
            self._machine = np.sort(self._without(words))
        return self._machine, sum(words.values()), len(words)

    def _without(self, words: Mapping[Place, bool]) -> np.ndarray:
        by_scan: dict[tuple[str, int], list[int]] = {}
        for case, axis, index in words:
            by_scan.setdefault((case, axis), []).append(index)
        parts = [np.empty(0)]
        for key, prob in self._found.items():
            inside = [index for index in by_scan.get(key, ()) if index < len(prob)]
            parts.append(np.delete(prob, inside).astype(float))
        return np.concatenate(parts)
