"""What comes with the package is found, installed or not."""

from pathlib import Path

import pytest

from napari_kdseg import shipped
from napari_kdseg.errors import KdsegError


def place_package(monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
    package.mkdir(parents=True)
    monkeypatch.setattr(shipped, "__file__", str(package / "shipped.py"))


def fill(samples: Path) -> None:
    for name in ("spleen", "abdomen"):
        (samples / "models" / name).mkdir(parents=True)
        (samples / "models" / name / "model.yaml").touch()
    (samples / "models" / "notes").mkdir()
    (samples / "volumes").mkdir()
    (samples / "volumes" / "brain.nii.gz").touch()
    (samples / "volumes" / "README.md").touch()


def test_samples_are_found_inside_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    package = tmp_path / "site-packages" / "napari_kdseg"
    place_package(monkeypatch, package)
    fill(package / "sample_data")
    assert shipped.sample_folder() == package / "sample_data"


def test_samples_are_found_beside_the_source_of_an_editable_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place_package(monkeypatch, tmp_path / "src" / "napari_kdseg")
    fill(tmp_path / "sample_data")
    assert shipped.sample_folder() == tmp_path / "sample_data"


def test_models_and_volumes_go_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place_package(monkeypatch, tmp_path / "src" / "napari_kdseg")
    samples = tmp_path / "sample_data"
    fill(samples)
    assert shipped.shipped_models() == {
        "abdomen": samples / "models" / "abdomen",
        "spleen": samples / "models" / "spleen",
    }
    assert shipped.shipped_volumes() == {"brain": samples / "volumes" / "brain.nii.gz"}


def test_a_package_without_samples_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place_package(monkeypatch, tmp_path / "src" / "napari_kdseg")
    with pytest.raises(KdsegError, match="Install napari-kdseg again"):
        shipped.sample_folder()
