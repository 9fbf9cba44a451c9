"""Opening by napari's own menu: a large packed scan is converted in sight."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_kdseg.volumes import opening
from napari_kdseg.volumes.cache import default_cache
from napari_kdseg.volumes.formats import write_volume
from napari_kdseg.volumes.volume import Grid
from napari_kdseg.widgets.opening import Conversion

DATA = np.random.default_rng(0).integers(0, 99, (70, 40, 30)).astype(np.int16)


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scan that counts as large, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(opening, "LARGEST_DECODED_BYTES", 1000)
    path = tmp_path / "scan.nii.gz"
    write_volume(path, DATA, Grid.from_affine(np.diag([1.0, 1, 2, 1]), DATA.shape))
    return path


@pytest.mark.slow
def test_a_large_packed_scan_is_converted_and_shown_as_a_pyramid(
    make_napari_viewer_proxy: Callable[..., Any], packed: Path
) -> None:
    viewer = make_napari_viewer_proxy()
    (layer,) = viewer.open(str(packed), plugin="napari-kdseg")
    assert layer.multiscale
    assert np.array_equal(np.asarray(layer.data[0]), DATA)
    assert layer.name == "scan"
    assert default_cache().find(packed) is not None


@pytest.mark.slow
def test_after_cancel_nothing_is_shown_and_nothing_kept(
    make_napari_viewer_proxy: Callable[..., Any], packed: Path
) -> None:
    viewer = make_napari_viewer_proxy()

    def cancel() -> None:
        for widget in QApplication.topLevelWidgets():
            if isinstance(widget, Conversion):
                widget.cancel()

    QTimer.singleShot(300, cancel)  # while its process is still starting
    viewer.open(str(packed), plugin="napari-kdseg")
    assert len(viewer.layers) == 0
    assert default_cache().find(packed) is None
