"""Segmentations of 3D Slicer, with slicerio and pynrrd as independent readers."""

import gzip
from pathlib import Path

import nrrd
import numpy as np
import pytest
import slicerio
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import affine_transform

from napari_kdseg.errors import LabelError, VolumeError
from napari_kdseg.volumes.formats import (
    blocks_of,
    inspect_volume,
    parts_of,
    read_label_set,
    read_labels,
    read_volume,
    slicer,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.labels import LabelClass, LabelSet, values_in
from napari_kdseg.volumes.volume import Grid

LABELS = np.zeros((4, 3, 5), dtype=np.uint8)
LABELS[1:3, 0, 2:4] = 3
LABELS[3, 2, 4] = 9
SET = LabelSet(
    classes=(
        LabelClass(value=9, name="left lung", color="#0080ff"),
        LabelClass(value=3, name="Wirbelsäule: T1", color="#ffffff"),
        LabelClass(value=5, name="absent", color="#000000"),
    )
)
SEGMENTS = {
    "Segment0_Name": "ribs",
    "Segment0_LabelValue": "1",
    "Segment0_Layer": "0",
    "Segment0_Color": "1 0.5 0",
    "Segment1_Name": "sphere",
    "Segment1_LabelValue": "1",
    "Segment1_Layer": "1",
}


def oblique() -> Grid:
    affine = np.array(
        [[-0.8, 0.1, 0, 5], [0.1, 0.8, 0, -7], [0, 0, 2, 9], [0, 0, 0, 1]]
    )
    return Grid.from_affine(affine, LABELS.shape)


def layers(
    folder: Path, keys: dict[str, str], count: int = 2, encoding: str = "gzip"
) -> Path:
    """Layers of 5 x 4 x 3 voxels (x, y, z); voxel x of layer n is label n if x = n."""
    volume = np.zeros((3, 4, 5, count), dtype=np.uint8)
    for layer in range(count):
        volume[:, :, layer, layer] = 1
    volume = volume[..., 0] if count == 1 else volume
    first = "" if count == 1 else "none "
    sizes = "5 4 3" if count == 1 else f"{count} 5 4 3"
    lines = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {volume.ndim}",
        "space: left-posterior-superior",
        f"sizes: {sizes}",
        f"space directions: {first}(1,0,0) (0,1,0) (0,0,1)",
        f"kinds: {'list ' if count > 1 else ''}domain domain domain",
        f"encoding: {encoding}",
        "space origin: (0,0,0)",
        *(f"{key}:={value}" for key, value in keys.items()),
    ]
    data = volume.tobytes()
    path = folder / "a.seg.nrrd"
    text = "\n".join(lines) + "\n\n"
    path.write_bytes(
        text.encode() + (gzip.compress(data) if encoding == "gzip" else data)
    )
    return path


def test_slicerio_and_pynrrd_read_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "a.seg.nrrd"
    write_labels(path, LABELS, oblique(), SET)
    theirs = slicerio.read_segmentation(str(path))
    assert np.array_equal(theirs["voxels"].T, LABELS)
    assert np.allclose(np.diag([-1, -1, 1, 1]) @ theirs["ijkToLPS"], oblique().affine)
    found = {s["labelValue"]: s for s in theirs["segments"]}
    assert found[9]["name"] == "left lung"
    assert found[9]["color"] == pytest.approx([0, 128 / 255, 1], abs=1e-5)
    assert found[9]["extent"] == [4, 4, 2, 2, 3, 3]  # i, j, k; both ends within
    assert found[3]["extent"] == [2, 3, 0, 0, 1, 2]
    assert found[5]["extent"] == [0, -1, 0, -1, 0, -1]
    assert {s["layer"] for s in theirs["segments"]} == {0}
    assert [s["id"] for s in theirs["segments"]] == [
        "Segment_9",
        "Segment_3",
        "Segment_5",
    ]
    assert theirs["masterRepresentation"] == "Binary labelmap"
    assert found[9]["terminology"]["category"] == ["SCT", "85756007", "Tissue"]
    voxels, header = nrrd.read(str(path))
    assert voxels.dtype == np.uint8
    assert header["kinds"] == ["domain"] * 3


def test_slicer_can_take_out_segments_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.seg.nrrd"
    write_labels(path, LABELS, oblique(), SET)
    theirs = slicerio.read_segmentation(str(path))
    only = slicerio.extract_segments(theirs, [("left lung", 1)])
    assert ((LABELS == 9) == only["voxels"].T).all()


def test_labels_names_and_colours_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.seg.nrrd"
    write_labels(path, LABELS, oblique(), SET)
    found, grid = read_labels(path)
    assert np.array_equal(found, LABELS)
    assert grid.matches(oblique(), 1e-9)
    assert read_label_set(path) == SET
    assert parts_of(path) == ()
    header = inspect_volume(path)
    assert (header.holds_labels, header.packed, header.notes) == (True, True, ())


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 300), min_size=8, max_size=8))
def test_any_labels_come_back_with_invented_names(
    tmp_path_factory: pytest.TempPathFactory, values: list[int]
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.seg.nrrd"
    array = np.reshape(values, (2, 2, 2)).astype(np.uint16)
    write_labels(path, array, Grid.from_affine(np.eye(4), array.shape), None)
    assert np.array_equal(read_labels(path)[0], array)
    found = read_label_set(path)
    there = sorted(set(values) - {0})
    if there:
        assert found is not None
        assert found.names == tuple(f"class {value}" for value in there)
        assert found.values == tuple(there)
    else:
        assert found is None


def test_extents_are_found_across_blocks(tmp_path: Path) -> None:
    array = np.zeros((5, 1100, 1100), dtype=np.uint8)  # a plane is over a block
    array[1, 7, 8] = array[4, 1000, 3] = 1
    path = tmp_path / "a.seg.nrrd"
    write_labels(path, array, Grid.from_affine(np.eye(4), array.shape), None)
    assert "Segment0_Extent:=3 8 7 1000 1 4\n" in path.read_bytes()[:2000].decode(
        "latin-1"
    )


def test_a_value_the_set_does_not_name_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.seg.nrrd"
    data = LABELS[np.newaxis]
    with pytest.raises(LabelError, match="the label values 3, 9"):
        slicer.write_labels(path, data, oblique(), LabelSet.from_names(["liver"]))
    assert list(tmp_path.iterdir()) == []


def test_an_image_is_no_segmentation(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="holds labels and no image"):
        write_volume(tmp_path / "a.seg.nrrd", LABELS, oblique())


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("lazy", [False, True])
def test_layers_that_overlap_are_read_one_at_a_time(
    tmp_path: Path, encoding: str, lazy: bool
) -> None:
    path = layers(tmp_path, SEGMENTS, encoding=encoding)
    assert parts_of(path) == ("layer 1", "layer 2")
    for number, part in enumerate(parts_of(path)):
        found = np.asarray(read_volume(path, part, lazy=lazy).data)
        assert found.shape == (1, 3, 4, 5)
        assert np.flatnonzero(found.any(axis=(0, 1, 2))).tolist() == [number]
        labels = read_label_set(path, part)
        assert labels is not None
        assert labels.names == (["ribs", "sphere"][number],)
        header, blocks = blocks_of(path, part)
        assert sum(int(block.sum()) for _, block in blocks) == 12
        assert header.shape == (1, 3, 4, 5)


def test_a_piece_of_a_layer_can_be_read_alone(tmp_path: Path) -> None:
    path = layers(tmp_path, SEGMENTS, encoding="raw")
    data = read_volume(path, "layer 2", lazy=True).data
    assert data[0, 2, 1:3, :3].tolist() == [[0, 1, 0]] * 2


def test_layers_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    path = layers(tmp_path, SEGMENTS)
    reason = r"overlap: layer 1 \(ribs\); layer 2 \(sphere\)\. Choose one.*--part NAME"
    for look in (read_volume, read_labels, inspect_volume, read_label_set):
        with pytest.raises(VolumeError, match=reason):
            look(path)
        with pytest.raises(VolumeError, match="no part 'ribs'; it has layer 1"):
            look(path, "ribs")


def test_segments_of_old_files_are_layers_of_their_own(tmp_path: Path) -> None:
    keys = {"Segment0_Name": "a", "Segment1_Name": "b", "Segment1_Color": "0 0 1"}
    path = layers(tmp_path, keys)
    found = [read_label_set(path, part) for part in parts_of(path)]
    assert [one.names for one in found if one] == [("a",), ("b",)]
    assert [one.values for one in found if one] == [(1,), (1,)]
    assert found[1] is not None
    assert found[1].classes[0].color == "#0000ff"
    assert read_labels(path, "layer 2")[0].sum() == 12
    single = layers(tmp_path, {"Segment0_Name": "a"}, count=1)
    assert parts_of(single) == ()
    assert read_label_set(single) == LabelSet.from_names(["a"])


def test_segments_with_one_name_are_told_apart_with_a_note(tmp_path: Path) -> None:
    keys = {f"Segment{n}_{k}": v for n in range(3) for k, v in (("Name", "a"),)}
    keys |= {f"Segment{n}_LabelValue": str(n + 1) for n in range(3)}
    path = layers(tmp_path, keys, count=1)
    labels = read_label_set(path)
    assert labels is not None
    assert labels.names == ("a", "a (2)", "a (3)")
    assert "several segments named 'a'" in inspect_volume(path).notes[0]


def test_of_two_segments_with_one_value_the_first_counts_with_a_note(
    tmp_path: Path,
) -> None:
    path = layers(tmp_path, SEGMENTS | {"Segment1_Layer": "0"}, count=1)
    labels = read_label_set(path)
    assert labels is not None
    assert labels.names == ("ribs",)
    assert "both to 'ribs' and to 'sphere'" in inspect_volume(path).notes[0]


def test_a_name_or_colour_that_is_missing_is_made_up(tmp_path: Path) -> None:
    keys = {
        "Segment0_LabelValue": "1",
        "Segment0_ID": "Segment_1",
        "Segment1_LabelValue": "2",
        "Segment1_Color": "1 0 nan",
        "Segment2_LabelValue": "3",
        "Segment2_Color": "1 0 7",
    }
    labels = read_label_set(layers(tmp_path, keys, count=1))
    assert labels is not None
    assert labels.names == ("Segment_1", "Segment 2", "Segment 3")
    assert len({item.color for item in labels.classes}) == 3


def test_a_file_without_segments_has_labels_without_names(tmp_path: Path) -> None:
    path = layers(tmp_path, {}, count=1)
    assert read_label_set(path) is None
    assert read_labels(path)[0].max() == 1
    assert "lists no segments" in inspect_volume(path).notes[0]


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"Segment0_LabelValue": "0"}, "'0' as the value of its segment 0"),
        ({"Segment0_LabelValue": "-1"}, "whole number from 1 to 65535"),
        ({"Segment0_LabelValue": "65536"}, "whole number from 1 to 65535"),
        ({"Segment0_LabelValue": "one"}, "whole number from 1 to 65535"),
        ({"Segment0_Layer": "0"}, "None as the value of its segment 0"),
        (SEGMENTS | {"Segment0_Layer": "-1"}, "'-1' as the layer"),
        (SEGMENTS | {"Segment1_Layer": "2"}, "2 layers, and its segment 'sphere'"),
        ({"Segmentation_MasterRepresentation": "Fractional labelmap"}, "Fractional"),
        ({"Segmentation_SourceRepresentation": "Closed surface"}, "Closed surface"),
    ],
)
def test_segments_that_cannot_be_believed_are_refused(
    tmp_path: Path, keys: dict[str, str], reason: str
) -> None:
    path = layers(tmp_path, keys)
    for look in (parts_of, inspect_volume, read_volume, read_label_set):
        with pytest.raises(VolumeError, match=reason):
            look(path)


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_a_segmentation_cut_off_anywhere_is_refused(
    tmp_path: Path, encoding: str
) -> None:
    path = layers(tmp_path, SEGMENTS, encoding=encoding)
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(VolumeError, match=r"a\.seg\.nrrd"):
            read_volume(path, "layer 1")
        with pytest.raises(VolumeError, match=r"a\.seg\.nrrd"):
            list(blocks_of(path, "layer 1")[1])


def test_a_checksum_that_is_wrong_in_another_layer_is_refused(tmp_path: Path) -> None:
    path = layers(tmp_path, SEGMENTS)
    damaged = bytearray(path.read_bytes())
    damaged[-6] ^= 1
    path.write_bytes(damaged)
    for part in ("layer 1", "layer 2"):
        with pytest.raises(VolumeError, match="cannot be read to its end"):
            read_volume(path, part)


def test_a_real_segmentation_has_names_and_values(real_data: Path) -> None:
    path = real_data / "ct_chest_segnrrd" / "Segmentation.seg.nrrd"
    theirs = slicerio.read_segmentation(str(path))
    found, grid = read_labels(path)
    assert np.array_equal(found, theirs["voxels"].T)
    assert grid.matches(read_volume(path.with_name("CTChest4.nrrd")).grid)
    labels = read_label_set(path)
    assert labels is not None
    assert labels.names == tuple(s["name"] for s in theirs["segments"])
    assert labels.names[4:] == ("right lung", "left lung", "tissue")
    assert labels.values == (1, 2, 3, 4, 5, 6, 7)
    assert labels.by_name("right lung").color == "#16c547"
    labels.check(found, str(path))
    assert inspect_volume(path).notes == ()


def test_a_real_segmentation_with_an_overlap_has_two_parts(real_data: Path) -> None:
    path = real_data / "ct_chest_segnrrd" / "SegmentationOverlapping.seg.nrrd"
    theirs = slicerio.read_segmentation(str(path))["voxels"]
    assert parts_of(path) == ("layer 1", "layer 2")
    for layer, part in enumerate(parts_of(path)):
        assert np.array_equal(read_labels(path, part)[0], theirs[layer].T)
    sphere = read_label_set(path, "layer 2")
    assert sphere is not None
    assert sphere.names == ("overlapping sphere",)
    with pytest.raises(VolumeError, match=r"layer 2 \(overlapping sphere\)"):
        read_volume(path)


@pytest.mark.slow
def test_a_real_segmentation_that_is_cropped_lies_where_its_file_says(
    real_data: Path,
) -> None:
    folder = real_data / "microct_mouse_skull"
    name = "35_mic_23strain_mus_template_UCHAR.seg.nrrd"
    fine, fine_grid = read_labels(folder / name)
    coarse, grid = read_labels(folder / "low_res_template_UCHAR-label.nii.gz")
    to_fine = np.linalg.inv(fine_grid.affine) @ grid.affine  # of x, y, z
    found = affine_transform(
        fine, to_fine[2::-1, 2::-1], to_fine[2::-1, 3], grid.shape, order=0
    )
    for value in values_in(coarse, "labels")[1:]:
        ours, theirs = found == value, coarse == value
        dice = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
        assert dice > 0.95, (value, dice)
    labels = read_label_set(folder / name)
    assert labels is not None
    assert labels.names == ("1", "2", "3", "15", "21")
    labels.check(fine, name)
