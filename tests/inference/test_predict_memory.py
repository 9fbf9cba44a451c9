"""What happens when memory runs out: fewer windows at once, then smaller windows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from napari_kdseg.errors import ModelError
from napari_kdseg.inference.hooks import Hooks
from napari_kdseg.inference.predict import Settings, predict_tiles, predict_volume
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing

Make = Callable[..., Any]


class Hungry(torch.nn.Module):
    """Takes at most so many windows at once, of at most so many voxels a side."""

    def __init__(self, most_windows: int, most_side: int) -> None:
        super().__init__()
        self.most_windows, self.most_side = most_windows, most_side
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.sizes.append((len(image), *image.shape[2:]))
        if len(image) > self.most_windows or max(image.shape[2:]) > self.most_side:
            raise torch.OutOfMemoryError("no more")
        return torch.cat([image - 1.5, 1.5 - image], dim=1)


def _grey() -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 4, (1, 20, 20, 20)).astype(np.int16)


def test_fewer_windows_go_at_once_and_nothing_begins_anew(
    make_simple: Make, make_volume: Make
) -> None:
    network = Hungry(most_windows=1, most_side=99)
    model = make_simple((16, 16, 16), classes=("a",), inner=network)
    messages: list[str] = []
    settings = Settings("cpu", batch=4)
    tiles = list(
        predict_tiles(
            make_volume(data=_grey()),
            [model],
            settings,
            hooks=Hooks(log=messages.append),
        )
    )
    # Starts 0 and 4 along each axis: eight windows, tried by 4, by 2, then one by one.
    assert [size[0] for size in network.sizes] == [4, 2, *[1] * 8]
    assert messages == [
        "Out of memory with 4 windows at once; going on with 2.",
        "Out of memory with 2 windows at once; going on with 1.",
    ]
    assert [tile.fraction for tile in tiles] == sorted(tile.fraction for tile in tiles)


def test_smaller_windows_begin_the_volume_anew_and_the_log_says_so(
    make_simple: Make, make_volume: Make
) -> None:
    network = Hungry(most_windows=1, most_side=8)
    model = make_simple((16, 16, 16), classes=("a",), inner=network)
    messages: list[str] = []
    volume = make_volume(data=_grey())
    found = predict_volume(
        volume, [model], Settings("cpu"), hooks=Hooks(log=messages.append)
    )
    assert messages == [
        "Out of memory with windows of 16 x 16 x 16 voxels; volume begins anew with "
        "8 x 8 x 8."
    ]
    assert network.sizes[0] == (1, 16, 16, 16)
    assert set(network.sizes[1:]) == {(1, 8, 8, 8)}
    np.testing.assert_array_equal(found.labels[0], (_grey()[0] < 1.5).astype(np.uint8))


def test_memory_that_runs_out_in_the_middle_gives_the_labels_of_the_smaller_window(
    make_model: Make, make_simple: Make, make_volume: Make
) -> None:
    model, volume = make_model((16, 16)), make_volume((20, 20, 20))
    inner = model.network()

    class Late(torch.nn.Module):
        """Memory runs out once, after half of the windows."""

        def __init__(self) -> None:
            super().__init__()
            self.windows = 0

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.windows += 1
            if self.windows == 40:
                raise torch.OutOfMemoryError("no more")
            logits: torch.Tensor = inner(image)
            return logits

    settings = Settings("cpu", uncertainty=None)
    card = model.card
    late = make_simple(
        (16, 16), inner=Late(), preprocessing=card.preprocessing, tiling=card.tiling
    )
    labels = predict_volume(volume, [late], settings).labels[0]
    smaller = Settings("cpu", uncertainty=None, tile=(8, 8))
    expected = predict_volume(volume, [model], smaller).labels[0]
    np.testing.assert_array_equal(labels, expected)


def test_memory_for_no_window_at_all_is_an_error(
    make_simple: Make, make_volume: Make
) -> None:
    network = Hungry(most_windows=0, most_side=0)
    model = make_simple((16, 16, 16), classes=("a",), inner=network)
    with pytest.raises(ModelError, match="memory of cpu does not suffice"):
        predict_volume(make_volume(), [model], Settings("cpu"))
    # The deepest stage of the network needs two voxels: 8 x 8 x 8 of 4 x 4 x 4.
    assert network.sizes[-1] == (1, 8, 8, 8)


def test_other_errors_are_not_taken_for_lack_of_memory(
    make_simple: Make, make_volume: Make
) -> None:
    class Faulty(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("CUDA error: an illegal memory access")

    with pytest.raises(RuntimeError, match="illegal"):
        predict_volume(make_volume(), [make_simple(inner=Faulty())], Settings("cpu"))


PEAK = """
import sys
from pathlib import Path
import numpy as np
import torch
from napari_kdseg.inference.predict import Settings, predict_tiles
from napari_kdseg.models.model import Model
from napari_kdseg.volumes.volume import Grid, Volume

class Rows:  # as an array on the disk: nothing of it stays in memory
    dtype, ndim = np.dtype(np.int16), 4
    def __init__(self, shape): self.shape = shape
    def __getitem__(self, index):
        z, y, x = (range(*i.indices(n)) for i, n in zip(index[1:], self.shape[1:]))
        rng = np.random.default_rng(z.start)
        return rng.integers(0, 9, (1, len(z), len(y), len(x)), np.int16)

torch.set_num_threads(1)
shape = (1, int(sys.argv[2]), 64, 64)
volume = Volume(Rows(shape), Grid.from_affine(np.eye(4), shape[1:]), ("image",))
before = peak_bytes()
model = Model.open(Path(sys.argv[1]))
for tile in predict_tiles(volume, [model], Settings("cpu")):
    pass
print(peak_bytes() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("spacing_mm", [None, (1.2, 1.1, 1.1)])
def test_eight_times_the_length_takes_a_tenth_more_memory_at_most(
    make_model: Make, run_measured: Make, spacing_mm: Any
) -> None:
    classes = tuple(f"class {number}" for number in range(1, 14))
    preprocessing = Preprocessing(
        intensity=(Intensity(kind="none"),), spacing_mm=spacing_mm
    )
    model = make_model((32, 32, 32), classes, preprocessing=preprocessing)
    short, long = (run_measured(PEAK, model.folder, planes) for planes in (96, 768))
    assert long <= 1.1 * short
