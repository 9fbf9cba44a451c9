"""Label files of a reference or of predictions, and what their values mean."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdseg_train.given_predictions import meaning_of
from kdseg_train.layouts import describes_cases, read_data_set
from napari_kdseg.errors import DataSetError
from napari_kdseg.project_folder import is_project
from napari_kdseg.volumes import formats

Values = Mapping[str, tuple[int, ...]]
"""Class -> stored values."""


@dataclass(frozen=True)
class LabelFile:
    """Labels of one case: a file, and what its values mean where that is known."""

    case: str
    path: Path
    values: Values | None
    model: str = ""
    annotated: tuple[str, ...] | None = None
    """Classes the labels speak about; None: all."""
    images: tuple[Path, ...] = ()
    """The scan, where a data set tells it."""
    in_part: bool = False
    """Whether people spoke about some slices alone; the others are as predicted."""


def reference_files(folder: Path) -> Iterator[LabelFile]:
    """Label files of a data set, of a project, or in a plain folder.

    Raises
    ------
    DataSetError
        Where there are none.
    """
    if not folder.is_dir():
        raise DataSetError(
            f"{folder} is no folder; give a data set or a folder of labels."
        )
    if not describes_cases(folder):
        yield from _plain_files(folder)
        return
    for case in read_data_set(folder).cases:
        if case.label is not None:
            yield LabelFile(
                case.id,
                case.label,
                case.values,
                annotated=tuple(case.annotated),
                images=case.images,
                in_part=bool(case.slices),
            )


def predicted_files(folder: Path) -> Iterator[LabelFile]:
    """Label files of predictions, in the OUT of ``predict`` or in a plain folder.

    Raises
    ------
    DataSetError
        Where there are none, or a record of a prediction is damaged.
    """
    if not folder.is_dir():
        raise DataSetError(f"{folder} is no folder; give the OUT of predict.")
    if is_project(folder):
        folder = folder / "predictions"
    records = sorted(folder.glob("*/*/prediction.json"))
    published = [path for path in records if ".partial-" not in path.parts[-3]]
    if not published:
        yield from _plain_files(folder)
    for path in published:
        yield _published(path)


def _published(path: Path) -> LabelFile:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        labels = record["labels"]
        return LabelFile(
            case=str(record["case"]),
            path=path.parent / Path(labels["file"]).name,  # never outside its folder
            values={item["name"]: (item["value"],) for item in labels["classes"]},
            model=str(record["model"]["name"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataSetError(
            f"{path} is no record of a prediction ({type(error).__name__}: {error}); "
            "predict the case again."
        ) from error


def _plain_files(folder: Path) -> Iterator[LabelFile]:
    listed = formats.volumes_among(sorted(folder.iterdir()))
    paths = [path for path in listed if formats.is_volume(path)]
    if not paths:
        raise DataSetError(
            f"{folder} holds no label file, dataset.json or prediction.json; give a "
            "data set, the OUT of predict, or a folder of label files."
        )
    for path in paths:
        yield LabelFile(formats.case_id(path), path, values_said(path))


def values_said(path: Path, part: str | None = None) -> Values | None:
    """What the values of a file mean, as it or a record beside it says; else None."""
    values: dict[str, tuple[int, ...]] = {}
    for value, name in meaning_of(path, part).items():
        values[name] = (*values.get(name, ()), value)
    return values or None
