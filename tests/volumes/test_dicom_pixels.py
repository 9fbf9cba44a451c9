"""Values and damage of DICOM slices: encodings, bits, lengths, what is refused."""

import struct
from pathlib import Path
from typing import Any

import dicom_files as make
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import dicom, inspect_volume, parts_of, read_volume
from napari_kdseg.volumes.formats.dicom_codecs import decode

J2K = (JPEG2000Lossless, HTJ2KLossless)
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ORIGIN, SPACING = make.ORIGIN, make.SPACING


def refused(path: Path, reason: str, part: str | None = None) -> None:
    with pytest.raises(VolumeError, match=reason) as caught:
        dicom.read(path, part, lazy=False)
    assert str(path) in str(caught.value)
    assert "Secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "tags", "expected"),
    [
        ("u1", {}, "u1"),
        ("i1", {}, "i1"),
        ("u2", {}, "u2"),
        ("i2", {}, "i2"),
        ("i4", {}, "i4"),
        ("u4", {}, "u4"),
        ("u2", {"BitsStored": 12, "HighBit": 11}, "i2"),
        ("u2", {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": -1024}, "i2"),
        ("i2", {"RescaleIntercept": -1024, "RescaleSlope": 1}, "i4"),
        ("u2", {"RescaleIntercept": -0.5}, "f4"),
        ("i2", {"RescaleSlope": 0.37, "RescaleIntercept": 3.3}, "f4"),
    ],
)
def test_values_are_rescaled_into_the_smallest_type(
    tmp_path: Path, dtype: str, tags: dict[str, Any], expected: str
) -> None:
    data = make.gradient((3, 4, 10), dtype)
    make.write_series(tmp_path, data, **tags)
    found, header = dicom.read(tmp_path, lazy=False)
    slope, intercept = tags.get("RescaleSlope", 1), tags.get("RescaleIntercept", 0)
    assert found.dtype == header.dtype == np.dtype(expected)
    assert np.array_equal(found[0], (data * float(slope) + intercept).astype(expected))
    assert (len(header.notes) == 1) == (expected == "f4")


def test_bits_beyond_those_stored_are_masked_and_signs_extended(tmp_path: Path) -> None:
    values = np.array([[-2048, -1, 0], [1, 5, 2047]])
    # Twelve bits from bit 2 on, with an overlay above and rubbish below them.
    raw = (((values & 0xFFF) << 2) | 0xC001).astype("u2")
    stack = np.stack([raw, raw])
    tags = {"BitsStored": 12, "HighBit": 13, "PixelRepresentation": 1}
    found = read_volume(make.write_series(tmp_path, stack, **tags))
    assert np.array_equal(found.data[0, 0], values)


def test_each_slice_of_a_pet_has_its_own_slope(tmp_path: Path) -> None:
    data, slopes = make.gradient(), np.array([0.5, 1.25, 2.0, 0.1])
    make.write_series(
        tmp_path, data, lambda at: {"RescaleSlope": slopes[at], "RescaleIntercept": 0}
    )
    found = read_volume(tmp_path)
    expected = (data * slopes[:, None, None]).astype(np.float32)
    assert np.array_equal(found.data[0], expected)
    assert "Rescale Slope" in found.notes[0]


def test_padding_and_inverted_greys_are_left_and_noted(tmp_path: Path) -> None:
    make.write_series(
        tmp_path,
        make.gradient(),
        PhotometricInterpretation="MONOCHROME1",
        PixelPaddingValue=-40,
        RescaleIntercept=-10,
        RescaleSlope=1,
        LossyImageCompression="01",
    )
    found = read_volume(tmp_path)
    assert np.array_equal(found.data[0], make.gradient() - 10)
    inverted, padding, lossy = found.notes
    assert "MONOCHROME1" in inverted
    assert "outside the scan by -50" in padding
    assert "compressed with losses" in lossy


def test_colours_are_refused(tmp_path: Path) -> None:
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}
    refused(make.write_series(tmp_path, make.gradient(), **tags), "3 samples a pixel")


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2"])
@pytest.mark.parametrize(
    "syntax",
    [*make.NATIVE, RLELossless, JPEGLosslessSV1, JPEGLSLossless, *J2K],
    ids=lambda syntax: UID(syntax).name[:24],
)
def test_every_lossless_encoding_gives_the_same_voxels(
    tmp_path: Path, syntax: UID, dtype: str
) -> None:
    data = make.gradient((3, 32, 33), dtype) // 13
    found = read_volume(make.write_series(tmp_path, data, syntax=syntax))
    assert np.array_equal(found.data[0], data)
    assert found.notes == ()


def test_eight_bits_in_big_endian_words_are_put_in_order(tmp_path: Path) -> None:
    data = make.gradient((2, 3, 5), "u1")
    make.write_series(tmp_path, data, syntax=make.NATIVE[2])
    for path in tmp_path.iterdir():
        block = path.read_bytes()
        start = block.index(b"\x7f\xe0\x00\x10OB")
        words = np.frombuffer(block[start + 12 :], "u2").byteswap().tobytes()
        path.write_bytes(
            block[: start + 4] + b"OW" + block[start + 6 : start + 12] + words
        )
    assert np.array_equal(read_volume(tmp_path).data[0], data)


def test_what_is_compressed_with_losses_is_noted(tmp_path: Path) -> None:
    import imagecodecs

    make.ENCODERS[JPEGBaseline8Bit] = lambda plane: imagecodecs.jpeg8_encode(plane, 95)
    data = make.gradient((3, 16, 16), "u1") // 4
    found = read_volume(make.write_series(tmp_path, data, syntax=JPEGBaseline8Bit))
    assert np.abs(found.data[0].astype(int) - data).max() < 8
    assert "compressed with losses" in found.notes[0]


# ---- Damage ----


def test_a_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "holds no DICOM file; a series")
    make.write_series(tmp_path / "study" / "t1", make.gradient())
    refused(tmp_path / "study", "but its folders t1 do")
    refused(tmp_path / "nowhere", "does not exist")


@pytest.mark.parametrize("block", [b"", b"just a text\n" * 40, bytes(300)])
def test_what_is_no_dicom_but_named_so_is_refused(tmp_path: Path, block: bytes) -> None:
    make.write_series(tmp_path, make.gradient())
    (tmp_path / "text.dcm").write_bytes(block)
    with pytest.raises(VolumeError, match=r"text\.dcm.*no DICOM file"):
        parts_of(tmp_path)
    refused(tmp_path / "text.dcm", "no DICOM file")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, syntax: UID) -> None:
    make.write_series(tmp_path, make.gradient((3, 16, 17)), syntax=syntax)
    path = tmp_path / "a002.dcm"
    block = path.read_bytes()
    for end in [*range(140, len(block), 29), len(block) - 1]:
        path.write_bytes(block[:end])
        with pytest.raises(VolumeError, match=r"a002\.dcm"):
            dicom.read(tmp_path, lazy=False)


@pytest.mark.parametrize("change", [-2, 2])
def test_pixel_data_of_a_wrong_length_are_refused_with_it(
    tmp_path: Path, change: int
) -> None:
    make.write_series(tmp_path, make.gradient())

    def resize(tags: Dataset) -> None:
        tags.PixelData = (tags.PixelData + b"\0\0")[: 96 + change]

    make.changed(tmp_path / "a001.dcm", resize)
    with pytest.raises(VolumeError, match=f"has {96 + change} bytes.*promises 96"):
        inspect_volume(tmp_path)


@pytest.mark.parametrize(
    "keyword", ["Rows", "BitsAllocated", "BitsStored", "PixelData"]
)
def test_missing_tags_of_pixels_are_named(tmp_path: Path, keyword: str) -> None:
    make.write_series(tmp_path, make.gradient())
    make.changed(tmp_path / "a001.dcm", lambda tags: tags.__delitem__(keyword))
    with pytest.raises(VolumeError, match=r"a001\.dcm has no"):
        inspect_volume(tmp_path)


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("BitsStored", 17, "Bits Stored 17"),
        ("BitsAllocated", 12, "Bits Allocated 12"),
        ("NumberOfFrames", 3, "no Image Position"),
        ("Rows", 60000, "promises 960,000"),
        ("ImagePositionPatient", [1, 2], "must be 3 finite"),
    ],
)
def test_impossible_tags_are_refused(
    tmp_path: Path, keyword: str, value: object, reason: str
) -> None:
    make.write_series(tmp_path, make.gradient(), **{keyword: value})
    with pytest.raises(VolumeError, match=reason):
        inspect_volume(tmp_path)


def test_frames_and_their_descriptions_must_be_as_many(tmp_path: Path) -> None:
    path = make.write_enhanced(tmp_path / "a.dcm", make.gradient())

    def shorten(tags: Dataset) -> None:
        del tags.PerFrameFunctionalGroupsSequence[-1]

    with pytest.raises(VolumeError, match="describes 3 frames and says it has 4"):
        inspect_volume(make.changed(path, shorten))


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLosslessSV1, JPEG2000Lossless])
def test_damaged_compressed_frames_are_refused(tmp_path: Path, syntax: UID) -> None:
    make.write_series(tmp_path, make.gradient((3, 32, 33)), syntax=syntax)
    path = tmp_path / "a001.dcm"
    block = path.read_bytes()
    at = block.index(b"\xfe\xff\x00\xe0", block.index(b"\xe0\x7f\x10\x00OB") + 13)
    (length,) = struct.unpack("<I", block[at + 4 : at + 8])
    broken = {
        "length": block[: at + 4] + struct.pack("<I", length * 9) + block[at + 8 :],
        "emptied": block[: at + 8] + bytes(length) + block[at + 8 + length :],
        "mark": block[:at] + b"\xfe\xff\x01\xe0" + block[at + 4 :],
    }
    half = length // 4 * 2
    shorter = block[: at + 4] + struct.pack("<I", half) + block[at + 8 : at + 8 + half]
    broken["halved"] = shorter + block[at + 8 + length :]
    for kind, bytes_now in broken.items():
        path.write_bytes(bytes_now)
        with pytest.raises(VolumeError, match=r"a001\.dcm has a frame 1"):
            pytest.fail(f"{kind}: {dicom.read(tmp_path, lazy=False)}")


def test_a_frame_of_another_size_than_its_header_is_refused(tmp_path: Path) -> None:
    make.write_series(tmp_path, make.gradient(), syntax=JPEG2000Lossless)

    def turn(tags: Dataset) -> None:
        tags.Rows, tags.Columns = tags.Columns, tags.Rows

    for path in tmp_path.iterdir():
        make.changed(path, turn)
    refused(tmp_path, "6 x 8 pixels of 1 samples, and the file says 8 x 6")


def test_encodings_that_are_not_read_are_named(tmp_path: Path) -> None:
    make.write_series(tmp_path, make.gradient(), syntax=RLELossless)
    for path in tmp_path.iterdir():
        tags = dcmread(path)
        tags.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.100")
        tags.save_as(path)
    refused(tmp_path, "MPEG2")


# ---- Headers of compressed frames, which decoders must not see damaged ----


def frame(syntax: UID) -> bytes:
    return make.ENCODERS[syntax](make.gradient((1, 16, 17))[0])


def at(block: bytes, place: int, new: bytes) -> bytes:
    return block[:place] + new + block[place + len(new) :]


def undecodable(syntax: UID, encoded: bytes, reason: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=reason):
        decode(syntax, encoded, (16, 17), 16)


def test_headers_of_run_lengths_are_checked() -> None:
    whole = frame(RLELossless)
    undecodable(RLELossless, whole[:40], "header is cut off")
    undecodable(RLELossless, at(whole, 0, b"\3"), "header is damaged")
    undecodable(RLELossless, at(whole, 8, b"\xff\xff"), "header is damaged")
    undecodable(RLELossless, at(whole, 8, b"\x48"), "pixels, and the file says|RLE|")


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless])
def test_headers_of_jpeg_are_checked(syntax: UID) -> None:
    whole = frame(syntax)
    size = whole.index(b"\x00\x10\x00\x11")
    undecodable(syntax, at(whole, 0, b"\xff\xd9"), "does not begin as a JPEG")
    undecodable(syntax, at(whole, size, b"\xff\xff"), "it has 65535 x 17 pixels")
    undecodable(syntax, at(whole, size + 4, b"\3"), "of 3 samples")
    undecodable(syntax, at(whole, size - 3, b"\0\0"), "header is damaged")
    undecodable(syntax, whole[:-2] + bytes(9), "mark of an end")
    undecodable(syntax, whole[: size + 2] + b"\xff\xd9", "header is damaged")


def test_impossible_tables_of_codes_are_not_decoded() -> None:
    whole = frame(JPEGLosslessSV1)
    table = whole.index(b"\xff\xc4") + 5
    undecodable(JPEGLosslessSV1, at(whole, table, b"\x09"), "table of codes")


def test_headers_of_jpeg_2000_are_checked() -> None:
    whole = frame(JPEG2000Lossless)
    undecodable(JPEG2000Lossless, whole[:30], "no codestream")
    undecodable(JPEG2000Lossless, at(whole, 8, b"\xff"), "pixels of 1 samples")
    undecodable(JPEG2000Lossless, at(whole, 24, bytes(4)), "tiles are impossible")
    undecodable(JPEG2000Lossless, at(whole, 24, b"\0\0\0\0"), "tiles")
