"""The doctor: what is missing is named, with the line that gets it."""

import pytest

from kdseg_train import doctor
from kdseg_train.doctor import Finding, examine, report
from napari_kdseg.extras import EXTRAS, Package


def found(name: str) -> Finding:
    return next(finding for finding in examine() if finding.name == name)


def test_an_installed_package_is_reported_with_its_version() -> None:
    torch = found("torch")
    assert torch.good
    assert "2." in torch.detail


def test_a_missing_package_is_named_with_the_line_that_gets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: None)
    missing = found("zarr")
    assert not missing.good
    assert missing.needed
    assert missing.fix == 'python -m pip install "zarr"'


@pytest.mark.parametrize("package", EXTRAS.values(), ids=EXTRAS)
def test_an_extra_that_is_missing_is_no_error_and_named_with_the_line_that_gets_it(
    monkeypatch: pytest.MonkeyPatch, package: Package
) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: None)
    missing = found(package.name)
    assert (missing.good, missing.needed) == (False, False)
    assert f"{package.purpose}; extra {package.extra}" in missing.detail
    assert missing.fix == f'python -m pip install "napari-kdseg[{package.extra}]"'


def test_a_viewer_without_qt_is_told_apart_from_a_broken_installation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "QT_BINDINGS", ())
    missing = found("Qt")
    assert (missing.good, missing.needed) == (False, False)
    assert "napari-kdseg[all]" in missing.fix


@pytest.mark.parametrize(
    ("finding", "lines"),
    [
        (Finding("zarr", "3.1"), ["ok      zarr  3.1"]),
        (
            Finding("zarr", "none", good=False, fix="get"),
            ["MISSING zarr  none", "              get it: get"],
        ),
        (
            Finding("cuda", "none", good=False, needed=False),
            ["none    cuda  none"],
        ),
    ],
)
def test_findings_become_lines(finding: Finding, lines: list[str]) -> None:
    assert report([finding]).splitlines() == lines
