"""A whole evening's work in the Review dock, in a real window, with real commands."""

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import napari
import pytest
from qtpy.QtWidgets import QApplication

from napari_kdseg.models.model import Model
from napari_kdseg.review.store import Store
from napari_kdseg.review.verdicts import current

SCRIPT = Path(__file__).parents[3] / "docs" / "review_pictures.py"


def script() -> ModuleType:
    """What takes the pictures of the documentation."""
    spec = importlib.util.spec_from_file_location("review_pictures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.mark.slow
@pytest.mark.usefixtures("own_commands")
def test_an_evening_leads_from_predictions_to_a_student(
    qapp: QApplication, tmp_path: Path
) -> None:
    pictures = script()
    folder = pictures.predicted_project(tmp_path)
    before = digests(folder / "predictions")
    seen: dict[str, Any] = {}

    def look(name: str, _window: Any) -> None:
        counts = evening.dock.state.counts
        seen[name] = (counts.good, counts.bad)

    viewer = napari.Viewer(show=True)
    evening = pictures.Evening(viewer, folder, look)
    try:
        evening.work()
        grading = evening.dock.grading
        assert grading.scored == (480, 480)  # three scans of 160 slices
        assert grading.findings is not None
        audited = grading.findings.drawn - grading.findings.left
        assert audited > 0
        threshold = grading.threshold
    finally:
        evening.close()
        viewer.close()

    store = Store.open(folder / "review" / "verdicts.sqlite")
    rows, _ = store.rows()
    store.close()
    assert [row.kind for row in rows].count("take-back") == 1
    by_hand = len(current(rows)) - audited
    assert by_hand >= 120
    assert sum(seen["4-ready"]) == by_hand, "what was judged is there when reopened"
    assert len({row.sitting for row in rows}) == 2

    assert digests(folder / "predictions") == before, "predictions never change"
    kept = json.loads((folder / "review" / "classifier.json").read_text())
    assert f": {threshold}" in json.dumps(kept)
    assert list((folder / "corrections").rglob("correction.json"))
    student = Model.open(folder / "runs" / "student" / "run" / "model")
    assert student.card.role == "student"
