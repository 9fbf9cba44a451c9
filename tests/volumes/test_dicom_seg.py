"""DICOM segmentations in, with highdicom as writer and as independent reader."""

from pathlib import Path
from typing import Any

import dicom_files as make
import highdicom as hd
import nrrd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import RLELossless, generate_uid

from napari_kdseg.errors import GridError, VolumeError
from napari_kdseg.volumes.formats import (
    dicom,
    inspect_volume,
    parts_of,
    read_label_set,
    read_labels,
    read_volume,
    write_labels,
)
from napari_kdseg.volumes.labels import LabelClass, LabelSet

PERSON = {
    "PatientID": "Secret",
    "PatientBirthDate": "",
    "PatientSex": "O",
    "StudyDate": "20200101",
    "StudyTime": "100000",
    "AccessionNumber": "1",
    "StudyID": "1",
    "FrameOfReferenceUID": generate_uid(),
}
SHAPE = (6, 5, 7)


def describe(number: int, label: str) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=codes.SCT.Liver,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )


def write_seg(
    path: Path,
    masks: np.ndarray,
    labels: tuple[str, ...] = ("Liver",),
    kind: str = "BINARY",
    **options: Any,
) -> Path:
    """Write masks (z, y, x, segment), or labels (z, y, x), on a series of slices."""
    folder = path.parent / "source"
    make.write_series(folder, np.zeros(masks.shape[:3], "i2"), **PERSON)
    made = hd.seg.Segmentation(
        source_images=[dcmread(file) for file in sorted(folder.iterdir())],
        pixel_array=masks,
        segmentation_type=kind,
        segment_descriptions=[describe(at, name) for at, name in enumerate(labels, 1)],
        series_instance_uid=generate_uid(),
        series_number=7,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="nobody",
        manufacturer_model_name="none",
        software_versions="1",
        device_serial_number="1",
        series_description="Organs",
        **options,
    )
    made.save_as(path)
    return path


def random_labels(classes: int, seed: int = 0) -> np.ndarray:
    """Labels 0 to `classes` in every corner, some slices empty."""
    labels = np.random.default_rng(seed).integers(0, classes + 1, SHAPE)
    labels[[1, 4]] = 0
    labels[0, 0, 0] = labels[5, -1, -1] = classes
    return labels.astype("u1")


def masks_of(labels: np.ndarray) -> np.ndarray:
    return labels[..., np.newaxis] == np.arange(1, labels.max() + 1)


def their_affine(volume: Any) -> np.ndarray:
    """Highdicom's axes are slice, row, column, and its world is LPS."""
    affine = np.eye(4)
    affine[:, :3] = volume.affine[:, [2, 1, 0]]
    affine[:, 3] = volume.affine[:, 3]
    return np.diag([-1, -1, 1, 1]) @ affine


def refused(path: Path, reason: str, part: str | None = None) -> None:
    with pytest.raises(VolumeError, match=reason) as caught:
        dicom.read(path, part, lazy=False)
    assert str(path) in str(caught.value)
    assert "Secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [("BINARY", None), ("LABELMAP", None), ("LABELMAP", RLELossless)],
)
def test_labels_are_read_with_their_place_and_names(
    tmp_path: Path, kind: str, syntax: str | None
) -> None:
    labels, names = random_labels(3), ("liver", "left kidney", "spleen")
    masks = masks_of(labels).astype("u1") if kind == "BINARY" else labels
    options = {"transfer_syntax_uid": syntax} if syntax else {}
    path = write_seg(tmp_path / "seg.dcm", masks, names, kind, **options)
    assert parts_of(path) == ()
    found, grid = read_labels(path)
    assert found.dtype == np.uint8
    assert np.array_equal(found, labels)
    assert grid.matches(inspect_volume(tmp_path / "source").grid, 1e-6)
    kept = read_label_set(path)
    assert kept is not None
    assert (kept.names, kept.values) == (names, (1, 2, 3))
    header = inspect_volume(path)
    assert header.holds_labels
    assert (header.shape, header.dtype) == ((1, *SHAPE), np.uint8)
    assert header.notes == ()


def test_highdicom_reads_the_same(tmp_path: Path) -> None:
    path = write_seg(
        tmp_path / "seg.dcm", masks_of(random_labels(2)).astype("u1"), ("a", "b")
    )
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    found, grid = read_labels(path)
    # It counts slices against the normal, as its test on handedness asks.
    assert np.array_equal(volume.array[::-1], found)
    theirs = their_affine(volume)
    theirs[:3, 3] += theirs[:3, 2] * (SHAPE[0] - 1)
    theirs[:3, 2] *= -1
    assert np.allclose(theirs, grid.affine, rtol=0, atol=1e-6)


def test_frames_cover_only_where_something_is(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, "u1")
    labels[[1, 2, 4], 2, 3] = 1  # slice 3 is empty, and has no frame
    path = write_seg(tmp_path / "seg.dcm", labels)
    found, grid = read_labels(path)
    assert len(dcmread(path).PerFrameFunctionalGroupsSequence) == 3
    assert np.array_equal(found, labels[1:5])
    source = inspect_volume(tmp_path / "source").grid
    assert grid.matches(source.cropped((slice(1, 5), slice(5), slice(7))), 1e-6)


def test_a_single_slice_has_its_stated_thickness_and_a_note(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, "u1")
    labels[2, 2, 3] = 1
    path = write_seg(tmp_path / "seg.dcm", labels)
    found, _ = read_labels(path)
    assert np.array_equal(found, labels[2:3])
    assert "at one place only" in inspect_volume(path).notes[0]

    def forget(tags: Dataset) -> None:
        measures = tags.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        for keyword in ("SliceThickness", "SpacingBetweenSlices"):
            if keyword in measures:
                delattr(measures, keyword)

    refused(make.changed(path, forget), "does not say how thick")


def test_spacing_between_slices_does_not_count(tmp_path: Path) -> None:
    path = write_seg(tmp_path / "seg.dcm", random_labels(1))

    def lie(tags: Dataset) -> None:
        measures = tags.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SpacingBetweenSlices = 1.7

    assert read_labels(make.changed(path, lie))[1].spacing_mm[0] == pytest.approx(2.5)


def test_segments_that_overlap_are_parts(tmp_path: Path) -> None:
    masks = np.zeros((*SHAPE, 3), "u1")
    masks[1:4, 1:3, 1:3, 0] = 1
    masks[3:5, 2:4, 2:4, 1] = 1
    masks[0, 0, 0, 2] = 1
    path = write_seg(tmp_path / "seg.dcm", masks, ("liver", "tumour", "liver"))
    names = ("liver", "tumour", "liver (2)")
    assert parts_of(path) == names
    for at, name in enumerate(names):
        found, grid = read_labels(path, name)
        assert np.array_equal(found, masks[:5, ..., at] * (at + 1))
        kept = read_label_set(path, name)
        assert kept is not None
        assert kept.values == (at + 1,)
        assert grid.shape == (5, *SHAPE[1:])
    refused(path, "3 volumes: 'liver', 'tumour', .*--part NAME")
    refused(path, "no part 'spleen'", "spleen")


def test_a_segmentation_beside_its_series_is_a_part(tmp_path: Path) -> None:
    labels = random_labels(2)
    path = write_seg(tmp_path / "source.dcm", masks_of(labels).astype("u1"), ("a", "b"))
    folder = tmp_path / "source"
    path.rename(folder / "seg.dcm")
    names = ("T1 axial (series 3)", "segmentation: Organs (series 7)")
    assert parts_of(folder) == names
    assert np.array_equal(read_labels(folder, names[1])[0], labels)
    assert read_volume(folder, names[0]).data.dtype == np.int16
    assert read_label_set(folder, names[0]) is None
    both = np.ones((*SHAPE, 2), "u1")
    write_seg(tmp_path / "b" / "b.dcm", both, ("c", "d")).rename(folder / "both.dcm")
    assert parts_of(folder)[1:] == (
        "segmentation: Organs (series 7), c",
        "segmentation: Organs (series 7), d",
        "segmentation: Organs (series 7) (2)",
    )


def test_a_damaged_segmentation_does_not_hide_the_series(tmp_path: Path) -> None:
    path = write_seg(tmp_path / "a.dcm", random_labels(1))
    block = path.read_bytes()
    (tmp_path / "source" / "seg.dcm").write_bytes(block[:-4])
    first, second = parts_of(tmp_path / "source")
    assert read_volume(tmp_path / "source", first).data.shape == (1, *SHAPE)
    with pytest.raises(VolumeError, match=r"seg\.dcm.*cut off"):
        dicom.read(tmp_path / "source", second, lazy=False)


def test_colours_are_those_of_3d_slicer(tmp_path: Path) -> None:
    path = write_seg(
        tmp_path / "seg.dcm", masks_of(random_labels(2)).astype("u1"), ("a", "b")
    )

    def paint(tags: Dataset) -> None:
        # What dcmqi writes for Slicer's colour of the liver, 221, 130, 101.
        tags.SegmentSequence[0].RecommendedDisplayCIELabValue = [41661, 41167, 40792]

    kept = read_label_set(make.changed(path, paint))
    assert kept is not None
    assert [item.color for item in kept.classes] == ["#dd8265", "#56b4e9"]


def test_values_above_255_are_uint16(tmp_path: Path) -> None:
    path = write_seg(tmp_path / "seg.dcm", random_labels(1))

    def renumber(tags: Dataset) -> None:
        tags.SegmentSequence[0].SegmentNumber = 300
        shared = tags.SharedFunctionalGroupsSequence[0]
        shared.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 300

    found, _ = read_labels(make.changed(path, renumber))
    assert np.array_equal(found, random_labels(1).astype("u2") * 300)


def test_an_overlap_that_the_header_denies_is_refused(tmp_path: Path) -> None:
    both = np.ones((*SHAPE, 2), "u1")
    path = write_seg(tmp_path / "seg.dcm", both, ("a", "b"))
    assert parts_of(path) == ("a", "b")

    def deny(tags: Dataset) -> None:
        tags.SegmentsOverlap = "NO"

    refused(make.changed(path, deny), "overlap in frame .*says they do not")


@pytest.mark.parametrize("slices", [(0, 1, 3, 4, 60, 61), (0, 50)])
def test_positions_with_small_errors_keep_their_slices(
    tmp_path: Path, slices: tuple[int, ...]
) -> None:
    labels = np.ones((len(slices), *SHAPE[1:]), "u1")
    path = write_seg(tmp_path / "seg.dcm", labels)
    errors = (0.0, 0.012, 0.0, -0.012, 0.005, 0.0)

    def spread(tags: Dataset) -> None:
        for at, group in enumerate(tags.PerFrameFunctionalGroupsSequence):
            place = [*make.ORIGIN[:2], slices[at] * 2.5 + errors[at]]
            group.PlanePositionSequence[0].ImagePositionPatient = place

    found, grid = read_labels(make.changed(path, spread))
    expected = (0, 1) if len(slices) == 2 else slices  # two places are neighbours
    assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == list(expected)
    step = (slices[-1] * 2.5 + errors[len(slices) - 1]) / expected[-1]
    assert grid.spacing_mm[0] == pytest.approx(step, abs=1e-6)


def test_probabilities_are_refused(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).random((*SHAPE, 1))
    path = write_seg(
        tmp_path / "seg.dcm", masks, kind="FRACTIONAL", fractional_type="PROBABILITY"
    )
    refused(path, "of the type FRACTIONAL.*Set a threshold")
    assert parts_of(path) == ()


# ---- Damage ----


def seg(folder: Path) -> Path:
    masks = masks_of(random_labels(2)).astype("u1")
    return write_seg(folder / "seg.dcm", masks, ("a", "b"))


@pytest.mark.parametrize("end", [-1, -8, -20, -40, 4000, 1500, 600, 200, 140])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, end: int) -> None:
    path = seg(tmp_path)
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(VolumeError, match=r"seg\.dcm"):
        dicom.read(path, lazy=False)


def move_a_frame(tags: Dataset) -> None:
    group = tags.PerFrameFunctionalGroupsSequence[0]
    group.PlanePositionSequence[0].ImagePositionPatient[2] -= 1.1


def strange_segment(tags: Dataset) -> None:
    group = tags.PerFrameFunctionalGroupsSequence[0]
    group.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9


def no_segment(tags: Dataset) -> None:
    del tags.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence


def lost_place(tags: Dataset) -> None:
    del tags.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence


def double_number(tags: Dataset) -> None:
    tags.SegmentSequence[1].SegmentNumber = 1


def longer(tags: Dataset) -> None:
    tags.PixelData += b"\0\0"


def same_place_twice(tags: Dataset) -> None:
    for group in tags.PerFrameFunctionalGroupsSequence:
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (move_a_frame, "no even slices"),
        (strange_segment, "a frame of the segment 9, and describes 1, 2"),
        (no_segment, "segment without number"),
        (lost_place, r"no Image Position \(Patient\)"),
        (double_number, "2 segments by 1 numbers"),
        (longer, "bytes of Pixel Data, and its header promises"),
        (same_place_twice, "at the place of another frame of the same"),
    ],
)
def test_headers_that_contradict_themselves_are_refused(
    tmp_path: Path, change: Any, reason: str
) -> None:
    path = make.changed(seg(tmp_path), change)
    with pytest.raises(VolumeError, match=reason):
        dicom.read(path, parts_of(path)[0] if parts_of(path) else None, lazy=False)


def test_values_that_are_no_segment_are_refused(tmp_path: Path) -> None:
    path = write_seg(tmp_path / "seg.dcm", random_labels(2), ("a", "b"), "LABELMAP")

    def forget(tags: Dataset) -> None:
        del tags.SegmentSequence[-1]

    refused(make.changed(path, forget), "that are no segment; it describes")


# ---- Real segmentations ----


@pytest.fixture(scope="session")
def liver(real_data: Path) -> Path:
    folder = real_data / "dicom_ct_with_seg"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


def test_a_real_liver_lies_where_its_nrrd_and_its_ct_have_it(liver: Path) -> None:
    found, grid = read_labels(liver / "liver_seg.dcm")
    assert [int(plane.sum()) for plane in found] == [36233, 35645, 35220]
    data, header = nrrd.read(str(liver / "liver_seg.nrrd"))
    assert np.array_equal(data.T, found)
    lps = np.eye(4)
    lps[:3, :3] = header["space directions"].T
    lps[:3, 3] = header["space origin"]
    assert np.allclose(np.diag([-1, -1, 1, 1]) @ lps, grid.affine, rtol=0, atol=1e-6)
    ct = read_volume(liver / "ct")
    assert ct.grid.matches(grid)
    assert np.asarray(ct.data)[0][found > 0].mean() == pytest.approx(37, abs=0.5)
    kept = read_label_set(liver / "liver_seg.dcm")
    assert kept is not None
    assert (kept.names, kept.classes[0].color) == (("Liver",), "#dd8265")


def test_real_segments_that_overlap_are_parts(liver: Path) -> None:
    path = liver / "partial_overlaps_seg.dcm"
    theirs = hd.seg.segread(path)
    names = ("GREEN", "ORANGE", "PURPLE", "LIGHT_BLUE", "DARK_BLUE")
    assert parts_of(path) == names
    for number, name in enumerate(names, 1):
        found, grid = read_labels(path, name)
        volume = theirs.get_volume(segment_numbers=[number], combine_segments=True)
        assert np.array_equal(found, volume.array[::-1])
        assert grid.matches(inspect_volume(liver / "ct").grid)


# ---- out ----


CLASSES = LabelSet(
    classes=(
        LabelClass(value=2, name="Leber", color="#dd8265"),
        LabelClass(value=5, name="脾臓", color="#9ec6f6"),
    )
)


def drawn() -> np.ndarray:
    labels = np.zeros(SHAPE, "u1")
    labels[1:4, 1:3, 2:6] = 2
    labels[2, 3:, :2] = 5
    return labels


@pytest.mark.parametrize("axis", [make.AXIAL, (0.8, 0.6, 0.0, -0.6, 0.8, 0.0)])
def test_labels_of_a_series_come_back_on_its_grid(
    tmp_path: Path, axis: tuple[float, ...]
) -> None:
    series = tmp_path / "series"
    make.write_series(
        series, make.gradient(SHAPE), **PERSON, ImageOrientationPatient=list(axis)
    )
    grid = inspect_volume(series).grid
    path = tmp_path / "labels.dcm"
    write_labels(path, drawn(), grid, CLASSES, of=(series, None))
    found, back = read_labels(path)
    numbered = np.array([0, 0, 1, 0, 0, 2], "u1")[drawn()]
    assert np.array_equal(found, numbered)
    assert back.matches(grid, 1e-6)
    kept = read_label_set(path)
    assert kept is not None
    assert kept.names == ("Leber", "脾臓")
    colors = [item.color for item in kept.classes]
    for found_color, item in zip(colors, CLASSES.classes, strict=True):
        pairs = (
            (int(found_color[at : at + 2], 16), int(item.color[at : at + 2], 16))
            for at in (1, 3, 5)
        )
        assert all(abs(one - other) <= 1 for one, other in pairs)


def test_a_written_segmentation_refers_to_every_slice_and_keeps_the_patient(
    tmp_path: Path,
) -> None:
    series = tmp_path / "series"
    make.write_series(series, make.gradient(SHAPE), **PERSON)
    path = tmp_path / "labels.dcm"
    grid = inspect_volume(series).grid
    write_labels(path, drawn(), grid, CLASSES, of=(series, None))
    made = hd.seg.segread(path)
    slices = [dcmread(file) for file in series.iterdir()]
    (referred,) = made.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == slices[0].SeriesInstanceUID
    uids = {item.ReferencedSOPInstanceUID for item in referred[(0x8, 0x114A)]}
    assert uids == {item.SOPInstanceUID for item in slices}
    assert made.PatientID == "Secret"
    assert made.StudyInstanceUID == slices[0].StudyInstanceUID
    assert made.SeriesInstanceUID != slices[0].SeriesInstanceUID
    theirs = made.get_volume(combine_segments=True).array[::-1]
    numbered = np.array([0, 0, 1, 0, 0, 2], "u1")[drawn()]
    assert np.array_equal(theirs, numbered)


def test_labels_without_a_series_are_not_written_as_dicom(tmp_path: Path) -> None:
    make.write_series(tmp_path / "series", make.gradient(SHAPE), **PERSON)
    grid = inspect_volume(tmp_path / "series").grid
    with pytest.raises(VolumeError, match=r"refers to the DICOM series.*\.seg\.nrrd"):
        write_labels(tmp_path / "labels.dcm", drawn(), grid, CLASSES)
    with pytest.raises(GridError, match="not on the grid"):
        write_labels(
            tmp_path / "labels.dcm",
            drawn()[1:],
            grid.cropped((slice(1, 6), slice(5), slice(7))),
            CLASSES,
            of=(tmp_path / "series", None),
        )
    assert not (tmp_path / "labels.dcm").exists()


def test_empty_labels_are_no_segmentation(tmp_path: Path) -> None:
    make.write_series(tmp_path / "series", make.gradient(SHAPE), **PERSON)
    grid = inspect_volume(tmp_path / "series").grid
    empty = np.zeros(SHAPE, "u1")
    of = (tmp_path / "series", None)
    with pytest.raises(VolumeError, match="no labelled voxel"):
        write_labels(tmp_path / "labels.dcm", empty, grid, CLASSES, of=of)


@pytest.mark.parametrize(
    "name", ["dicom_ct_with_seg/ct", "dicom_mr_oblique", "dicom_torchio_brain"]
)
def test_labels_of_real_series_come_back_on_their_grid(
    tmp_path: Path, real_data: Path, name: str
) -> None:
    series = real_data / name
    grid = inspect_volume(series).grid
    labels = np.zeros(grid.shape, "u1")
    labels[1:, 20:60, 30:50] = 1
    write_labels(tmp_path / "labels.dcm", labels, grid, None, of=(series, None))
    found, back = read_labels(tmp_path / "labels.dcm")
    assert np.array_equal(found, labels)
    assert back.matches(grid, 1e-4)
