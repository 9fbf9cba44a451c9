"""Opening a scan from the list brings it into view, in place of the one before."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_kdseg.state.layers import labels_layer
from napari_kdseg.state.segmentation import Segmentation
from napari_kdseg.state.views import show
from napari_kdseg.state.volumes import Volumes
from napari_kdseg.volumes.cache import Cache
from napari_kdseg.volumes.formats import write_volume
from napari_kdseg.volumes.scan import NewScan, VolumeFile
from napari_kdseg.volumes.volume import Grid
from napari_kdseg.widgets.segment import SegmentDock
from napari_kdseg.widgets.volumes import VolumesDock

SHAPE = (12, 20, 16)


class Judging(VolumesDock):
    """Stands for a review that has the canvas."""

    holds_canvas = True


@pytest.fixture
def dock(make_napari_viewer: Any, tmp_path: Path) -> Iterator[VolumesDock]:
    viewer = make_napari_viewer()
    widget = VolumesDock(viewer, Volumes(None, Cache(tmp_path / "cache"), tmp_path))
    shell = viewer.window.add_dock_widget(widget, name="Volumes")
    yield widget
    viewer.window.remove_dock_widget(shell)


def add(
    dock: VolumesDock, folder: Path, *cases: str, shift_mm: float = 0.0, labels: bool
) -> None:
    affine = np.diag([0.8, 0.8, 2.0, 1.0])
    affine[:3, 3] = shift_mm
    grid = Grid.from_affine(affine, SHAPE)
    for case in cases:
        image, drawn = folder / f"{case}.nii.gz", folder / f"{case}-labels.nii.gz"
        write_volume(image, np.ones(SHAPE, np.float32), grid)
        write_volume(drawn, np.ones(SHAPE, np.uint8), grid)
        files = (VolumeFile(image),), VolumeFile(drawn) if labels else None
        dock.state.add([NewScan(*files, case)])
        while dock.state.status.busy:
            dock.state.poll()


def in_view(dock: VolumesDock) -> list[str]:
    return [layer.name for layer in dock.viewer.layers if layer.visible]


def looked_at(dock: VolumesDock) -> tuple[Any, ...]:
    camera = dock.viewer.camera
    return (*dock.viewer.dims.point, *camera.center, camera.zoom)


def test_a_scan_elsewhere_takes_the_place_of_the_one_in_view(
    dock: VolumesDock, tmp_path: Path
) -> None:
    add(dock, tmp_path, "anna", labels=True)
    add(dock, tmp_path, "bert", shift_mm=500.0, labels=False)
    dock.state.open("anna")
    at_anna = looked_at(dock)
    dock.state.open("bert")
    bert = dock.viewer.layers["bert"]
    assert in_view(dock) == ["bert"]
    assert dock.viewer.layers.selection.active is bert
    world = bert.extent.world
    assert np.all(world[0] <= dock.viewer.dims.point)
    assert np.all(dock.viewer.dims.point <= world[1])
    assert dock.viewer.camera.center[1:] == pytest.approx(world.mean(axis=0)[1:])

    dock.state.open("anna")  # it is there already: brought back as it was
    assert in_view(dock) == ["anna", "anna labels"]
    assert dock.viewer.layers.selection.active is dock.viewer.layers["anna"]
    assert looked_at(dock) == pytest.approx(at_anna)
    assert len(dock.viewer.layers) == 3


def test_scans_on_one_grid_are_compared_at_one_place(
    dock: VolumesDock, tmp_path: Path
) -> None:
    add(dock, tmp_path, "anna", "bert", labels=False)
    dock.state.open("anna")
    dock.viewer.dims.set_point(0, 4.0)
    dock.viewer.camera.zoom = 33.0
    before = looked_at(dock)
    dock.state.open("bert")
    assert in_view(dock) == ["bert"]
    assert looked_at(dock) == before


def test_what_a_person_hid_stays_hidden_and_layers_of_no_scan_stay_as_they_are(
    dock: VolumesDock, tmp_path: Path
) -> None:
    add(dock, tmp_path, "anna", "bert", labels=True)
    dock.state.open("anna")
    dock.viewer.layers["anna labels"].visible = False
    dock.viewer.add_points(np.zeros((1, 3)), name="notes")
    dock.state.open("bert")
    assert in_view(dock) == ["notes", "bert", "bert labels"]
    dock.state.open("anna")
    assert in_view(dock) == ["anna", "notes"]


def test_results_come_and_go_with_their_scan(dock: VolumesDock, tmp_path: Path) -> None:
    add(dock, tmp_path, "anna", "bert", labels=False)
    dock.state.open("anna")
    grid = dock.viewer.layers["anna"].metadata["napari-kdseg"]["grid"]
    record = {"result": str(tmp_path / "predictions" / "anna"), "key": "k"}
    show(
        dock.viewer,
        labels_layer(np.ones(SHAPE, np.uint8), grid, None, name="r", record=record),
    )
    dock.state.open("bert")
    assert in_view(dock) == ["bert"]
    dock.state.open("anna")
    assert in_view(dock) == ["anna", "r"]


def test_painted_labels_are_there_again_with_their_scan(
    dock: VolumesDock, tmp_path: Path
) -> None:
    add(dock, tmp_path, "anna", "bert", labels=True)
    dock.state.open("anna")
    labels = dock.viewer.layers["anna labels"]
    dock.viewer.layers.selection.active = labels
    labels.mode = "paint"
    labels.paint((3, 4, 5), 7)
    item = dock.table.item(1, 0)
    dock.table.setCurrentItem(item)
    dock.open_button.click()
    assert in_view(dock) == ["bert", "bert labels"]
    dock.state.open("anna")
    assert "anna labels" in in_view(dock)
    assert labels.data[3, 4, 5] == 7


def test_a_scan_that_is_opened_while_slices_are_judged_waits(
    dock: VolumesDock, tmp_path: Path
) -> None:
    add(dock, tmp_path, "anna", "bert", labels=True)
    dock.state.open("anna")
    state = Volumes(None, Cache(tmp_path / "cache"), tmp_path)
    shell = dock.viewer.window.add_dock_widget(Judging(dock.viewer, state), name="J")
    active, before = dock.viewer.layers.selection.active, looked_at(dock)
    dock.state.open("bert")
    assert in_view(dock) == ["anna", "anna labels"]
    assert dock.viewer.layers.selection.active is active
    assert looked_at(dock) == before
    assert "waits in the layer list" in dock.message.text()
    dock.viewer.window.remove_dock_widget(shell)
    dock.state.open("bert")
    assert in_view(dock) == ["bert", "bert labels"]


def test_a_scan_that_is_ready_once_a_person_paints_waits(
    dock: VolumesDock, tmp_path: Path
) -> None:
    add(dock, tmp_path, "anna", "bert", labels=True)
    dock.state.open("anna")
    labels = dock.viewer.layers["anna labels"]
    dock.viewer.layers.selection.active = labels
    labels.mode = "paint"  # while bert was converted
    dock.state.open("bert")
    assert in_view(dock) == ["anna", "anna labels"]
    assert dock.viewer.layers.selection.active is labels
    assert "waits in the layer list" in dock.message.text()


def test_the_scan_that_is_opened_again_is_the_one_to_segment(
    dock: VolumesDock, tmp_path: Path
) -> None:
    segment = SegmentDock(dock.viewer, Segmentation(scratch=tmp_path))
    shell = dock.viewer.window.add_dock_widget(segment, name="Segment")
    add(dock, tmp_path, "anna", "bert", labels=False)
    dock.state.open("anna")
    dock.state.open("bert")
    dock.state.open("anna")
    assert segment.layer_choice.value() is dock.viewer.layers["anna"]
    assert segment.state.source is not None
    assert segment.state.source.name == "anna"
    dock.viewer.window.remove_dock_widget(shell)


def result(
    dock: VolumesDock, name: str, values: int = 1
) -> tuple[Any, dict[str, Any], str]:
    """A result of anna, as a run gives it."""
    grid = dock.viewer.layers["anna"].metadata["napari-kdseg"]["grid"]
    data = np.full(SHAPE, values, np.uint8)
    record = {"result": f"/predictions/{name}/anna", "key": name}
    return labels_layer(data, grid, None, name=name, record=record)


def test_new_results_are_seen_without_the_labels_that_were_there(
    dock: VolumesDock, tmp_path: Path
) -> None:
    segment = SegmentDock(dock.viewer, Segmentation(scratch=tmp_path))
    shell = dock.viewer.window.add_dock_widget(segment, name="Segment")
    add(dock, tmp_path, "anna", labels=True)
    dock.state.open("anna")
    dock.viewer.add_labels(np.zeros(SHAPE, np.uint8), name="notes", scale=(2, 0.8, 0.8))
    results = [result(dock, "liver"), result(dock, "spleen")]
    segment.state.layers_published.emit(results)  # teachers of one run, side by side
    assert in_view(dock) == ["anna", "notes", "liver", "spleen"]
    segment.state.layers_published.emit([result(dock, "kidneys")])
    assert in_view(dock) == ["anna", "notes", "kidneys"]
    # What is shown again by the eye is not hidden by results that were there.
    dock.viewer.layers["liver"].visible = True
    segment.state.layers_published.emit([result(dock, "kidneys", 2)])
    assert in_view(dock) == ["anna", "notes", "liver", "kidneys"]
    dock.viewer.window.remove_dock_widget(shell)


def test_labels_that_a_person_painted_on_are_not_hidden_by_results(
    dock: VolumesDock, tmp_path: Path
) -> None:
    segment = SegmentDock(dock.viewer, Segmentation(scratch=tmp_path))
    shell = dock.viewer.window.add_dock_widget(segment, name="Segment")
    add(dock, tmp_path, "anna", labels=True)
    dock.state.open("anna")
    dock.viewer.layers["anna labels"].paint((3, 4, 5), 7)
    segment.state.layers_published.emit([result(dock, "liver")])
    assert in_view(dock) == ["anna", "anna labels", "liver"]
    dock.viewer.window.remove_dock_widget(shell)


def test_results_that_waited_are_seen_without_the_labels_that_were_there(
    dock: VolumesDock, tmp_path: Path
) -> None:
    segment = SegmentDock(dock.viewer, Segmentation(scratch=tmp_path))
    shell = dock.viewer.window.add_dock_widget(segment, name="Segment")
    add(dock, tmp_path, "anna", "bert", "carl", labels=True)
    for case in ("carl", "anna", "bert"):
        dock.state.open(case)
    segment.state.layers_published.emit([result(dock, "liver"), result(dock, "spleen")])
    assert in_view(dock) == ["bert", "bert labels"]
    dock.state.open("anna")
    assert in_view(dock) == ["anna", "liver", "spleen"]
    # Labels of other scans, though they lie on the same grid, are there as before.
    dock.state.open("bert")
    assert in_view(dock) == ["bert", "bert labels"]
    dock.state.open("carl")
    assert in_view(dock) == ["carl", "carl labels"]
    dock.viewer.window.remove_dock_widget(shell)
