"""Channels that models see, and cases that lack one."""

from collections.abc import Sequence

from kdseg_train.data import Cases
from kdseg_train.layouts import Case
from kdseg_train.prepared import StoredCase
from napari_kdseg.errors import DataSetError, RecipeError
from napari_kdseg.volumes import formats


def channel_index(channels: Sequence[str], wanted: str | int) -> int:
    """Where a channel stands that is given by name or by number from 0.

    Raises
    ------
    RecipeError
        Where there is no such channel; those there are are listed.
    """
    if isinstance(wanted, int) and 0 <= wanted < len(channels):
        return wanted
    if wanted in channels:
        return channels.index(str(wanted))
    listed = ", ".join(f"{name} ({i})" for i, name in enumerate(channels))
    raise RecipeError(f"there is no channel {wanted!r}; the data has {listed}.")


def check_modalities(cases: Cases, student: str | int) -> None:
    """Refuse cases of which a teacher would see no more than its student.

    Parameters
    ----------
    student
        The channel that it sees, as `channel_index` takes it.

    Raises
    ------
    DataSetError
        As `check_channels`.
    RecipeError
        Where there is no such channel, or no other.
    """
    channel_index(cases.channels, student)
    if len(cases.channels) < 2:
        raise RecipeError(
            f"the data has the channel {cases.channels[0]} alone, so that a teacher "
            "would see no more than the student; give data of several modalities."
        )
    check_channels(cases)


def check_channels(cases: Cases) -> None:
    """Refuse a case whose files do not have as many channels as the data set names.

    Raises
    ------
    DataSetError
        Naming the first such case.
    """
    for case in cases.all:
        found = sum(_count(case))
        if found != len(cases.channels):
            raise DataSetError(
                f"case {case.id} has {found} channels and {len(cases.channels)} are "
                f"needed ({', '.join(cases.channels)}); complete it, or leave it out "
                "with `exclude`."
            )


def check_images(stored: Sequence[StoredCase], channels: Sequence[str]) -> None:
    """Refuse a prepared case that has a modality in name alone: the same everywhere.

    Raises
    ------
    DataSetError
        Naming the first such case and its channel.
    """
    for case in stored:
        for name, image in zip(channels, case.image, strict=True):
            if image.min() == image.max():
                raise DataSetError(
                    f"case {case.id} shows nothing in {name}: every voxel is "
                    f"{float(image.flat[0]):g}; complete it, or leave it out with "
                    "`exclude`."
                )


def _count(case: Case) -> list[int]:
    return [len(formats.inspect_volume(path).channels) for path in case.images]
