"""Keys of the Review dock: bound while slices are judged, given back afterwards."""

from collections.abc import Callable, Mapping
from typing import Any

GOOD, BAD, UNSURE = "G", "J", "H"
NEXT, SKIP, TAKE_BACK = "N", "K", "U"
OVERLAY, UNCERTAINTY = "W", "Q"
ALL = (GOOD, BAD, UNSURE, NEXT, SKIP, TAKE_BACK, OVERLAY, UNCERTAINTY)
"""Free in napari 0.9, in whatever layer and mode."""

Action = Callable[[Any], None]
"""What a key does; it is given the viewer."""


class Keys:
    """Keys of a viewer that mean something for a while.

    Parameters
    ----------
    viewer
        Whose canvas they are pressed in.
    actions
        What each of them does.
    """

    def __init__(self, viewer: Any, actions: Mapping[str, Action]) -> None:
        self._viewer = viewer
        self._actions = dict(actions)
        self._before: dict[str, Action | None] = {}

    @property
    def bound(self) -> bool:
        """Whether the keys mean something now."""
        return bool(self._before)

    def bind(self) -> None:
        """Give the keys their meaning; what they meant before is kept for later."""
        for key, action in self._actions.items():
            if key not in self._before:
                before = self._viewer.bind_key(key, action, overwrite=True)
                self._before[key] = before

    def free(self) -> None:
        """Give the keys back, each with what it meant before.

        One that somebody else has bound meanwhile stays theirs.
        """
        for key, before in self._before.items():
            bound = self._viewer.bind_key(key, None)
            rightful = before if bound == self._actions[key] else bound
            if rightful is not None:
                self._viewer.bind_key(key, rightful)
        self._before.clear()
