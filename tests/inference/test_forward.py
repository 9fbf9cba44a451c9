"""How networks are run: the layout of memory, and which numbers a processor has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_kdseg.inference import compiled, forward
from napari_kdseg.inference.predict import Settings, predict_volume

Make = Callable[..., Any]
CPU = Settings(device="cpu")


@pytest.mark.parametrize("tile", [(8, 8, 8), (16, 16)])
def test_channels_last_as_on_a_graphics_card_changes_no_label(
    make_model: Make,
    make_volume: Make,
    monkeypatch: pytest.MonkeyPatch,
    tile: tuple[int, ...],
) -> None:
    model, volume = make_model(tile), make_volume()
    own = predict_volume(volume, [model], CPU)
    layout = forward.memory_layout("cuda:0", len(tile))
    assert layout != forward.memory_layout("cpu", len(tile))
    for module in (forward, compiled):
        monkeypatch.setattr(module, "memory_layout", lambda *_: layout)
    last = predict_volume(volume, [model], CPU)
    assert own.uncertainty is not None
    assert last.uncertainty is not None
    np.testing.assert_allclose(last.uncertainty[0], own.uncertainty[0], atol=1e-4)
    assert (last.labels[0] == own.labels[0]).mean() > 0.999


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("fpu avx512f avx512_bf16 amx_tile", True),
        ("fpu amx_bf16", True),
        ("fp asimd bf16 i8mm", True),
        ("fpu avx2 avx512f", False),
    ],
)
def test_bfloat16_is_there_where_the_processor_says_so(
    tmp_path: Path, flags: str, has: bool
) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text(f"processor : 0\nflags : {flags}\n")
    assert forward.has_bfloat16(listing) is has
