"""Settings as YAML text: what PyYAML makes of them by itself, in less time."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from napari_kdseg.runs import as_yaml
from napari_kdseg.runs.run import Run

EACH = {
    "inputs": ["/data/Fische/Größe 3 魚.nii.gz"],
    "case": "fish-0001",
    "part": None,
    "preview": [0, 2],
    "threads": 1,
    "tolerance": 1e-07,
    "regions": True,
    "words": "yes",
}
MANY = {"version": 1, "command": "predict-each", "predictions": [EACH] * 3}


def test_it_is_what_every_reader_of_yaml_reads() -> None:
    assert yaml.safe_load(as_yaml.dump(MANY)) == MANY
    text = yaml.safe_dump(MANY, sort_keys=False, allow_unicode=True)
    assert as_yaml.load(text) == MANY
    assert list(as_yaml.load(text)) == list(MANY)


def test_a_file_name_that_is_no_utf_8_comes_back() -> None:
    name = b"scan-\xff.nii.gz".decode(errors="surrogateescape")
    assert as_yaml.load(as_yaml.dump({"inputs": [name]})) == {"inputs": [name]}


def test_what_is_no_yaml_is_told_as_pyyaml_tells_it() -> None:
    with pytest.raises(yaml.YAMLError) as told:
        yaml.safe_load("a: [1")
    with pytest.raises(yaml.YAMLError) as error:
        as_yaml.load("a: [1")
    assert str(error.value) == str(told.value)


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without it")
def test_a_run_is_written_and_read_without_pyyaml_s_own_slow_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a viewer stands still for a second with 600 scans")

    monkeypatch.setattr(yaml.SafeLoader, "__init__", refuse)
    monkeypatch.setattr(yaml.SafeDumper, "__init__", refuse)
    Run.create(tmp_path / "run", MANY)
    assert Run.open(tmp_path / "run").config == MANY
