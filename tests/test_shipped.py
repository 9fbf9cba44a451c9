"""What comes with the package is found, installed or not."""

from pathlib import Path

import pytest

from napari_kdseg import shipped
from napari_kdseg.errors import KdsegError, MissingModelError


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


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped models, seen from an empty folder."""
    place_package(monkeypatch, tmp_path / "src" / "napari_kdseg")
    fill(tmp_path / "sample_data")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "sample_data" / "models"


def test_a_folder_that_is_no_model_does_not_hide_a_shipped_one(models: Path):
    Path("abdomen/imagesTr").mkdir(parents=True)
    assert shipped.find_model("abdomen") == models / "abdomen"


def test_a_model_folder_comes_before_a_shipped_model(models: Path):
    Path("abdomen").mkdir()
    Path("abdomen/model.yaml").touch()
    assert shipped.find_model("abdomen") == Path("abdomen").absolute()


def test_a_model_that_is_not_there_is_told_which_there_are(models: Path):
    with pytest.raises(MissingModelError, match=r"mean abdomen\? .* abdomen, spleen\."):
        shipped.find_model("abdomn")
    with pytest.raises(MissingModelError, match=r"name\. Shipped models are abdomen"):
        shipped.find_model("xyz")


def test_a_path_that_is_not_there_is_left_to_whoever_opens_it(models: Path):
    assert shipped.find_model("runs/abdomn") == Path("runs/abdomn").absolute()


def test_a_package_without_samples_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place_package(monkeypatch, tmp_path / "src" / "napari_kdseg")
    with pytest.raises(KdsegError, match="Install napari-kdseg again"):
        shipped.sample_folder()
