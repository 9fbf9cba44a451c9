"""Clean-up in blocks against the whole volume at once, and its memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_kdseg.errors import LabelError
from napari_kdseg.inference.blockwise import clean_stored, find_components
from napari_kdseg.inference.postprocessing import clean
from napari_kdseg.models.model import Postprocessing
from napari_kdseg.volumes.labels import LabelSet

CLASSES = LabelSet.from_names(["liver", "kidney", "spleen"])
SIZES = st.tuples(*[st.integers(1, 11)] * 3)
BLOCKS = st.tuples(*[st.integers(1, 6)] * 3)


def scene(seed: int, shape: tuple[int, ...], full: float) -> np.ndarray:
    generator = np.random.default_rng(seed)
    labels = generator.integers(1, 4, shape, dtype=np.uint8)
    return np.where(generator.random(shape) < full, labels, 0).astype(np.uint8)


@given(
    seed=st.integers(0, 10_000),
    shape=SIZES,
    block=BLOCKS,
    full=st.sampled_from([0.1, 0.3, 0.6, 0.95]),
    connectivity=st.sampled_from([6, 18, 26]),
)
@settings(max_examples=60, deadline=None)
def test_components_found_in_blocks_are_those_of_the_whole(
    seed: int,
    shape: tuple[int, int, int],
    block: tuple[int, int, int],
    full: float,
    connectivity: Any,
) -> None:
    labels = scene(seed, shape, full)
    found = find_components(
        lambda box: np.ascontiguousarray(labels[box]), shape, connectivity, block
    )
    whole = cc3d.connected_components(labels, connectivity=connectivity)
    count = int(whole.max())
    order = np.argsort(found.first[found.value > 0])
    sizes = found.size_vox[found.value > 0][order]
    # cc3d counts components in the order of their first voxels.
    assert (
        sizes.tolist() == np.bincount(whole.ravel(), minlength=count + 1)[1:].tolist()
    )
    firsts = np.sort(found.first[found.value > 0])
    assert firsts.tolist() == [
        int(np.flatnonzero(whole.ravel() == number)[0])
        for number in range(1, count + 1)
    ]


@given(
    seed=st.integers(0, 10_000),
    shape=SIZES,
    block=BLOCKS,
    full=st.sampled_from([0.3, 0.6, 0.95]),
    largest=st.dictionaries(st.sampled_from(CLASSES.names), st.integers(1, 3)),
    holes=st.lists(st.sampled_from(CLASSES.names), unique=True).map(tuple),
    minimum=st.sampled_from([0.0, 2.0, 3.5]),
)
@settings(max_examples=60, deadline=None)
def test_labels_cleaned_in_blocks_are_those_cleaned_at_once(
    seed: int,
    shape: tuple[int, int, int],
    block: tuple[int, int, int],
    full: float,
    largest: dict[str, int],
    holes: tuple[str, ...],
    minimum: float,
) -> None:
    labels = scene(seed, shape, full)
    rules = Postprocessing(keep_largest=largest, fill_holes=holes, minimum_mm3=minimum)
    before = labels.copy()
    found = clean_stored(
        labels,
        CLASSES,
        rules,
        voxel_mm3=0.5,
        new_array=lambda: np.zeros_like(labels),
        block_vox=block,
    )
    expected = clean(labels, CLASSES, rules, voxel_mm3=0.5)
    np.testing.assert_array_equal(found[...], expected)
    np.testing.assert_array_equal(labels, before)


def test_a_hole_that_lies_in_many_blocks_is_filled() -> None:
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[1:8, 1:8, 1:8] = 1
    labels[2:7, 2:7, 2:7] = 0
    labels[4, 4, 4] = 2
    found = clean_stored(
        labels,
        CLASSES,
        Postprocessing(fill_holes=("liver",)),
        voxel_mm3=1,
        new_array=lambda: np.zeros_like(labels),
        block_vox=(2, 3, 4),
    )
    assert np.bincount(found[...].ravel()).tolist() == [9**3 - 7**3, 7**3 - 1, 1]


def test_voxels_that_touch_where_eight_blocks_meet_are_one_component() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    for corners in ([(1, 1, 1), (2, 2, 2)], [(1, 2, 1), (2, 1, 2)]):
        labels[:] = 0
        for corner in corners:
            labels[corner] = 1
        found = find_components(
            lambda box: np.ascontiguousarray(labels[box]), (4, 4, 4), 26, (2, 2, 2)
        )
        assert found.size_vox[found.value == 1].tolist() == [2]


def test_a_rule_for_an_unknown_class_is_refused() -> None:
    with pytest.raises(LabelError, match="heart"):
        clean_stored(
            np.zeros((2, 2, 2), np.uint8),
            CLASSES,
            Postprocessing(fill_holes=("heart",)),
            voxel_mm3=1,
            new_array=lambda: np.zeros((2, 2, 2), np.uint8),
        )


MEASURE = """
import sys
from pathlib import Path
import numpy as np, zarr
from napari_kdseg.inference.blockwise import clean_stored
from napari_kdseg.models.model import Postprocessing
from napari_kdseg.volumes.labels import LabelSet
place, depth = Path(sys.argv[1]), int(sys.argv[2])
shape, chunk = (depth, 128, 128), (32, 64, 64)
def new_array(kept=[0]):
    kept[0] += 1
    return zarr.create_array(str(place / f"{depth}-{kept[0]}.zarr"), shape=shape,
                             dtype="uint8", chunks=chunk, fill_value=0)
labels = new_array()
for z in range(0, depth, 32):
    labels[z:z + 32, 10:100, 10:100] = 1
    labels[z:z + 32:8, 50:60, 110:120] = 1
rules = Postprocessing(keep_largest={"liver": 1}, fill_holes=("liver",))
found = clean_stored(labels, LabelSet.from_names(["liver"]), rules, voxel_mm3=1,
                     new_array=new_array, block_vox=(32, 64, 64))
assert not found[:, :, 110:].any() and found[:, 50, 50].all()
print(peak_bytes())
"""


@pytest.mark.slow
def test_a_volume_sixteen_times_as_long_takes_little_more_memory(
    tmp_path: Path, run_measured: Callable[..., int]
) -> None:
    # 2 MB of labels and 34 MB
    short, long = (run_measured(MEASURE, tmp_path, depth) for depth in (128, 2048))
    # At once it would take the labels, four bytes a voxel of components and a copy.
    assert long - short < 34e6


def test_labels_on_disk_are_left_as_they_are(tmp_path: Path) -> None:
    labels = scene(1, (6, 7, 8), 0.5)
    stored = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=labels.shape, dtype="uint8", chunks=(2, 3, 4)
    )
    stored[...] = labels
    rules = Postprocessing(keep_largest={"liver": 1})
    clean_stored(
        stored,
        CLASSES,
        rules,
        voxel_mm3=1,
        new_array=lambda: np.zeros_like(labels),
        block_vox=(4, 4, 4),
    )
    np.testing.assert_array_equal(stored[...], labels)
