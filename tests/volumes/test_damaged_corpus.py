"""Damaged files of every format: none is silently accepted, each gets one sentence."""

from pathlib import Path

import damaged_corpus
import numpy as np
import pytest

from napari_kdseg.errors import KdsegError
from napari_kdseg.volumes.formats import parts_of, read_volume


@pytest.mark.parametrize("kind", damaged_corpus.WHOLE)
def test_the_file_before_the_damage_is_read(kind: str, tmp_path: Path) -> None:
    path = damaged_corpus.WHOLE[kind](tmp_path)
    volume = read_volume(path)
    assert volume.data.shape == (1, *damaged_corpus.SHAPE)
    if kind != "seg.nrrd":
        assert np.array_equal(volume.data[0], damaged_corpus.DATA)


@pytest.mark.parametrize("lazy", [False, True], ids=["whole", "lazily"])
@pytest.mark.parametrize("name", damaged_corpus.NAMES)
def test_damage_is_refused_by_name_with_a_fix(
    name: str, lazy: bool, tmp_path: Path
) -> None:
    path = damaged_corpus.make(name, tmp_path)
    with pytest.raises(KdsegError) as caught:
        read_everything(path, lazy=lazy)
    message = str(caught.value)
    assert path.name.split(".")[0] in message, message
    assert message.count(". ") >= 1, f"no fix: {message}"
    assert "Traceback" not in message


def read_everything(path: Path, *, lazy: bool) -> None:
    for part in parts_of(path) or (None,):
        np.asarray(read_volume(path, part, lazy=lazy).data[...])


def test_the_corpus_is_large_enough() -> None:
    assert len(damaged_corpus.NAMES) >= 60
