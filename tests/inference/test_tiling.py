import pytest
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers.utils import _get_scan_interval

from napari_kdseg.inference.blending import importance
from napari_kdseg.inference.tiling import Span, spans, starts


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5, 0.6, 0.75, 0.9])
@pytest.mark.parametrize("tile", [1, 3, 8, 10, 16])
def test_windows_start_where_monai_starts_them(tile: int, overlap: float) -> None:
    for size in range(1, 50):
        padded = max(size, tile)
        step = _get_scan_interval((padded,), (tile,), 1, (overlap,))
        theirs = [s[0].start for s in dense_patch_slices((padded,), (tile,), step)]
        assert list(starts(padded, tile, overlap)) == theirs


def test_the_last_window_is_pulled_back_to_end_with_the_volume() -> None:
    assert starts(21, 8, 0.5) == (0, 4, 8, 12, 13)


@pytest.mark.parametrize("tile", [(8, 8), (5, 12), (96, 96, 96), (4, 7, 16)])
@pytest.mark.parametrize("blending", ["gaussian", "constant"])
def test_weights_are_monais(tile: tuple[int, ...], blending: str) -> None:
    theirs = compute_importance_map(tile, mode=blending, sigma_scale=0.125)
    assert torch.equal(importance(tile, blending), theirs)


def test_a_small_volume_is_padded_by_half_on_either_side() -> None:
    # 5 voxels in a window of 8: one voxel before, two behind.
    assert spans(5, 8, 0.5, slice(0, 5)) == (Span(-1, 0, 5),)


def test_only_windows_that_touch_the_wanted_voxels_are_kept() -> None:
    # Starts 0, 4, 8, 12; voxel 9 lies in those from 4 to 12 and from 8 to 16.
    assert spans(20, 8, 0.5, slice(9, 10)) == (Span(4, 9, 10), Span(8, 9, 10))
