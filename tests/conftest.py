"""What all tests share: checked shapes, real data where it is given, a leak check."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook(  # every shape and type in an annotation is checked
    [
        "napari_kdseg.volumes",
        "napari_kdseg.models",
        "napari_kdseg.inference",
        "napari_kdseg.measure",
        "napari_kdseg.review",
        "kdseg_train",
    ],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real-data",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder with real volumes, one folder a data set; without it they skip",
    )


@pytest.fixture(scope="session")
def real_data(request: pytest.FixtureRequest) -> Path:
    """The folder of real volumes; the test skips, and says so, where none is given."""
    folder = request.config.getoption("--real-data")
    if folder is None or not folder.is_dir():
        pytest.skip("no real volumes: give their folder with --real-data=DIR")
    return Path(folder)
