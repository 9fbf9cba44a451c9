"""What channels show, by the many words for it."""

from pathlib import Path

import pytest

from napari_kdseg.volumes.modalities import contradict, machine_of, word_of
from napari_kdseg.volumes.naming import MODALITIES, channel_told


@pytest.mark.parametrize("word", ["t1ce", "T1Gd", "t1c", " T1CE "])
def test_one_thing_has_one_word(word: str) -> None:
    assert word_of(word) == "t1ce"


def test_of_every_modality_the_machine_is_known() -> None:
    assert all(machine_of(name) for name in MODALITIES)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("CT", "MR", True),
        ("PT", "CT", True),
        ("t1", "flair", True),
        ("t1", "CT", True),
        ("MR", "t1", False),
        ("CT", "micro-CT", False),
        ("t1w", "T1", False),
        ("image", "CT", False),
        ("CT", "absorption", False),
    ],
)
def test_names_contradict_where_they_cannot_be_one_channel(
    one: str, other: str, expected: bool
) -> None:
    assert contradict(one, other) is expected
    assert contradict(other, one) is expected


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("anna_t1.nii.gz", "t1"),
        ("anna-FLAIR.nrrd", "FLAIR"),
        ("t2.mha", "t2"),
        ("anna_0000.nii.gz", ""),
        ("anna.nii.gz", ""),
        ("impact.nii.gz", ""),
        ("anna_phase.nii.gz", "phase"),
    ],
)
def test_a_name_tells_what_its_file_shows(name: str, shown: str) -> None:
    assert channel_told(Path("scans", name), ["phase"]) == shown
