"""Which images an OME-Zarr holds, and each with its coarser levels, as z, y, x voxels.

A folder may be one image, an image with labels beside it, several images in one group,
or a collection of images as bioformats2raw writes it. Where there are several, each is
a part; so is each point in time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats.ome_chunks import (
    FAILURES,
    attributes_of,
    check_codecs,
    expected_chunks,
    fastest,
    open_zarr,
    stored_chunks,
)
from napari_kdseg.volumes.formats.ome_complete import check_complete
from napari_kdseg.volumes.formats.ome_metadata import Image, image_of, images_in
from napari_kdseg.volumes.formats.voxels import LazyVoxels
from napari_kdseg.volumes.volume import VoxelArray

_LAYOUT = "bioformats2raw.layout"


@dataclass(frozen=True)
class Place:
    """Where one volume lies in an OME-Zarr."""

    folder: Path
    """The group of its image."""
    image: int = 0
    """Which of the group's images."""
    time: int | None = None
    """Which point in time; None where there is but one."""


@dataclass(frozen=True)
class OmeImage:
    """One image, opened: its levels read their voxels where they are asked for."""

    place: Place
    image: Image
    levels: tuple[LazyVoxels, ...]
    """Full size first; those that are damaged or missing are left out."""
    notes: tuple[str, ...]


def places_in(path: Path) -> dict[str, Place]:
    """Find the volumes of a folder by name; empty where there is but one.

    Raises
    ------
    VolumeError
        When it is no OME-Zarr, or a plate of wells.
    """
    about = _about(path)
    names = _collected(path, about)
    if names:
        return names
    titles = images_in(about)
    if len(titles) > 1:
        return {
            title: Place(path, number) for number, title in enumerate(_distinct(titles))
        }
    return _moments(path) if titles else {}


def place_of(path: Path, part: str | None) -> Place:
    """Find the volume of that name, or the only one.

    Raises
    ------
    VolumeError
        When there are several and none is named, or none has that name.
    """
    places = places_in(path)
    if part is None and len(places) < 2:
        return next(iter(places.values()), Place(path))
    if part in places:
        return places[part]
    by_folder = {place.folder.name: place for place in places.values()}
    if part in by_folder and len(by_folder) == len(places):
        return by_folder[part]
    if not places:
        raise VolumeError(
            f"{path} has no part {part!r}; it holds one volume. Leave --part out."
        )
    listed = ", ".join(places)
    if part is None:
        raise VolumeError(
            f"{path} holds {len(places)} volumes: {listed}; one is read at a time. "
            "Choose it with --part NAME."
        )
    raise VolumeError(
        f"{path} has no part {part!r}; it holds {listed}. Choose one with --part NAME."
    )


def opened(
    path: Path, part: str | None = None, *, require_complete: bool = True
) -> OmeImage:
    """Open a volume and its coarser levels.

    Parameters
    ----------
    path, part
        The folder, and which volume in it.
    require_complete
        Refuse an image of ours that is not finished.

    Raises
    ------
    VolumeError
        When it is no image that is read, or its full size is damaged or missing.
    """
    place = place_of(path, part)
    name = str(place.folder)
    image = image_of(attributes_of(place.folder), name, place.image)
    array = open_zarr(place.folder, image.dataset)
    _check_kind(array, image, place)
    notes = image.notes
    if image.affine is None:
        notes += _left_out(array, place.folder / image.dataset, name)
    elif require_complete:
        check_complete(place.folder, array, image.dataset)
    # Of an image of ours a chunk that vanishes later, as when a cache is cleared, is
    # damage; elsewhere it stands for voxels that are all alike.
    whole = require_complete and image.affine is not None
    levels = [_voxels(array, image, place, image.dataset, whole=whole)]
    for dataset in image.coarser:
        try:
            coarse = open_zarr(place.folder, dataset)
            _check_kind(coarse, image, place)
            if image.affine is not None and require_complete:
                check_complete(place.folder, coarse, dataset)
            below = _voxels(coarse, image, place, dataset, whole=whole)
            levels.append(_coarser(levels[-1], below))
        except VolumeError as error:
            notes += (f"{name} is shown without its coarser level: {error}",)
    return OmeImage(place, image, tuple(levels), notes)


def levels(
    path: Path, part: str | None = None, *, require_complete: bool = True
) -> tuple[LazyVoxels, ...]:
    """Open an image at all its sizes, for a viewer.

    Parameters
    ----------
    path, part
        The folder, and which volume in it.
    require_complete
        Refuse an image of ours that is still being written; else chunks that are not
        there yet read as zero.

    Returns
    -------
    tuple of LazyVoxels
        Channel, z, y, x each; full size first. A coarser level that is damaged or
        missing is left out, and the header has a note that says so.

    Raises
    ------
    VolumeError
        As `inspect`.
    """
    return opened(path, part, require_complete=require_complete).levels


def label_images(path: Path, part: str | None = None) -> tuple[Path, ...]:
    """Find the label images that belong to an image; each is a volume of its own.

    Raises
    ------
    VolumeError
        When one is named that lies outside of the folder.
    """
    folders = {place.folder for place in places_in(path).values()} or {path}
    folder = folders.pop() if len(folders) == 1 else place_of(path, part).folder
    group = folder / "labels"
    if not group.is_dir():
        return ()
    named = _ome(attributes_of(group)).get("labels") or ()
    return tuple(_inside(group, str(name)) for name in named)


def _about(path: Path) -> dict[str, Any]:
    """Give what the standard says of a group; plates are refused here."""
    about = _ome(attributes_of(path))
    plate, well = about.get("plate"), about.get("well")
    if plate is not None or well is not None:
        kind = "plate of wells" if plate is not None else "well of a plate"
        inner = "A/1/0" if plate is not None else "0"
        raise VolumeError(
            f"{path} is a {kind}; a volume is a single image. Open one of its images, "
            f"such as {path / inner}."
        )
    return about


def _ome(attributes: dict[str, Any]) -> dict[str, Any]:
    found = attributes.get("ome", attributes)
    return found if isinstance(found, dict) else {}


def _collected(path: Path, about: dict[str, Any]) -> dict[str, Place]:
    """Name the images in the groups below one that is no image itself."""
    if "multiscales" in about:
        return {}
    if isinstance(about.get("labels"), list):
        names = [str(name) for name in about["labels"]]
        return {name: Place(_inside(path, name)) for name in names}
    if _LAYOUT not in about:
        return {}
    folders = [_inside(path, name) for name in _series(path)]
    if not folders:
        raise VolumeError(
            f"{path} is a collection of images ({_LAYOUT}) without an image; it needs "
            "at least the group 0. It is damaged: make it anew."
        )
    titles = [next(iter(images_in(_ome(attributes_of(f)))), "") for f in folders]
    if len(set(titles)) != len(titles) or not all(titles):
        titles = [folder.relative_to(path).as_posix() for folder in folders]
    return {title: Place(folder) for title, folder in zip(titles, folders, strict=True)}


def _series(path: Path) -> list[str]:
    """List the images of a collection: as its OME group says, else 0, 1, ... ."""
    if (path / "OME").is_dir():
        named = _ome(attributes_of(path / "OME")).get("series")
        if isinstance(named, list):
            return [str(name) for name in named]
    count = 0
    while (path / str(count)).is_dir():
        count += 1
    return [str(number) for number in range(count)]


def _inside(folder: Path, name: str) -> Path:
    inner = folder / name
    if not inner.resolve().is_relative_to(folder.resolve()):
        raise VolumeError(
            f"{folder} names the image {name!r}, which lies outside of it; images "
            "must lie inside. Do not trust this folder."
        )
    return inner


def _distinct(titles: tuple[str, ...]) -> tuple[str, ...]:
    if all(titles) and len(set(titles)) == len(titles):
        return titles
    return tuple(f"image {number}" for number in range(1, len(titles) + 1))


def _moments(path: Path) -> dict[str, Place]:
    image = image_of(attributes_of(path), str(path))
    array = open_zarr(path, image.dataset)
    if "t" not in image.axes or array.ndim != len(image.axes):
        return {}
    count = array.shape[image.axes.index("t")]
    if count == 1:
        return {}
    return {f"time {n + 1}": Place(path, time=n) for n in range(count)}


@dataclass(frozen=True)
class _Moment:
    """One point in time of an array, with a time axis of length one."""

    array: VoxelArray
    axis: int
    time: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self._single(tuple(self.array.shape))

    @property
    def dtype(self) -> np.dtype[Any]:
        found: np.dtype[Any] = np.dtype(self.array.dtype)
        return found

    @property
    def chunks(self) -> tuple[int, ...]:
        return self._single(tuple(getattr(self.array, "chunks", self.array.shape)))

    def __getitem__(self, index: Any) -> Any:
        moment = slice(self.time, self.time + 1)
        return self.array[(*index[: self.axis], moment, *index[self.axis + 1 :])]

    def _single(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        return (*sizes[: self.axis], 1, *sizes[self.axis + 1 :])


def _voxels(
    array: zarr.Array[Any], image: Image, place: Place, dataset: str, *, whole: bool
) -> LazyVoxels:
    stored = fastest(array, place.folder / dataset, complete=whole)
    if place.time is not None:
        stored = _Moment(stored, image.axes.index("t"), place.time)
    return LazyVoxels(
        stored,
        image.places(),
        str(place.folder),
        scale=image.value_scale,
        failures=FAILURES,
    )


def _coarser(above: LazyVoxels, below: LazyVoxels) -> LazyVoxels:
    """Give `below` if it is smaller and else alike; refuse it if it is not."""
    sizes = list(zip(above.shape, below.shape, strict=True))
    smaller = all(one >= other for one, other in sizes) and above.shape != below.shape
    if not smaller or above.shape[0] != below.shape[0] or above.dtype != below.dtype:
        raise VolumeError(
            f"{below.name} has a level of {below.shape} {below.dtype} voxels after "
            f"one of {above.shape} {above.dtype}; it must be smaller and of that type. "
            "Make it anew."
        )
    return below


def _left_out(array: zarr.Array[Any], folder: Path, name: str) -> tuple[str, ...]:
    """Say how many chunks of an image are not there, which the standard allows."""
    missing = expected_chunks(array) - stored_chunks(folder)
    if missing <= 0:
        return ()
    return (
        f"{name} lacks {missing} of {expected_chunks(array)} chunks; they read as "
        f"{array.fill_value}, which is right if it was written without empty ones.",
    )


def _check_kind(array: zarr.Array[Any], image: Image, place: Place) -> None:
    name = str(place.folder)
    if array.dtype.kind not in "uifb":
        raise VolumeError(
            f"{name} holds {array.dtype} values; voxels must be integers or floats. "
            "Convert it."
        )
    check_codecs(array, name)
    if array.ndim != len(image.axes) or min(array.shape) < 1:
        raise VolumeError(
            f"{name} has an array of {array.shape} voxels and the axes "
            f"{', '.join(image.axes)}; it needs one size above 0 an axis. Its metadata "
            "are damaged: make it anew."
        )
    sizes = dict(zip(image.axes, array.shape, strict=True))
    if place.time is not None and place.time < sizes["t"]:
        del sizes["t"]
    extra = {a: size for a, size in sizes.items() if a not in "czyx" and size > 1}
    if extra:
        raise VolumeError(
            f"{name} has {extra} beside channel, z, y, x; there is one volume to a "
            "file. Save one for each."
        )
