"""The doctor: what is missing is named, with the line that gets it."""

import re
import tomllib
from pathlib import Path

import pytest

from kdseg_train import doctor
from kdseg_train.doctor import Finding, examine, report


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


@pytest.mark.parametrize("name", doctor.EXTRAS)
def test_an_extra_that_is_missing_is_no_error_and_named_with_the_line_that_gets_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: None)
    missing = found(name)
    assert (missing.good, missing.needed) == (False, False)
    extra, _ = doctor.EXTRAS[name]
    assert f"extra {extra}" in missing.detail
    assert missing.fix == f'python -m pip install "napari-kdseg[{extra}]"'


def test_every_package_of_an_extra_is_looked_for_but_those_of_the_viewer() -> None:
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {
        (re.split(r"[\[>=]", wanted)[0], extra)
        for extra, packages in project["optional-dependencies"].items()
        for wanted in packages
        if extra != "all"
    }
    assert extras == {(name, extra) for name, (extra, _) in doctor.EXTRAS.items()}


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
