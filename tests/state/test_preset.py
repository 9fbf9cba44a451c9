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


def test_what_a_project_calls_channels_goes_along_with_several_files(
    tmp_path: Path,
) -> None:
    files = (tmp_path / "b_t2.nii.gz", tmp_path / "a_t1.nii.gz")
    several = Wish(files[0], (), Settings(), files=files, channels=("t1", "t2"))
    assert config_of(several)["channels"] == ["t1", "t2"]
    alone = Wish(files[0], (), Settings(), files=files[:1], channels=("t1",))
    assert "channels" not in config_of(alone)
