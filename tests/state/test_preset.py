"""The preset of the Segment dock on its way into a run."""

from pathlib import Path

from napari_kdseg.inference.settings import Settings
from napari_kdseg.state.prediction import Wish, config_of
from napari_kdseg.state.segmentation import Segmentation


def test_exact_leaves_a_run_as_it_was_and_others_are_named(tmp_path: Path) -> None:
    exact = config_of(Wish(tmp_path / "scan.nii.gz", (), Settings()))
    fast = config_of(Wish(tmp_path / "scan.nii.gz", (), Settings(), preset="fast"))
    assert "preset" not in exact
    assert fast == exact | {"preset": "fast"}


def test_what_is_foreseen_is_foreseen_for_the_preset() -> None:
    state = Segmentation()
    state.set_preset("fast")
    assert state.settings.overlap == 0.2
    state.set_preset("exact")
    assert state.settings.overlap is None
    state.close()
