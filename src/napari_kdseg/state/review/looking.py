"""What a person looks at: single slices or contact sheets, and what they show."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from napari_kdseg.errors import ProjectError
from napari_kdseg.review.planes import THUMBNAIL_PX, Plane, View
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.review.verdicts import About
from napari_kdseg.state.review.shelf import Shelf, Wish

PredictionOf = Callable[[About], Prediction]


class Looking:
    """Slices as they are looked at, and which of them are read ahead.

    Parameters
    ----------
    shelf
        Where slices are.
    """

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.view = View()
        self.is_sheet = False
        """Whether a contact sheet is looked at, so that its slices come first."""
        self._landed = 0

    def has(self, about: About, find: PredictionOf, *, small: bool = False) -> bool:
        """Whether a slice, or its thumbnail, is there."""
        try:
            return self.shelf.has(self._wish(about, find, small=small))
        except ProjectError:
            return True  # nothing will come: it can be asked for, and says why

    def get(self, about: About, find: PredictionOf, *, small: bool = False) -> Plane:
        """Give a slice, or its thumbnail.

        Raises
        ------
        KdsegError
            Where it cannot be read, or its prediction is gone.
        """
        return self.shelf.get(self._wish(about, find, small=small))

    def expect(
        self,
        singly: Sequence[About],
        beside: Sequence[About],
        sheets: Sequence[About],
        find: PredictionOf,
    ) -> None:
        """Say what will be looked at, the next first.

        Parameters
        ----------
        singly
            One at a time.
        beside
            After these, to be read only where it costs little.
        sheets
            On contact sheets; before all others.
        find
            Finds the predictions.
        """
        small = [self._wish(about, find, small=True) for about in sheets]
        planes = [self._wish(about, find, small=False) for about in singly]
        others = [self._wish(about, find, small=False) for about in beside]
        self.shelf.want([*small, *planes], others)

    def landed(self) -> bool:
        """Whether slices have been read since the last call."""
        before, self._landed = self._landed, self.shelf.landed
        return before != self._landed

    def _wish(self, about: About, find: PredictionOf, *, small: bool) -> Wish:
        view = self.view
        if small:
            view = replace(view, uncertainty=False, most_px=THUMBNAIL_PX)
        return Wish(find(about), about.axis, about.index, view)
