"""Results as layers: of a run that is filling them, and of one that is published.

::

    CASE/MODEL/labels.*         class values
         MODEL/uncertainty.*    0 (sure) to 1, or bytes 0..255
         MODEL/prediction.json  classes, model, settings
         regions.*              which teachers claim a voxel, one bit each
         regions.json           what the bits mean, and the share of each region
         uncertainty.*          the highest over all teachers

A running job has plain zarr arrays of these names in ``partial/CASE``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_kdseg.errors import VolumeError
from napari_kdseg.state.layers import LayerData, labels_layer, uncertainty_layer
from napari_kdseg.volumes.formats import (
    inspect_volume,
    is_volume,
    read_label_set,
    read_labels,
    read_volume,
    suffix_of,
)
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid

Kind = Literal["labels", "uncertainty", "regions"]

# Smaller results are read into memory: then a person can paint on a copy, while
# what is published stays as it is.
LARGEST_IN_MEMORY_BYTES = 2**28


@dataclass(frozen=True)
class Result:
    """One array of a case's results: where it lies and whose it is."""

    kind: Kind
    case_folder: Path
    model: str = ""
    """Name of the model; empty for what belongs to all of them."""

    @property
    def folder(self) -> Path:
        """The folder of the array."""
        return self.case_folder / self.model if self.model else self.case_folder

    @property
    def path(self) -> Path | None:
        """The array's file or folder, None where there is none."""
        found = self.folder.glob(f"{self.kind}.*")
        volumes = sorted(path for path in found if is_volume(path))
        return volumes[0] if volumes else None

    def read(self) -> tuple[Any, Grid]:
        """The array, z, y, x, and its grid; large ones stay on disk, read only.

        Raises
        ------
        VolumeError
            Where it is missing or damaged.
        """
        path = self._existing()
        if suffix_of(path).endswith("zarr"):
            return _stored(path)
        if self.kind == "labels":
            return read_labels(path)
        volume = read_volume(path)
        return volume.data[0], volume.grid

    def read_unfinished(self) -> Any:
        """The array of a running job; what is not computed reads as zero.

        Raises
        ------
        VolumeError
            Where it is missing.
        """
        import zarr

        return zarr.open_array(store=str(self._existing()), mode="r")

    def _existing(self) -> Path:
        path = self.path
        if path is None:
            raise VolumeError(
                f"{self.folder} has no {self.kind}; a finished prediction has. Run it "
                "again with this result asked for."
            )
        return path


def models_in(case_folder: Path) -> tuple[str, ...]:
    """Names of the models whose labels lie in the folder of a case."""
    folders = sorted(case_folder.glob("*/labels.*"))
    return tuple(dict.fromkeys(path.parent.name for path in folders if is_volume(path)))


def classes_of_file(path: Path, part: str | None = None) -> LabelSet | None:
    """The classes of a file of labels, from it or from the record of its prediction."""
    known = read_label_set(path, part)
    if known is not None:
        return known
    try:
        record = json.loads((path.parent / "prediction.json").read_text("utf-8"))
        return LabelSet(classes=record["labels"]["classes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def source_of_prediction(path: Path) -> Path | None:
    """The scan that the record beside a prediction names; None where there is none."""
    try:
        record = json.loads((path.parent / "prediction.json").read_text("utf-8"))
        return Path(record["source"][0]["path"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def labels_of(
    result: Result,
    case: str,
    grid: Grid | None = None,
    classes: LabelSet | None = None,
) -> LayerData:
    """The layer of a model's labels.

    Parameters
    ----------
    result
        Where they lie.
    case
        Named in the layer's name.
    grid, classes
        Those of the scan and the model while a job is filling the array, which then
        is not to be painted on; None once it is published, and says them itself.

    Raises
    ------
    VolumeError
        Where they are missing or damaged.
    """
    data, placed = result.read() if grid is None else (result.read_unfinished(), grid)
    if classes is None and result.path is not None:
        classes = classes_of_file(result.path) if grid is None else None
    record = {**record_of_result(result, case), "live": grid is not None}
    name = f"{case} {result.model}"
    return labels_layer(data, placed, classes, name=name, record=record)


def uncertainty_of(result: Result, case: str, grid: Grid | None = None) -> LayerData:
    """The layer of a model's uncertainty, or of the highest over all teachers.

    Parameters
    ----------
    result
        Where it lies.
    case
        Named in the layer's name.
    grid
        That of the scan where a job is filling the array; None once it is published.

    Raises
    ------
    VolumeError
        Where it is missing or damaged.
    """
    data, placed = result.read() if grid is None else (result.read_unfinished(), grid)
    record = {**record_of_result(result, case), "live": grid is not None}
    name = " ".join(word for word in (case, result.model, "uncertainty") if word)
    return uncertainty_layer(data, placed, name=name, record=record)


def published_layers(folder: Path, case: str, models: Sequence[str]) -> list[LayerData]:
    """Labels of every model, and below them one hidden layer of uncertainty.

    Parameters
    ----------
    folder
        Of a case's complete results.
    case
        Named in the layers' names.
    models
        Whose.

    Raises
    ------
    VolumeError
        Where labels are missing or damaged.
    """
    layers = [labels_of(Result("labels", folder, name), case) for name in models]
    whose = models[0] if len(models) == 1 else ""
    uncertainty = Result("uncertainty", folder, whose)
    if uncertainty.path is None:
        return layers
    data, arguments, kind = uncertainty_of(uncertainty, case)
    return [(data, {**arguments, "visible": False}, kind), *layers]


def record_of_result(result: Result, case: str) -> dict[str, Any]:
    """What a layer's metadata says of the result it shows."""
    return {
        "result": str(result.case_folder),
        "model": result.model,
        "key": key_of(result, case),
        "live": False,
    }


def key_of(result: Result, case: str) -> str:
    """The same for the array that a job fills and for the one it publishes.

    Scans of one name have results in different folders, and layers of their own.
    """
    out = result.case_folder.parent
    if out.name == "partial":  # OUT/.run/partial/CASE is to become OUT/CASE
        out = out.parent.parent
    return "/".join([out.as_posix(), case, result.model, result.kind])


def _stored(path: Path) -> tuple[Any, Grid]:
    from napari_kdseg.volumes.formats.ome_zarr import open_array

    array = open_array(path)
    grid = inspect_volume(path).grid
    small = np.prod(array.shape) * array.dtype.itemsize <= LARGEST_IN_MEMORY_BYTES
    return (array[:] if small else array), grid
