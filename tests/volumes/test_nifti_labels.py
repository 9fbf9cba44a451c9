"""Names and colours of labels in the header of a NIfTI file."""

import gzip
from pathlib import Path
from xml.etree import ElementTree as ET

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_kdseg.volumes.formats import (
    inspect_volume,
    read_label_set,
    read_labels,
    read_volume,
    write_labels,
    write_volume,
)
from napari_kdseg.volumes.labels import LabelClass, LabelSet, distinct_color
from napari_kdseg.volumes.volume import Grid

ARRAY = np.array([[[0, 2], [7, 300]]], dtype=np.uint16)
GRID = Grid.from_affine(np.eye(4), ARRAY.shape)
LABELS = LabelSet(
    classes=(
        LabelClass(value=2, name="spleen", color="#ff8000"),
        LabelClass(value=300, name="Nièr & <b> ]]> 左", color="#010203"),
        LabelClass(value=7, name="kidney right", color="#ffffff"),
    )
)
TABLE = (
    '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension><VolumeInformation '
    'Index="0"><LabelTable>{}</LabelTable><VolumeType>Label</VolumeType>'
    "</VolumeInformation></CaretExtension>"
)
LIVER = '<Label Key="1" Red="1" Green="0.5" Blue="0" Alpha="1">liver</Label>'


def with_extensions(path: Path, *contents: bytes, code: int = 0) -> Path:
    image = nibabel.Nifti1Image(ARRAY.T.astype(np.int16), np.eye(4))
    for content in contents:
        extension = nibabel.nifti1.Nifti1Extension(code, content)
        image.header.extensions.append(extension)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_names_and_colours_come_back(name: str, tmp_path: Path) -> None:
    write_labels(tmp_path / name, ARRAY, GRID, LABELS)
    assert read_label_set(tmp_path / name) == LABELS
    assert np.array_equal(read_labels(tmp_path / name)[0], ARRAY)
    assert inspect_volume(tmp_path / name).holds_labels is True


def test_an_axis_beyond_nifti1_keeps_its_names(tmp_path: Path) -> None:
    array = np.zeros((1, 1, 40000), dtype=np.uint8)
    grid = Grid.from_affine(np.eye(4), array.shape)
    write_labels(tmp_path / "a.nii.gz", array, grid, LABELS)
    assert read_label_set(tmp_path / "a.nii.gz") == LABELS
    assert isinstance(nibabel.load(tmp_path / "a.nii.gz"), nibabel.Nifti2Image)


def test_nibabel_finds_the_table_where_other_programs_look(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.nii.gz", ARRAY, GRID, LABELS)
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert np.array_equal(np.asanyarray(image.dataobj).T, ARRAY)
    first, second = image.header.extensions
    # TotalSegmentator takes the first there is; Workbench that of Caret, 30.
    assert (first.get_code(), second.get_code()) == (0, 30)
    assert first.get_content() == second.content
    assert first.get_sizeondisk() % 16 == second.get_sizeondisk() % 16 == 0
    root = ET.fromstring(first.get_content())
    assert root.tag == "CaretExtension"
    found = root.findall("VolumeInformation/LabelTable/Label")
    names = {int(label.get("Key", "")): label.text for label in found}
    assert names == {item.value: item.name for item in LABELS.classes}
    assert float(found[0].get("Green", "")) == pytest.approx(128 / 255)
    assert root.findtext("VolumeInformation/VolumeType") == "Label"


def test_the_voxels_begin_after_the_table(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.nii", ARRAY, GRID, LABELS)
    raw = (tmp_path / "a.nii").read_bytes()
    offset = int(np.frombuffer(raw[108:112], "<f4")[0])
    size = int(np.frombuffer(raw[352:356], "<i4")[0])
    assert raw[348:352] == b"\1\0\0\0"
    assert 352 + 2 * size == offset
    assert raw[offset:] == ARRAY.tobytes()


def test_without_a_set_there_is_no_extension(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.nii", ARRAY, GRID, None)
    assert read_label_set(tmp_path / "a.nii") is None
    assert not nibabel.load(tmp_path / "a.nii").header.extensions
    assert inspect_volume(tmp_path / "a.nii").holds_labels is True


def test_a_scan_says_nothing_of_labels(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii", ARRAY, GRID)
    assert read_label_set(tmp_path / "a.nii") is None
    assert inspect_volume(tmp_path / "a.nii").holds_labels is None


def test_control_characters_in_a_name_leave_the_table_whole(tmp_path: Path) -> None:
    odd = LabelSet(
        classes=(LabelClass(value=1, name="a\x00b\x1b\ufffec", color="#000000"),)
    )
    write_labels(tmp_path / "a.nii", np.zeros((1, 1, 2), "u1"),
                 Grid.from_affine(np.eye(4), (1, 1, 2)), odd)  # fmt: skip
    found = read_label_set(tmp_path / "a.nii")
    assert found is not None
    assert found.names == ("a b  c",)


def test_a_table_is_found_behind_other_extensions(tmp_path: Path) -> None:
    table = TABLE.format(LIVER).encode()
    path = with_extensions(tmp_path / "a.nii.gz", b"a comment", b"x" * 5000, table)
    found = read_label_set(path)
    assert found == LabelSet(
        classes=(LabelClass(value=1, name="liver", color="#ff8000"),)
    )
    assert inspect_volume(path).holds_labels is True
    assert np.array_equal(read_volume(path).data[0], ARRAY)


def test_a_big_endian_header_has_big_endian_extensions(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    image = nibabel.Nifti1Image(ARRAY.T.astype(">i2"), np.eye(4), header)
    table = nibabel.nifti1.Nifti1Extension(30, TABLE.format(LIVER).encode())
    image.header.extensions.append(table)
    nibabel.save(image, tmp_path / "a.nii")
    found = read_label_set(tmp_path / "a.nii")
    assert found is not None
    assert found.names == ("liver",)


def test_a_pair_has_its_table_in_the_header_file(tmp_path: Path) -> None:
    image = nibabel.Nifti1Pair(ARRAY.T.astype(np.int16), np.eye(4))
    table = nibabel.nifti1.Nifti1Extension(30, TABLE.format(LIVER).encode())
    image.header.extensions.append(table)
    nibabel.save(image, tmp_path / "a.hdr")
    found = read_label_set(tmp_path / "a.img")
    assert found is not None
    assert found.names == ("liver",)


def test_background_is_left_out_and_colours_may_be_missing(tmp_path: Path) -> None:
    rows = '<Label Key="0" Red="0">???</Label><Label Key="3"><![CDATA[a & b]]></Label>'
    path = with_extensions(tmp_path / "a.nii", TABLE.format(rows).encode())
    found = read_label_set(path)
    assert found == LabelSet(
        classes=(LabelClass(value=3, name="a & b", color=distinct_color(3)),)
    )


def test_equal_and_empty_names_are_told_apart_by_their_value(tmp_path: Path) -> None:
    rows = '<Label Key="1">a</Label><Label Key="2">a</Label><Label Key="4"> </Label>'
    path = with_extensions(tmp_path / "a.nii", TABLE.format(rows).encode())
    found = read_label_set(path)
    assert found is not None
    assert found.names == ("a", "a (2)", "label 4")


DAMAGE = {
    "cut off": TABLE.format(LIVER)[:-30],
    "no key": TABLE.format("<Label>liver</Label>"),
    "a key that is no number": TABLE.format(LIVER.replace('"1"', '"one"', 1)),
    "a key that is no label": TABLE.format(LIVER.replace('Key="1"', 'Key="-4"')),
    "one key twice": TABLE.format(LIVER + LIVER.replace("liver", "spleen")),
    "a colour beyond one": TABLE.format(LIVER.replace("0.5", "7")),
    "a colour that is none": TABLE.format(LIVER.replace("0.5", "nan")),
    "an infinite colour": TABLE.format(LIVER.replace("0.5", "inf")),
    "half a colour": TABLE.format(LIVER.replace('Blue="0"', "")),
    "no labels": TABLE.format(""),
    "no table": "<CaretExtension></CaretExtension>",
    "entities": '<!DOCTYPE a [<!ENTITY b "c">]>' + TABLE.format(LIVER)[38:],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_table_is_no_table_and_the_voxels_are_read(
    kind: str, tmp_path: Path
) -> None:
    path = with_extensions(tmp_path / "a.nii.gz", DAMAGE[kind].encode())
    assert read_label_set(path) is None
    assert np.array_equal(read_volume(path).data[0], ARRAY)
    assert inspect_volume(path).holds_labels is None


def test_a_table_in_another_encoding_is_no_table(tmp_path: Path) -> None:
    path = with_extensions(tmp_path / "a.nii", TABLE.format("\xe9").encode("latin-1"))
    assert read_label_set(path) is None


@settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(st.integers(348, 700), st.integers(0, 255)), min_size=1))
def test_no_damage_of_an_extension_reaches_the_voxels(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    path = with_extensions(tmp_path / "a.nii", TABLE.format(LIVER * 3).encode())
    raw = bytearray(path.read_bytes())
    end = len(raw) - ARRAY.nbytes
    for place, value in changes:
        if place < end:
            raw[place] = value
    for name, content in (("b.nii", bytes(raw)), ("b.nii.gz", gzip.compress(raw))):
        (tmp_path / name).write_bytes(content)
        read_label_set(tmp_path / name)
        assert np.array_equal(read_volume(tmp_path / name).data[0], ARRAY)


def test_totalsegmentator_names_its_61_organs(real_data: Path) -> None:
    path = real_data / "ct_abdomen_totalseg" / "seg.nii.gz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    found = read_label_set(path)
    assert found is not None
    assert found.by_name("spleen") == LabelClass(
        value=1, name="spleen", color="#00ff00"
    )
    assert found.by_name("costal_cartilages").value == 117
    array, _ = read_labels(path)
    found.check(array, str(path))
    assert inspect_volume(path).holds_labels is True
