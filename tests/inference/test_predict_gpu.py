"""What only a CUDA device can show: ``pytest -m gpu``."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from napari_kdseg.errors import StopRequested
from napari_kdseg.inference.hooks import Hooks
from napari_kdseg.inference.predict import Settings, predict_tiles, predict_volume
from napari_kdseg.models.model import save_model
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing

Make = Callable[..., Any]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def _free_device() -> Iterator[None]:
    torch.cuda.empty_cache()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture
def trained(make_model: Make, make_volume: Make, tmp_path: Any) -> tuple[Any, Any]:
    """A small U-Net trained to see thresholds of a smooth volume, and the volume."""
    volume = make_volume((48, 64, 64))
    image = torch.from_numpy(volume.data / volume.data.std())
    levels = torch.tensor([-0.7, 0.0, 0.7])
    truth = torch.bucketize(image, levels)[0]
    plain = Preprocessing(intensity=(Intensity(kind="zscore"),))
    drawn = make_model((32, 32, 32), preprocessing=plain)
    network = drawn.network("cuda").train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(150):
        z = step % 16
        block = (slice(z, z + 32), slice(z, z + 32), slice(z, z + 32))
        logits = network(image[(None, slice(None), *block)].cuda())
        loss = torch.nn.functional.cross_entropy(logits, truth[block][None].cuda())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    card = drawn.card.model_copy(update={"name": "trained"})
    return save_model(tmp_path / "trained", card, network), volume


@pytest.mark.parametrize("precision", ["auto", "float16", "bfloat16", "float32"])
def test_labels_match_those_of_the_processor(
    trained: tuple[Any, Any], precision: str
) -> None:
    model, volume = trained
    exact = predict_volume(volume, [model], Settings("cpu")).labels[0]
    found = predict_volume(volume, [model], Settings("cuda", precision)).labels[0]
    assert (found == exact).mean() > (0.98 if precision == "bfloat16" else 0.995)
    assert len(np.unique(found)) == 4


def test_resampled_labels_match_those_of_the_processor(
    make_model: Make, make_volume: Make
) -> None:
    model = make_model(preprocessing=Preprocessing(spacing_mm=(1.5, 1.2, 1.3)))
    volume = make_volume()
    exact = predict_volume(volume, [model], Settings("cpu")).labels[0]
    settings = Settings("cuda", "float32")
    assert (predict_volume(volume, [model], settings).labels[0] == exact).mean() > 0.99


def _kept_by_libraries(model: Any, volume: Any) -> int:
    """Memory that stays after a first prediction: workspaces, whoever asks."""
    predict_volume(volume, [model], Settings("cuda"))
    return torch.cuda.memory_reserved()


def test_memory_is_returned_at_the_end(make_model: Make, make_volume: Make) -> None:
    model = make_model()
    before = _kept_by_libraries(model, make_volume())
    predict_volume(make_volume(), [model], Settings("cuda"))
    assert torch.cuda.memory_reserved() == before


def test_memory_is_returned_after_a_stop(make_model: Make, make_volume: Make) -> None:
    model = make_model()
    before = _kept_by_libraries(model, make_volume())
    asked = iter([False] * 5)
    with pytest.raises(StopRequested):
        list(
            predict_tiles(
                make_volume(),
                [model],
                Settings("cuda"),
                hooks=Hooks(lambda: next(asked, True)),
            )
        )
    assert torch.cuda.memory_reserved() == before


def test_memory_is_returned_where_nobody_asks_on(
    make_model: Make, make_volume: Make
) -> None:
    model = make_model()
    before = _kept_by_libraries(model, make_volume())
    tiles = predict_tiles(make_volume(), [model], Settings("cuda"))
    next(tiles)
    tiles.close()  # type: ignore[attr-defined]
    assert torch.cuda.memory_reserved() == before


def test_lack_of_memory_falls_back_to_fewer_and_smaller_windows(
    make_model: Make, make_volume: Make
) -> None:
    model = make_model((64, 64, 64))
    volume = make_volume((64, 80, 96))
    settings = Settings("cuda", "float32", uncertainty=None, batch=8)
    total = torch.cuda.get_device_properties(0).total_memory
    # Room for the sums and little more: one window of 64 needs about 40 MB.
    torch.cuda.set_per_process_memory_fraction(60e6 / total)
    messages: list[str] = []
    labels = predict_volume(
        volume, [model], settings, hooks=Hooks(log=messages.append)
    ).labels[0]
    assert any("windows at once" in message for message in messages)
    assert labels.shape == volume.grid.shape
