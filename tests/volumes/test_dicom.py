"""DICOM series in, with pydicom's and SimpleITK's readings as references."""

from pathlib import Path
from typing import Any

import dicom_files as make
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import dicom, inspect_volume, parts_of, read_volume
from napari_kdseg.volumes.formats.voxels import LazyVoxels

J2K = (JPEG2000Lossless, HTJ2KLossless)
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ORIGIN, SPACING = make.ORIGIN, make.SPACING


def sitk_affine(found: sitk.Image) -> np.ndarray:
    affine = np.eye(4)
    direction = np.reshape(found.GetDirection(), (3, 3))
    affine[:3, :3] = direction * np.array(found.GetSpacing())
    affine[:3, 3] = found.GetOrigin()
    return RAS @ affine


def read_with_sitk(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def refused(path: Path, reason: str, part: str | None = None) -> None:
    with pytest.raises(VolumeError, match=reason) as caught:
        dicom.read(path, part, lazy=False)
    assert str(path) in str(caught.value)
    assert "Secret" not in str(caught.value)


def moved(z_mm: float, x_mm: float = 0.0) -> dict[str, Any]:
    position = [ORIGIN[0] + x_mm, ORIGIN[1], ORIGIN[2] + z_mm]
    return {"ImagePositionPatient": position}


# ---- Geometry ----


def test_a_series_is_read_with_its_place_in_space(tmp_path: Path) -> None:
    data = make.gradient()
    found = read_volume(make.write_series(tmp_path, data))
    assert np.array_equal(found.data[0], data)
    assert found.data.dtype == np.int16
    # LPS to RAS turns the signs of x and y; columns are 0.7 mm apart, rows 0.8.
    expected = np.diag([-0.7, -0.8, 2.5, 1.0])
    expected[:3, 3] = (30.0, -12.5, 100.0)
    assert np.allclose(found.grid.affine, expected, rtol=0, atol=1e-9)
    assert found.channels == ("CT",)
    assert found.notes == ()


def test_the_order_of_files_and_numbers_does_not_count(tmp_path: Path) -> None:
    data = make.gradient()
    top = ORIGIN[2] + 3 * SPACING[0]
    make.write_series(
        tmp_path, data, lambda at: moved(top - ORIGIN[2] - at * SPACING[0])
    )
    found = read_volume(tmp_path)
    assert np.array_equal(found.data[0], data[::-1])
    assert found.grid.origin_mm == pytest.approx((30.0, -12.5, 100.0))


@settings(deadline=None, max_examples=15)
@given(st.tuples(*[st.floats(-1, 1)] * 4), st.floats(0.3, 8), st.booleans())
def test_any_turn_is_placed_as_by_hand_and_by_simpleitk(
    tmp_path_factory: pytest.TempPathFactory,
    quaternion: tuple[float, ...],
    distance: float,
    backwards: bool,
) -> None:
    w, x, y, z = np.add(quaternion, (1.01, 0, 0, 0))
    norm = np.linalg.norm((w, x, y, z))
    w, x, y, z = np.array((w, x, y, z)) / norm
    row = (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y))
    column = (2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x))
    normal, data = np.cross(row, column), make.gradient()
    folder = tmp_path_factory.mktemp("series")
    sign = -1 if backwards else 1

    def place(at: int) -> dict[str, Any]:
        position = np.array(ORIGIN) + sign * at * distance * normal
        return {
            "ImagePositionPatient": [f"{value:.8f}" for value in position],
            "ImageOrientationPatient": [f"{value:.12f}" for value in (*row, *column)],
        }

    found = read_volume(make.write_series(folder, data, place))
    lowest = np.array(ORIGIN) + (sign < 0) * sign * 3 * distance * normal
    expected = np.eye(4)
    expected[:3, :3] = np.array([row, column, normal]).T * (0.7, 0.8, distance)
    expected[:3, 3] = lowest
    assert np.allclose(found.grid.affine, RAS @ expected, rtol=0, atol=1e-5)
    assert np.array_equal(found.data[0], data[::sign])
    theirs = read_with_sitk(folder)
    assert np.allclose(sitk_affine(theirs), found.grid.affine, rtol=0, atol=1e-4)
    assert np.array_equal(sitk.GetArrayFromImage(theirs), found.data[0])


def test_slice_thickness_and_spacing_tags_do_not_count(tmp_path: Path) -> None:
    make.write_series(tmp_path, make.gradient(), SpacingBetweenSlices=1.5)
    header = inspect_volume(tmp_path)
    assert header.grid.spacing_mm[0] == pytest.approx(2.5)
    assert "2.5 mm apart" in header.notes[0]
    assert "says 1.5 mm" in header.notes[0]


def test_slices_a_little_unevenly_apart_have_their_mean_distance(
    tmp_path: Path,
) -> None:
    make.write_series(tmp_path, make.gradient(), lambda at: moved((0, 1, 2.009, 3)[at]))
    assert inspect_volume(tmp_path).grid.spacing_mm[0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("places", "reason"),
    [
        ((0, 1, 4, 5, 6), "about 2 after a001.dcm: 3 mm from a001.dcm to a002.dcm"),
        ((0, 1, 1, 2, 3), "1 slices at the place of another, such as a001"),
        ((0, 1, 2.2, 3, 4), "unevenly apart: 1.2 mm from a001"),
        ((0, 1, 2.02, 3, 4), "unevenly apart"),
        # Micrometres: 0.01 mm would be all there is between two slices.
        ((0, 0.01, 0.02, 0.04, 0.05), "about 1 after a002.dcm"),
    ],
)
def test_slices_missing_doubled_or_uneven_are_refused(
    tmp_path: Path, places: tuple[float, ...], reason: str
) -> None:
    data = make.gradient((5, 6, 8))
    refused(make.write_series(tmp_path, data, lambda at: moved(places[at])), reason)


def test_a_tilted_gantry_is_refused_with_its_angle(tmp_path: Path) -> None:
    # 0.5 mm aside for each 2 mm up: arctan(0.25) is 14 degrees.
    make.write_series(tmp_path, make.gradient(), lambda at: moved(2 * at, 0.5 * at))
    refused(tmp_path, "shear of 14 degrees, as of a tilted gantry.*dcm2niix")


def test_a_single_slice_is_refused(tmp_path: Path) -> None:
    refused(make.write_series(tmp_path, make.gradient((1, 6, 8))), "single slice, a000")


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"PixelSpacing": [0.8, 0.8]}, "different pixel spacings"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "different orientations"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "different photometric"),
        ({"PixelSpacing": None}, "no Pixel Spacing in a002"),
        ({"ImagePositionPatient": None}, r"no Image Position \(Patient\) in a002"),
        ({"ImageOrientationPatient": None}, "no Image Orientation"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.1, 1, 0]}, "different orientations"),
        ({"ImagePositionPatient": [1, 2]}, "must be 3 finite numbers"),
        ({"RescaleSlope": 0}, "Rescale Slope of 0"),
        ({"ModalityLUTSequence": [Dataset()]}, "Modality LUT"),
    ],
)
def test_one_slice_unlike_the_others_is_refused(
    tmp_path: Path, tags: dict[str, Any], reason: str
) -> None:
    make.write_series(tmp_path, make.gradient(), lambda at: tags if at == 2 else {})
    refused(tmp_path, reason)


def test_a_spacing_at_the_detector_is_no_pixel_spacing(tmp_path: Path) -> None:
    tags = {"PixelSpacing": None, "ImagerPixelSpacing": [0.1, 0.1]}
    refused(
        make.write_series(tmp_path, make.gradient(), **tags), "Imager Pixel Spacing"
    )


def test_one_slice_of_another_size_is_refused(tmp_path: Path) -> None:
    make.write_series(tmp_path, make.gradient())
    other = make.gradient((1, 6, 7))[0]
    position = (*ORIGIN[:2], ORIGIN[2] + 4 * SPACING[0])
    make.save(make.image(other, position), other, tmp_path / "b.dcm")
    refused(tmp_path, r"different sizes: \(6, 8\) in a000.dcm, \(6, 7\) in b.dcm")


# ---- Reading by slices ----


def test_lazily_only_the_slices_asked_for_are_read(tmp_path: Path) -> None:
    data = make.gradient()
    make.write_series(tmp_path, data, syntax=RLELossless)
    voxels, header = dicom.read(tmp_path, lazy=True)
    assert isinstance(voxels, LazyVoxels)
    assert (voxels.chunks, voxels.dtype) == ((1, 1, 6, 8), np.int16)
    assert not header.packed
    for gone in (0, 3):
        (tmp_path / f"a{gone:03}.dcm").unlink()
    assert np.array_equal(voxels[0, 1:3, 2:4], data[1:3, 2:4])
    assert np.array_equal(voxels[0, 1], data[1])
    assert voxels[0, 1:1].shape == (0, 6, 8)
    with pytest.raises(VolumeError, match=r"a003\.dcm"):
        voxels[0, 3]


# ---- Parts ----


def test_series_are_parts_with_unique_readable_names(tmp_path: Path) -> None:
    first, second, third = (make.gradient() + at for at in range(3))
    make.write_series(tmp_path, first)
    uid = generate_uid()
    make.write_series(tmp_path, second, prefix="b", SeriesInstanceUID=uid)
    make.write_series(
        tmp_path,
        third,
        prefix="c",
        SeriesInstanceUID=generate_uid(),
        SeriesNumber=4,
        SeriesDescription=None,
    )
    names = ("T1 axial (series 3)", "T1 axial (series 3) (2)", "series 4")
    assert parts_of(tmp_path) == names
    for name, data in zip(names, (first, second, third), strict=True):
        assert np.array_equal(read_volume(tmp_path, name).data[0], data)
    refused(tmp_path, r"3 volumes: 'T1 axial \(series 3\)'.*--part NAME")
    refused(tmp_path, "no part 'T2'; it has .*'series 4'", "T2")


def test_files_without_a_series_are_sorted_by_number_and_size(tmp_path: Path) -> None:
    tags = {"SeriesInstanceUID": ""}
    make.write_series(tmp_path, make.gradient(), **tags)
    other = make.gradient((3, 5, 5))
    make.write_series(tmp_path, other, prefix="b", **tags)
    make.write_series(tmp_path, make.gradient(), prefix="c", SeriesNumber=8, **tags)
    assert len(parts_of(tmp_path)) == 3
    assert np.array_equal(read_volume(tmp_path, parts_of(tmp_path)[1]).data[0], other)


@pytest.mark.parametrize(
    ("keyword", "values", "names"),
    [
        ("EchoTime", (10.5, 9.5), ("echo 2", "echo 1")),
        ("TemporalPositionIdentifier", (1, 2), ("time 1", "time 2")),
        ("TriggerTime", (0, 30), ("phase 1", "phase 2")),
        ("AcquisitionNumber", (9, 10), ("acquisition 1", "acquisition 2")),
        ("ImageType", (["ORIGINAL", "P"], ["ORIGINAL", "M"]), ("P", "M")),
    ],
)
def test_a_series_of_several_volumes_is_split(
    tmp_path: Path, keyword: str, values: tuple[Any, Any], names: tuple[str, str]
) -> None:
    data = (make.gradient(), make.gradient() + 1)
    for at in (0, 1):
        make.write_series(tmp_path, data[at], prefix="ab"[at], **{keyword: values[at]})
    assert sorted(parts_of(tmp_path)) == sorted(
        f"T1 axial (series 3) {n}" for n in names
    )
    for name, expected in zip(names, data, strict=True):
        found = read_volume(tmp_path, f"T1 axial (series 3) {name}")
        assert np.array_equal(found.data[0], expected)


def test_times_by_echoes_are_split_twice(tmp_path: Path) -> None:
    for at in range(4):
        make.write_series(
            tmp_path,
            make.gradient() + at,
            prefix="abcd"[at],
            EchoNumbers=1 + at // 2,
            TemporalPositionIdentifier=1 + at % 2,
        )
    found = read_volume(tmp_path, "T1 axial (series 3) echo 2 time 1")
    assert np.array_equal(found.data[0], make.gradient() + 2)


def test_a_time_that_misses_a_slice_is_refused(tmp_path: Path) -> None:
    make.write_series(tmp_path, make.gradient(), TemporalPositionIdentifier=1)
    make.write_series(
        tmp_path, make.gradient((3, 6, 8)), prefix="b", TemporalPositionIdentifier=2
    )
    refused(tmp_path, "3 slices at the place of another.*two times or echoes")


def test_image_types_of_one_volume_stay_together(tmp_path: Path) -> None:
    make.write_series(
        tmp_path,
        make.gradient(),
        lambda at: {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"[at:]]},
    )
    assert parts_of(tmp_path) == ("T1 axial (series 3)",)


def test_orientations_within_a_series_are_parts(tmp_path: Path) -> None:
    make.write_series(tmp_path, make.gradient())
    coronal = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
    make.write_series(
        tmp_path,
        make.gradient((3, 6, 8)),
        lambda at: {"ImagePositionPatient": [0, at * 3, 0], **coronal},
        prefix="b",
    )
    names = ("T1 axial (series 3) axial", "T1 axial (series 3) coronal")
    assert parts_of(tmp_path) == names
    assert inspect_volume(tmp_path, names[1]).grid.shape == (3, 6, 8)


def test_a_scout_and_screenshots_are_left_out_and_noted(tmp_path: Path) -> None:
    make.write_series(tmp_path, make.gradient())
    plane = make.gradient((1, 9, 9))[0]
    scout = make.image(
        plane,
        (0, 0, 0),
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
    )
    make.save(scout, plane, tmp_path / "scout.dcm")
    shot = make.image(
        plane,
        (0, 0, 0),
        ImagePositionPatient=None,
        SOPClassUID=SecondaryCaptureImageStorage,
        SeriesInstanceUID=generate_uid(),
        SeriesDescription="Dose report",
    )
    make.save(shot, plane, tmp_path / "shot.dcm")
    assert parts_of(tmp_path) == ("T1 axial (series 3)",)
    scout_note, shot_note = inspect_volume(tmp_path).notes
    assert "scout.dcm, a single localizer" in scout_note
    assert "Dose report" in shot_note


def report(path: Path) -> Path:
    made = make.image(make.gradient((1, 2, 2))[0], (0, 0, 0))
    made.SOPClassUID = BasicTextSRStorage
    for keyword in ("Rows", "Columns", "ImagePositionPatient"):
        delattr(made, keyword)
    make.save(made, np.zeros((0, 0), "u1"), path)
    return make.changed(path, lambda tags: tags.__delitem__("PixelData"))


def test_what_is_no_image_is_ignored(tmp_path: Path) -> None:
    make.write_series(tmp_path, make.gradient())
    report(tmp_path / "report.dcm")
    (tmp_path / "notes.txt").write_text("a text")
    (tmp_path / "odd").write_bytes(b"\x08\x00 no tags at all")
    (tmp_path / ".hidden.dcm").write_text("rubbish")
    assert parts_of(tmp_path) == ("T1 axial (series 3)",)
    refused(report(tmp_path / "alone" / "a.dcm"), "no images but Basic Text SR Storage")


def test_endings_and_preambles_may_be_missing(tmp_path: Path) -> None:
    data = make.gradient()
    make.write_series(tmp_path, data, syntax=ImplicitVRLittleEndian)
    for at, path in enumerate(sorted(tmp_path.iterdir())):
        path.rename(tmp_path / f"IM{at}")
    block = (tmp_path / "IM2").read_bytes()
    (tmp_path / "IM2").write_bytes(block[block.index(b"\x08\x00\x16\x00") :])
    assert np.array_equal(read_volume(tmp_path).data[0], data)


# ---- Single files ----


def test_a_slice_of_a_series_names_its_folder(tmp_path: Path) -> None:
    make.write_series(tmp_path, make.gradient())
    refused(tmp_path / "a001.dcm", f"Give its folder {tmp_path}")


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless]
)
def test_a_file_of_many_frames_is_a_volume(tmp_path: Path, syntax: UID) -> None:
    data = make.gradient((5, 16, 17))
    path = make.write_enhanced(tmp_path / "a.dcm", data, syntax=syntax)
    assert parts_of(path) == ()
    found = read_volume(path, lazy=True)
    assert np.array_equal(found.data[0, 3], data[3])
    assert np.array_equal(np.asarray(found.data)[0], data)
    assert found.channels == ("MR",)
    expected = np.diag([-0.7, -0.8, 2.5, 1.0])
    expected[:3, 3] = (30.0, -12.5, 100.0)
    assert np.allclose(found.grid.affine, expected)


def test_frames_have_their_own_order_and_slope(tmp_path: Path) -> None:
    data = make.gradient()
    path = make.write_enhanced(
        tmp_path / "a.dcm",
        data,
        lambda at: {"place": -at, "RescaleSlope": at + 0.5, "RescaleIntercept": 0},
    )
    found = read_volume(path)
    expected = data * (np.arange(4) + 0.5)[:, None, None]
    assert np.array_equal(found.data[0], expected[::-1].astype("f4"))
    assert found.grid.origin_mm[2] == pytest.approx(100.0 - 7.5)


def test_times_within_a_file_are_parts(tmp_path: Path) -> None:
    data = make.gradient((6, 4, 5))
    path = make.write_enhanced(
        tmp_path / "a.dcm",
        data,
        lambda at: {"place": at // 2, "TemporalPositionIndex": at % 2 + 1},
    )
    names = ("T1 axial (series 3) time 1", "T1 axial (series 3) time 2")
    assert parts_of(path) == names
    assert np.array_equal(read_volume(path, names[1]).data[0], data[1::2])


def test_fragments_of_frames_are_joined(tmp_path: Path) -> None:
    data = make.gradient((3, 16, 17))
    path = make.write_enhanced(tmp_path / "a.dcm", data, syntax=JPEG2000Lossless)
    frames = [make.ENCODERS[JPEG2000Lossless](plane) for plane in data]

    def cut(tags: Dataset) -> None:
        tags.PixelData = make.encapsulate(frames, fragments_per_frame=2)

    make.changed(path, cut)
    assert np.array_equal(read_volume(path).data[0], data)


def test_frames_without_places_are_refused(tmp_path: Path) -> None:
    planes = make.gradient()
    tags = make.image(planes[0], ORIGIN, NumberOfFrames=4)
    refused(
        make.save(tags, planes, tmp_path / "a.dcm"),
        r"no Image Position \(Patient\) in frame 1 of a.dcm",
    )


# ---- Nothing is written ----


def test_dicom_is_not_written(tmp_path: Path) -> None:
    header = inspect_volume(make.write_series(tmp_path, make.gradient()))
    path, data = tmp_path / "new.dcm", make.gradient()[np.newaxis]
    with pytest.raises(VolumeError, match=r"not written\. Save it as \.nii\.gz"):
        dicom.write(path, data, header.grid, ("CT",))
    with pytest.raises(VolumeError, match=r"\.seg\.nrrd"):
        dicom.write_labels(path, data, header.grid, None)
    assert not path.exists()


def test_nothing_personal_is_told(tmp_path: Path) -> None:
    make.write_series(tmp_path, make.gradient(), PixelPaddingValue=0)
    header = inspect_volume(tmp_path)
    told = " ".join((*parts_of(tmp_path), *header.notes, *header.channels))
    assert "Secret" not in told


# ---- Real series ----


@pytest.mark.parametrize(
    ("folder", "distance", "extremes"),
    [
        ("dicom_mr_oblique", 6.99662, (0, 1059)),
        ("dicom_torchio_brain", 2.0, (0, 696)),
        ("dicom_ct_with_seg/ct", 1.0, (-3024, 1381)),
    ],
)
def test_real_series_are_read_as_simpleitk_and_hand_read_them(
    real_data: Path, folder: str, distance: float, extremes: tuple[int, int]
) -> None:
    path = real_data / folder
    if not path.is_dir():
        pytest.skip(f"no {path}")
    found = read_volume(path)
    theirs = read_with_sitk(path)
    assert np.array_equal(found.data[0], sitk.GetArrayFromImage(theirs))
    assert np.allclose(found.grid.affine, sitk_affine(theirs), rtol=0, atol=1e-4)
    assert found.grid.spacing_mm[0] == pytest.approx(distance, abs=1e-4)
    assert (found.data.min(), found.data.max()) == extremes
    for file in path.glob("*.dcm"):
        tags = dcmread(file)
        cosines = np.array(tags.ImageOrientationPatient, dtype=float).reshape(2, 3)
        normal = np.cross(*cosines)
        position = np.array(tags.ImagePositionPatient, dtype=float)
        lps = np.diag([-1, -1, 1]) @ found.grid.origin_mm
        at = round(float((position - lps) @ normal) / distance)
        values = tags.pixel_array * tags.RescaleSlope + tags.RescaleIntercept
        assert np.array_equal(found.data[0, at], values)
        # The far corner of the slice, by the equation of PS3.3, C.7.6.2.1.1.
        rows, columns = tags.Rows - 1, tags.Columns - 1
        corner = position + cosines.T @ (
            columns * tags.PixelSpacing[1],
            rows * tags.PixelSpacing[0],
        )
        ours = found.grid.affine @ (columns, rows, at, 1)
        assert np.allclose(np.diag([-1, -1, 1]) @ ours[:3], corner, atol=0.07)


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    make.write_series(tmp_path, make.gradient())
    assert inspect_volume(tmp_path).channels == ("CT",)

    def turn(tags: Dataset) -> None:
        tags.Modality = "MR"

    for path in tmp_path.iterdir():
        make.changed(path, turn)
    assert inspect_volume(tmp_path).channels == ("MR",)
