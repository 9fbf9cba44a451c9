"""One slice in napari's canvas, in place of all else, while slices are judged."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.utils.colormaps import DirectLabelColormap

from napari_kdseg.review.planes import Plane
from napari_kdseg.review.verdicts import Word
from napari_kdseg.state.layers import NAMESPACE, UNKNOWN_CLASS_COLOR
from napari_kdseg.volumes.labels import LabelSet

IMAGE, LABELS, DOUBT = "review image", "review labels", "review uncertainty"
NAMES = (IMAGE, DOUBT, LABELS)  # from below to above
WORD_COLORS: dict[Word, str] = {
    "good": "#009e73",
    "bad": "#d55e00",
    "unsure": "#707680",
}
_TITLE_POINTS = 15
_TITLE_PX = 64  # caption and flash, above the slice
_FILLED = 0.95
_PER_MM = {"nanometer": 1e6, "micrometer": 1e3, "millimeter": 1.0, "meter": 1e-3}
_LOOKS = ("text", "visible", "font_size", "position", "color", "box")

Range = tuple[float, float]


@dataclass(frozen=True)
class Picture:
    """A slice, and what is to be known to show it."""

    plane: Plane
    classes: LabelSet
    scan: str
    """What the contrast is remembered by."""
    title: str


class SliceCanvas:
    """Shows slices in a viewer, one after the other, in the same three layers.

    Whatever else the viewer shows is hidden from `begin` to `end`. How a person sets
    the contrast of a scan is remembered; zoom and place stay while slices are of one
    size.

    Parameters
    ----------
    viewer
        The viewer.
    """

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self._before: _Before | None = None
        self._layers: dict[str, Any] = {}
        self._visible = {IMAGE: True, LABELS: True, DOUBT: False}
        self._contrast: dict[str, Range] = {}
        self._colormaps: dict[LabelSet, DirectLabelColormap] = {}
        self._picture: Picture | None = None
        self._caption = ""
        self._flash: tuple[str, str] | None = None
        self._extent: tuple[float, ...] = ()
        self._unit, self._per_mm = "millimeter", 1.0

    # ---- Before and after ----

    @property
    def active(self) -> bool:
        """Whether the viewer shows slices to be judged, and nothing else."""
        return self._before is not None

    def begin(self) -> None:
        """Hide what the viewer shows."""
        if self._before is not None:
            return
        self._before = _Before(self.viewer)
        self._unit, self._per_mm = _unit_of(self.viewer.layers)
        dims = self.viewer.dims
        dims.ndisplay = 2
        dims.order = tuple(range(dims.ndim))
        for layer in self.viewer.layers:
            layer.visible = False
        self._extent = ()

    def end(self) -> None:
        """Take the slice away, and show what was shown before."""
        if self._before is None:
            return
        self._note_looks()
        for name in NAMES:
            layer = self._layers.pop(name, None)
            if layer is not None and layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        self._picture = None
        self._flash = None
        before, self._before = self._before, None
        before.restore()

    # ---- Slices ----

    @property
    def picture(self) -> Picture | None:
        """The slice in view; None while none is."""
        return self._picture

    def show(self, picture: Picture) -> None:
        """Show a slice in place of the one in view."""
        if not self.active:
            return
        self._note_looks()
        last, plane = self._picture, picture.plane
        image = self._place(IMAGE, plane.image, plane)
        if last is None or last.scan != picture.scan:
            self._set_contrast(image, picture)
        if plane.uncertainty is not None:
            self._place(DOUBT, plane.uncertainty, plane)
        labels = self._place(LABELS, plane.labels, plane)
        if last is None or last.classes != picture.classes:
            self._set_classes(labels, picture.classes)
        self._picture = picture
        self._show_parts()
        self._fit(plane)
        self.say(picture.title)

    def clear(self, text: str = "") -> None:
        """Show no slice but a text: there is none left, or it is being read."""
        self._note_looks()
        self._picture = None
        for layer in self._layers.values():
            layer.visible = False
        self.say(text)

    def say(self, caption: str) -> None:
        """Write at the top of the canvas."""
        self._caption = caption
        self._write()

    def flash(self, text: str, color: str) -> None:
        """Write a line below the next caption, both in a colour.

        It is written together with that caption, as every change of the text costs
        time, and stays until `end_flash`.
        """
        self._flash = (text, color)

    def end_flash(self) -> None:
        """Leave only the caption; bring small pictures in napari's list up to date."""
        if self._flash is None:
            return
        self._flash = None
        self._write()
        for layer in self._layers.values():
            layer.refresh(data_displayed=False, highlight=False, extent=False)

    def _write(self) -> None:
        if not self.active:
            return
        flash, color = self._flash or ("", None)
        text = f"{self._caption}\n{flash}".strip()
        overlay = text_overlay(self.viewer)
        overlay.box = False  # vispy builds the shaders of one anew with every text
        overlay.color = color
        overlay.font_size = _TITLE_POINTS
        overlay.position = "top_left"
        overlay.text = text
        overlay.visible = bool(text)

    # ---- What is seen of a slice ----

    @property
    def overlay_shown(self) -> bool:
        """Whether labels lie over the image."""
        self._note_looks()
        return self._visible[LABELS]

    @property
    def doubt_shown(self) -> bool:
        """Whether uncertainty lies over the image."""
        self._note_looks()
        return self._visible[DOUBT]

    def show_overlay(self, *, shown: bool) -> None:
        """Show labels over the image, or not."""
        self._note_looks()
        self._visible[LABELS] = shown
        self._show_parts()

    def show_doubt(self, *, shown: bool) -> None:
        """Show uncertainty over the image, or not."""
        self._note_looks()
        self._visible[DOUBT] = shown
        self._show_parts()

    @property
    def turned(self) -> tuple[bool, bool]:
        """Whether the viewer shows rows upwards, and columns to the left."""
        down, right = getattr(_camera(self.viewer), "orientation2d", ("down", "right"))
        return str(down) == "up", str(right) == "left"

    # ---- Private ----

    def _place(self, name: str, data: np.ndarray, plane: Plane) -> Any:
        scale = self._size(plane)
        layer = self._layers.get(name)
        if layer is None or layer not in self.viewer.layers:
            layer = self._layers[name] = self._added(name, data, plane)
            self._put_in_order()
            return layer
        if tuple(layer.scale) != scale:
            layer.scale = scale
        if layer.data.shape == data.shape and layer.data.dtype == data.dtype:
            # New arrays have napari build its shaders anew, at a third of the time.
            layer.data[...] = data
            # The thumbnail waits for `end_flash`.
            layer.refresh(extent=False, highlight=False, thumbnail=False)
        else:
            layer.data = data.copy()
        return layer

    def _size(self, plane: Plane) -> tuple[float, float]:
        """Size of a pixel in the unit of the viewer."""
        down, right = plane.spacing_mm
        return down * self._per_mm, right * self._per_mm

    def _added(self, name: str, data: np.ndarray, plane: Plane) -> Any:
        add = self.viewer.add_labels if name == LABELS else self.viewer.add_image
        shared = {
            "name": name,
            "scale": self._size(plane),
            "units": (self._unit,) * 2,
            "metadata": {NAMESPACE: {"kind": "review"}},
            "visible": False,
        }
        if name == IMAGE:
            limits = {"contrast_limits": plane.limits}
            layer = add(data.copy(), colormap="gray", **limits, **shared)
        elif name == DOUBT:
            looks = {"colormap": "inferno", "blending": "additive"}
            layer = add(data.copy(), contrast_limits=(0, 255), **looks, **shared)
        else:
            layer = add(data.copy(), opacity=0.45, **shared)
            layer.editable = False  # what was predicted stays as it is
        return layer

    def _put_in_order(self) -> None:
        layers = self.viewer.layers
        for name in NAMES:
            if self._layers.get(name) in layers:
                layers.move(layers.index(self._layers[name]), len(layers))
        image = self._layers.get(IMAGE)
        if image in layers:
            layers.selection.active = image  # no layer that may be painted on

    def _set_contrast(self, image: Any, picture: Picture) -> None:
        low, high = picture.plane.limits
        room = (high - low) / 2
        limits = self._contrast.get(picture.scan, (low, high))
        for name, value in (
            ("contrast_limits_range", (low - room, high + room)),
            ("contrast_limits", limits),
        ):
            if tuple(getattr(image, name)) != value:
                setattr(image, name, value)

    def _set_classes(self, labels: Any, classes: LabelSet) -> None:
        if classes not in self._colormaps:  # slow to build
            colors: dict[int | None, str] = {
                None: UNKNOWN_CLASS_COLOR,
                0: "transparent",
            }
            colors |= {item.value: item.color for item in classes.classes}
            self._colormaps[classes] = DirectLabelColormap(color_dict=colors)
        labels.colormap = self._colormaps[classes]
        labels.features = {
            "index": [0, *classes.values],
            "class": ["background", *classes.names],
        }

    def _show_parts(self) -> None:
        if self._picture is None:
            return
        known = self._picture.plane.uncertainty is not None
        for name, layer in self._layers.items():
            shown = self._visible[name] and (name != DOUBT or known)
            if layer.visible != shown:
                layer.visible = shown

    def _note_looks(self) -> None:
        """Keep what the person set in napari's own controls."""
        picture = self._picture
        if picture is None:
            return
        for name, layer in self._layers.items():
            if name != DOUBT or picture.plane.uncertainty is not None:
                self._visible[name] = bool(layer.visible)
        low, high = self._layers[IMAGE].contrast_limits
        self._contrast[picture.scan] = (float(low), float(high))

    def _fit(self, plane: Plane) -> None:
        """Have a slice fill the canvas below the caption, unless one as large did."""
        pixel = self._size(plane)
        counts = plane.image.shape
        extent = (counts[0] * pixel[0], counts[1] * pixel[1])
        if extent == self._extent:
            return
        self._extent = extent
        canvas = getattr(self.viewer, "canvas", None)
        if canvas is None:  # napari 0.8
            self.viewer.reset_view()
            return
        camera = _camera(self.viewer)
        height, width = canvas.size
        title = min(_TITLE_PX, height / 4)
        zoom = _FILLED * min((height - title) / extent[0], width / extent[1])
        down, right = ((e - p) / 2 for e, p in zip(extent, pixel, strict=True))
        above = title / 2 / zoom * (-1 if self.turned[0] else 1)
        camera.zoom = zoom
        camera.center = (0.0, down - above, right)


class _Before:
    """What a viewer showed, to be shown again."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._visible = [layer for layer in viewer.layers if layer.visible]
        self._active = viewer.layers.selection.active
        dims, camera = viewer.dims, _camera(viewer)
        self._dims = (dims.ndisplay, dims.order)
        self._camera = (camera.center, camera.zoom)
        self._empty = not viewer.layers
        overlay = text_overlay(viewer)
        self._looks = {
            name: getattr(overlay, name) for name in _LOOKS if hasattr(overlay, name)
        }

    def restore(self) -> None:
        """Show it again, as far as it is still there."""
        viewer = self._viewer
        for layer in self._visible:
            if layer in viewer.layers:
                layer.visible = True
        ndisplay, order = self._dims
        if len(order) == viewer.dims.ndim:
            viewer.dims.order = order
        viewer.dims.ndisplay = ndisplay
        if self._active in viewer.layers:
            viewer.layers.selection.active = self._active
        if not self._empty:
            camera = _camera(viewer)
            camera.center, camera.zoom = self._camera
        overlay = text_overlay(viewer)
        for name, value in self._looks.items():
            setattr(overlay, name, value)


def text_overlay(viewer: Any) -> Any:
    """The text that napari can write over its canvas."""
    canvas = getattr(viewer, "canvas", None)  # new in napari 0.9
    return viewer.text_overlay if canvas is None else canvas.overlays.text


def _unit_of(layers: Any) -> tuple[str, float]:
    """The unit in which layers lie beside these, and how many of it are 1 mm.

    Layers of several units would be shown in none.
    """
    if not layers:
        return "millimeter", 1.0
    names = {str(unit) for layer in layers for unit in layer.units}
    name = names.pop() if len(names) == 1 else ""
    return (name, _PER_MM[name]) if name in _PER_MM else ("pixel", 1.0)


def _camera(viewer: Any) -> Any:
    scene = getattr(viewer, "scene", None)  # new in napari 0.9
    return viewer.camera if scene is None else scene.camera
