"""The command convert: a scan or labels from one format into another."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from kdseg_train import config
from kdseg_train.layouts import describes_cases, read_data_set
from napari_kdseg.errors import KdsegError, UsageError
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.cache import default_cache
from napari_kdseg.volumes.convert import Converted, convert

Count = Callable[[int, int], None]


class ConvertConfig(config.Settings):
    """What is written as what."""

    version: Literal[1] = 1
    command: Literal["convert"] = "convert"
    source: Path = Field(description="a file or folder of any format that is read")
    part: str | None = Field(
        None, description="which volume of it, where it holds several"
    )
    target: Path | None = Field(
        None, description="its ending chooses the format; none: into the cache"
    )
    labels: bool | None = Field(
        None, description="whether the values are labels; none: as the file says"
    )
    onto: Path | None = Field(
        None, description="a volume whose grid is taken over, by resampling"
    )
    spacing_mm: tuple[float, float, float] | None = Field(
        None, description="voxel size along z, y, x in place of the file's"
    )
    fill_nonfinite: float | None = Field(
        None, allow_inf_nan=False, description="put where voxels are NaN or infinite"
    )


def execute_conversion(run: Run) -> None:
    """Do what a run's config says; without a target the scan goes into the cache."""
    settings = config.parse(ConvertConfig, run.config, str(run.folder))

    def count(done: int, total: int) -> None:
        run.check_stop()
        run.progress(done, total, "reading")

    if settings.target is None:
        default_cache().convert(settings.source, settings.part, on_progress=count)
    else:
        for note in converted(settings, count).notes:
            run.event("note", message=note)


def converted(settings: ConvertConfig, count: Count) -> Converted:
    """Write one volume in the format that the target's ending names.

    Raises
    ------
    VolumeError, LabelError, UsageError
        When it cannot be read, or not be written so.
    """
    if settings.target is None:
        raise UsageError("a conversion needs a target; give OUT.")
    return convert(
        settings.source,
        settings.target,
        part=settings.part,
        labels=settings.labels,
        onto=settings.onto,
        spacing_mm=settings.spacing_mm,
        fill_nonfinite=settings.fill_nonfinite,
        on_progress=count,
    )


def each_part(settings: ConvertConfig) -> list[ConvertConfig]:
    """One conversion for each volume that a file holds, into files of the parts' names.

    The target ``scan.nii.gz`` becomes ``scan-T1-axial.nii.gz`` and so on.

    Raises
    ------
    UsageError
        Where two parts would get one name.
    """
    parts = formats.parts_of(settings.source)
    if not parts or settings.target is None:
        return [settings]
    ending = formats.suffix_of(settings.target)
    stem = formats.case_id(settings.target)
    names = [f"{stem}-{plain_name(part)}{ending}" for part in parts]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise UsageError(
            f"Two parts of {settings.source} would both become {double}; convert them "
            "one by one with --part."
        )
    return [
        settings.model_copy(
            update={"part": part, "target": settings.target.parent / name}
        )
        for part, name in zip(parts, names, strict=True)
    ]


def each_described(path: Path, part: str | None = None) -> Iterator[str | KdsegError]:
    """Describe every volume that a path stands for: of a folder of scans those in it.

    What cannot be read gives its error, and the others are described all the same.
    """
    try:
        inside = _volumes_of(path)
    except KdsegError as error:
        yield error
        return
    for one in inside:
        try:
            yield described(one, part)
        except KdsegError as error:
            yield error


def _volumes_of(path: Path) -> tuple[Path, ...]:
    if not path.is_dir() or formats.is_volume(path):
        return (path,)
    cases = read_data_set(path).cases if describes_cases(path) else ()
    images = tuple(image for case in cases for image in case.images)
    return images or formats.volumes_in(path) or (path,)


def described(path: Path, part: str | None = None) -> str:
    """Say in a few lines what each volume of a file is, with its notes."""
    lines: list[str] = []
    notes: tuple[str, ...] = ()
    known: tuple[str | None, ...] = formats.parts_of(path) or (None,)
    for name in known if part is None else (part,):
        header = formats.inspect_volume(path, name)
        classes = formats.read_label_set(path, name)
        is_labels = header.holds_labels or classes is not None
        depth, height, width = header.grid.shape
        facts = (
            header.grid.describe(),
            f"{width} x {height} x {depth} voxels",
            "labels" if is_labels else ", ".join(header.channels),
            f"{header.dtype}, {header.bytes / 1e6:.1f} MB",
        )
        lines += [str(path) if name is None else f"{path}: {name}"]
        lines += ["  " + " · ".join(facts)]
        if classes is not None:
            said = ", ".join(f"{item.value} {item.name}" for item in classes.classes)
            lines += [f"  labels: {said}"]
        notes += header.notes
    return "\n".join([*lines, *(f"  note: {note}" for note in dict.fromkeys(notes))])


def plain_name(part: str) -> str:
    """Make a name that any file system takes: letters, digits, dots and hyphens."""
    return re.sub(r"[^\w.]+", "-", part).strip("-.") or "part"
