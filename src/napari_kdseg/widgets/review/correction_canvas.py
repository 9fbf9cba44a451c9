"""A scan and its labels in napari's canvas, in place of all else, to be painted on."""

from collections.abc import Sequence
from typing import Any

from napari_kdseg.state.layers import LayerData, record_of
from napari_kdseg.state.views import go_to_slice, slice_in_view, sliced_axis
from napari_kdseg.widgets.review.canvas import IMAGE, Range, text_overlay

_LOOKS = ("text", "visible")


class CorrectionCanvas:
    """Shows a scan to be painted on; all else is hidden from `begin` to `end`.

    Parameters
    ----------
    viewer
        The viewer.
    """

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self._before: _Before | None = None
        self._layers: list[Any] = []

    @property
    def active(self) -> bool:
        """Whether a scan is shown to be painted on."""
        return self._before is not None

    @property
    def labels(self) -> Any:
        """The layer that is painted on; None where there is none."""
        return self._layers[-1] if self._layers else None

    @property
    def has_labels(self) -> bool:
        """Whether the layer that is painted on is in the viewer still."""
        # A plugin's viewer hands layers out as proxies: equal, but not the same.
        return self.labels is not None and self.labels in self.viewer.layers

    @property
    def contrast(self) -> Range | None:
        """The grey values that a slice is judged with; None where none is shown."""
        if IMAGE not in self.viewer.layers:
            return None
        low, high = self.viewer.layers[IMAGE].contrast_limits
        return float(low), float(high)

    def begin(
        self,
        layers: Sequence[LayerData],
        contrast: Range | None,
        place: tuple[int, int],
    ) -> None:
        """Show a slice of a scan, with the labels, which are the last layer, over it.

        Parameters
        ----------
        layers
            What to show.
        contrast
            Grey values to show as black and white, in the visible channel.
        place
            Axis and index of the slice.

        Raises
        ------
        VolumeError
            Where the slice cannot be read; all is as it was then.
        """
        before = _Before(self.viewer)
        try:
            self._show(layers, contrast, place)
        except BaseException:
            self._remove_layers()
            before.restore(judged=True)
            raise
        self._before = before

    def go_to(self, axis: int, index: int) -> None:
        """Bring a slice into view as it is judged: its first other axis downwards."""
        dims = self.viewer.dims
        offset = dims.ndim - self.labels.ndim
        others = [other + offset for other in range(self.labels.ndim) if other != axis]
        dims.ndisplay = 2
        dims.order = (*range(offset), axis + offset, *others)
        go_to_slice(self.viewer, self.labels, axis, index)
        if hasattr(self.viewer, "fit_to_view"):
            self.viewer.fit_to_view(layers=[self.labels])
        else:  # napari 0.8
            self.viewer.reset_view()

    @property
    def place(self) -> tuple[int, int | None]:
        """Axis and index of the slice in view; no index where none is."""
        seen = slice_in_view(self.viewer, self.labels)
        axis = sliced_axis(self.viewer, self.labels)
        return axis, None if seen is None else seen[1]

    def say(self, text: str) -> None:
        """Write at the top of the canvas."""
        overlay = text_overlay(self.viewer)
        overlay.text = text
        overlay.visible = bool(text)

    def end(self, *, judged: bool = True) -> None:
        """Take the scan away, and show what was shown before.

        Parameters
        ----------
        judged
            Whether the slice that is judged comes back as well.
        """
        before, self._before = self._before, None
        self._remove_layers()
        if before is not None:
            before.restore(judged=judged)

    # ---- Private ----

    def _show(
        self,
        layers: Sequence[LayerData],
        contrast: Range | None,
        place: tuple[int, int],
    ) -> None:
        for layer in self.viewer.layers:
            if layer not in _judged(self.viewer):
                layer.visible = False
        shown = [bool(arguments.get("visible", True)) for _, arguments, _ in layers]
        for (data, arguments, kind), seen in zip(layers, shown, strict=True):
            add = getattr(self.viewer, f"add_{kind}")
            # Hidden at first, so that no slice is read but the one that is wanted.
            hidden = {**arguments, "visible": False}
            if kind == "image" and seen and contrast is not None:
                hidden["contrast_limits"] = contrast
            self._layers.append(add(data, **hidden))
        # A slice that is judged lies elsewhere, and the slider would reach for it.
        for layer in _judged(self.viewer):
            self.viewer.layers.remove(layer)
        self.viewer.layers.selection.active = self.labels
        self.go_to(*place)
        for layer, seen in zip(self._layers, shown, strict=True):
            layer.visible = seen
            if seen and contrast is not None and layer is not self.labels:
                low, high = contrast
                room = (high - low) / 2
                layer.contrast_limits_range = (low - room, high + room)
        self.labels.mode = "paint"

    def _remove_layers(self) -> None:
        layers, self._layers = self._layers, []
        for layer in layers:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)


class _Before:
    """What a viewer showed, to be shown again."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        layers = viewer.layers
        self._judged = [(layers.index(layer), layer) for layer in _judged(viewer)]
        self._visible = [layer for layer in layers if layer.visible]
        self._active = layers.selection.active
        dims, camera = viewer.dims, camera_of(viewer)
        self._dims = (dims.ndisplay, dims.order, dims.point)
        self._camera = (camera.center, camera.zoom)
        overlay = text_overlay(viewer)
        self._looks = {name: getattr(overlay, name) for name in _LOOKS}

    def restore(self, *, judged: bool) -> None:
        """Show it again, as far as it is still there, or is to come back."""
        layers = self._viewer.layers
        for index, layer in self._judged if judged else ():
            if layer not in layers:
                layers.insert(index, layer)
        for layer in self._visible:
            if layer in layers:
                layer.visible = True
        self._turn_back()
        if self._active in layers:
            layers.selection.active = self._active
        overlay = text_overlay(self._viewer)
        for name, value in self._looks.items():
            setattr(overlay, name, value)

    def _turn_back(self) -> None:
        """Look at it from where it was looked at."""
        dims = self._viewer.dims
        ndisplay, order, point = self._dims
        if len(order) == dims.ndim:
            dims.order, dims.point = order, point
        dims.ndisplay = ndisplay
        if self._visible:
            camera = camera_of(self._viewer)
            camera.center, camera.zoom = self._camera


def _judged(viewer: Any) -> list[Any]:
    """The layers of the slice that is judged."""
    return [
        layer
        for layer in viewer.layers
        if record_of({"metadata": layer.metadata}).get("kind") == "review"
    ]


def camera_of(viewer: Any) -> Any:
    """The camera that looks at a viewer's layers."""
    scene = getattr(viewer, "scene", None)  # new in napari 0.9
    return viewer.camera if scene is None else scene.camera
