"""Labels that were stored as floats are read as labels, whole and by pieces."""

from pathlib import Path

import numpy as np
import pytest

from napari_kdseg.errors import LabelError
from napari_kdseg.volumes import opening
from napari_kdseg.volumes.formats import write_volume
from napari_kdseg.volumes.opening import open_labels
from napari_kdseg.volumes.volume import Grid

SHAPE = (3, 4, 5)


def write(path: Path, value: float) -> Path:
    write_volume(
        path, np.full(SHAPE, value, np.float32), Grid.from_affine(np.eye(4), SHAPE)
    )
    return path


@pytest.fixture(params=["whole", "by pieces"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by pieces":
        monkeypatch.setattr(opening, "LARGEST_DECODED_BYTES", 0)


@pytest.mark.usefixtures("_way")
def test_whole_numbers_become_integers(tmp_path: Path) -> None:
    labels, _ = open_labels(write(tmp_path / "a.nii", 2.0))
    found = np.asarray(labels[:])
    assert found.dtype == np.uint8
    assert np.all(found == 2)


@pytest.mark.usefixtures("_way")
def test_fractions_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", 0.25)
    with pytest.raises(LabelError, match=r"value 0\.25; labels are whole"):
        np.asarray(open_labels(path)[0][:])
