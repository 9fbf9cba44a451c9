"""All slices of a model's predictions along one axis, a row each, and what is known."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_kdseg.review.predictions import Prediction
from napari_kdseg.review.profiles import Profile
from napari_kdseg.review.queue import Slices
from napari_kdseg.review.verdicts import About, Place
from napari_kdseg.state.review.ledger import Key, Opinion


class Table:
    """Rows of slices, those of one prediction after those of another.

    Parameters
    ----------
    predictions
        One a scan.
    axis
        Across which slices are cut.
    """

    def __init__(self, predictions: Sequence[Prediction], axis: int) -> None:
        self.predictions = tuple(predictions)
        self.axis = axis
        sizes = [one.slices(axis) for one in self.predictions]
        self.slices = Slices.of(sizes)
        self._starts = [0, *np.cumsum(sizes, dtype=int).tolist()]
        self._numbers = {
            (one.case, one.labels_hash): n for n, one in enumerate(self.predictions)
        }
        self._by_case = {one.case: n for n, one in enumerate(self.predictions)}

    def __len__(self) -> int:
        """How many slices there are."""
        return int(self._starts[-1])

    @property
    def cases(self) -> tuple[str, ...]:
        """The scans."""
        return tuple(one.case for one in self.predictions)

    def about(self, row: int) -> About:
        """Name the slice of a row."""
        number = int(self.slices.scan[row])
        index = int(self.slices.index[row])
        return self.predictions[number].about(self.axis, index)

    def row_of(self, key: Key) -> int | None:
        """Find the row of a slice; None where it has none."""
        case, axis, index, labels_hash = key
        number = self._numbers.get((case, labels_hash))
        return self._row(number, axis, index)

    def row_at(self, place: Place) -> int | None:
        """Find the row of a slice by its scan, whatever its labels are."""
        case, axis, index = place
        return self._row(self._by_case.get(case), axis, index)

    def set_profile(self, prediction: Prediction, profile: Profile) -> None:
        """Take the numbers of a prediction's slices; of others nothing is taken."""
        number = self._numbers.get((prediction.case, prediction.labels_hash))
        if number is None:
            return
        span = slice(self._starts[number], self._starts[number + 1])
        self.slices.area[span] = profile.area[self.axis]
        if profile.uncertainty is not None:
            self.slices.uncertainty[span] = profile.uncertainty[self.axis]
        if profile.conflict is not None:
            self.slices.conflict[span] = profile.conflict[self.axis]

    def set_scores(self, scores: Mapping[Place, float]) -> None:
        """Take P(good) of slices; those without one have NaN."""
        self.slices.score[:] = np.nan
        for place, score in scores.items():
            row = self.row_at(place)
            if row is not None:
                self.slices.score[row] = score

    def set_opinions(self, opinions: Iterable[tuple[Key, Opinion]]) -> list[int]:
        """Take what people say; gives the rows that it is about."""
        rows = []
        for key, opinion in opinions:
            row = self.row_of(key)
            if row is not None:
                self.slices.mine[row] = opinion.mine
                self.slices.others[row] = opinion.others
                self.slices.dispute[row] = opinion.dispute
                rows.append(row)
        return rows

    def rows_at(self, places: Iterable[Place]) -> NDArray[np.int64]:
        """Find the rows of slices, those that have one."""
        found = (self.row_at(place) for place in places)
        return np.array([row for row in found if row is not None], np.int64)

    def _row(self, number: int | None, axis: int, index: int) -> int | None:
        if number is None or axis != self.axis:
            return None
        row: int = self._starts[number] + index
        return row if index >= 0 and row < self._starts[number + 1] else None
