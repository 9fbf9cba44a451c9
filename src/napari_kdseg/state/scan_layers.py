"""The layers of a scan: a layer a channel, and its labels over them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_kdseg.errors import VolumeError
from napari_kdseg.state.layers import (
    LayerData,
    image_layers,
    labels_layer,
    viewable,
    with_record,
)
from napari_kdseg.state.results import LARGEST_IN_MEMORY_BYTES, classes_of_file
from napari_kdseg.volumes.cache import Cache
from napari_kdseg.volumes.formats import inspect_volume, read_labels
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.naming import classes_of_data_set
from napari_kdseg.volumes.opening import needs_conversion, open_scan
from napari_kdseg.volumes.scan import Scan, StoredFile, VolumeFile
from napari_kdseg.volumes.volume import Grid


@dataclass(frozen=True)
class ScanFiles:
    """A scan of a project, or of none, and where its files are looked for."""

    scan: Scan
    folder: Path | None
    """The project's folder."""
    classes: LabelSet | None
    """The project's classes: what its trainings take the values of labels for."""
    cache: Cache
    """Where converted files lie."""

    def place(self, stored: StoredFile) -> VolumeFile:
        """Find a file.

        Raises
        ------
        VolumeError
            Where it is missing.
        """
        path = stored.file.find(self.folder)
        if path is None:
            raise VolumeError(
                f"{stored.file.path} is missing; the scan {self.scan.case!r} needs it. "
                "Press Locate and choose the folder it lies in now."
            )
        return VolumeFile(path, stored.part)

    def to_convert(self) -> Iterator[VolumeFile]:
        """Find the files that can only be shown after a conversion.

        Raises
        ------
        VolumeError
            Where a file is missing or damaged.
        """
        for stored in self.scan.files:
            one = self.place(stored)
            header = inspect_volume(one.path, one.part)
            if needs_conversion(header) and not self.cache.find(one.path, one.part):
                yield one

    def layers(self) -> list[LayerData]:
        """Give all layers; of several channels the first is visible.

        Raises
        ------
        VolumeError
            Where a file is missing or damaged.
        """
        made: list[LayerData] = []
        for stored in self.scan.images:
            one = self.place(stored)
            volume = open_scan(one.path, one.part, cache=self.cache)
            if len(volume.channels) != len(stored.channels):
                raise VolumeError(
                    f"{one.path} has {len(volume.channels)} channels and had "
                    f"{len(stored.channels)} when it was added; a scan keeps its "
                    "channels. Press Accept where the change is meant."
                )
            layers = image_layers(volume, one.part)
            for layer, name in zip(layers, stored.channels, strict=True):
                made.append(self._named(layer, name, first=not made))
        if self.scan.labels is not None:
            made.append(self._labels(self.place(self.scan.labels)))
        return made

    def _named(self, layer: LayerData, channel: str, *, first: bool) -> LayerData:
        data, arguments, kind = layer
        case = self.scan.case
        name = case if len(self.scan.channels) == 1 else f"{case} {channel}"
        named = {**arguments, "name": name, "visible": first}
        noted: dict[str, Any] = {
            "scan": case,
            "case": case,
            "key": self._key(channel),
            "channels": tuple(self.scan.channels),
        }
        if len(self.scan.images) > 1:
            places = [self.place(stored) for stored in self.scan.images]
            noted["files"] = [str(one.path) for one in places]
            noted["parts"] = [one.part for one in places]
        return with_record((data, named, kind), **noted)

    def _labels(self, one: VolumeFile) -> LayerData:
        data, grid = labels_to_show(one, self.cache)
        known = self.classes or classes_of_labels(one)
        record = {
            "path": str(one.path),
            "part": one.part,
            "scan": self.scan.case,
            "key": self._key("labels", "labels"),
        }
        name = f"{self.scan.case} labels"
        return labels_layer(data, grid, known, name=name, record=record)

    def _key(self, channel: str, kind: str = "image") -> str:
        """The same when the scan is opened again: it is shown once."""
        return "/".join(["scan", str(self.folder or ""), self.scan.case, kind, channel])


def labels_to_show(one: VolumeFile, cache: Cache | None = None) -> tuple[Any, Grid]:
    """Read labels, z, y, x, and their grid; large ones lazily, for looking only.

    Raises
    ------
    VolumeError
        Where the file is damaged, or holds no labels.
    """
    header = inspect_volume(one.path, one.part)
    if header.bytes > LARGEST_IN_MEMORY_BYTES:
        data = open_scan(one.path, one.part, cache=cache).data
        return viewable(data, 0), header.grid
    return read_labels(one.path, one.part)


def classes_of_labels(one: VolumeFile) -> LabelSet | None:
    """The classes of a file of labels, from it or from what lies beside it."""
    return classes_of_file(one.path, one.part) or classes_of_data_set(one.path)
