"""P(good) of every slice, in files and as a mapping."""

from pathlib import Path

import numpy as np
import pytest

from napari_kdseg.review.scores import Scores, file_of, keep, read


def test_scores_are_found_by_slice() -> None:
    scores = Scores({("a", 0): np.array([0.25, 0.5]), ("b", 2): np.array([1.0])})
    assert len(scores) == 3
    assert dict(scores) == {("a", 0, 0): 0.25, ("a", 0, 1): 0.5, ("b", 2, 0): 1.0}
    assert scores["a", 0, 1] == 0.5
    for place in (("a", 0, 2), ("a", 0, -1), ("a", 1, 0), ("c", 0, 0)):
        assert place not in scores


def test_a_file_is_of_one_scan_axis_and_prediction(tmp_path: Path) -> None:
    path = file_of(tmp_path, "fish.2", 1, "ab" * 32)
    assert path.name == "fish.2.1.abababababababab.npy"
    keep(path, np.array([0.125, 0.5]))
    found = read(path)
    assert found is not None
    assert found.tolist() == [0.125, 0.5]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("damage", ["missing", "cut", "shape", "nan"])
def test_what_cannot_be_used_is_as_good_as_missing(tmp_path: Path, damage: str) -> None:
    path = file_of(tmp_path, "a", 0, "ab" * 32)
    if damage == "cut":
        keep(path, np.zeros(100))
        path.write_bytes(path.read_bytes()[:150])
    elif damage == "shape":
        np.save(path, np.zeros((2, 2), np.float32))
    elif damage == "nan":
        keep(path, np.array([np.nan]))
    assert read(path) is None
