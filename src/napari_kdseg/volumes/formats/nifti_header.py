"""What a NIfTI header says, checked before a single voxel is believed.

NIfTI-1: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h; NIfTI-2 has the
same fields, wider. Fields are decoded by nibabel; the rules are ours, and stricter.
"""

import struct
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.volume import Affine, Grid

SIZE_1, SIZE_2 = 348, 540
"""Bytes of a NIfTI-1 and of a NIfTI-2 header."""
INTENT_LABEL = 1002
"""The intent code of labels."""

ByteOrder = Literal["<", ">"]
_BYTE_ORDERS: tuple[ByteOrder, ...] = ("<", ">")
_DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8",
    256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_REFUSED = {
    1: "single bits",
    32: "complex numbers",
    128: "RGB colours",
    1536: "128-bit floats",
    1792: "complex numbers",
    2048: "complex numbers",
    2304: "RGBA colours",
}
_UNITS_MM = {1: 1000.0, 3: 0.001}  # metres and micrometres; all else is millimetres
_FORM_CODES = range(6)
_DISAGREE_MM = 0.05


@dataclass(frozen=True)
class NiftiHeader:
    """A NIfTI header that has passed all checks."""

    grid: Grid
    channels: int
    times: int
    """Volumes of so many channels; in the file, time runs faster than channel."""
    holds_labels: bool
    """Whether its intent says that values are labels."""
    byte_order: ByteOrder
    stored: np.dtype[Any]
    """Type and byte order in the file."""
    offset: int
    """Where in the (decompressed) file the voxels begin; of a pair, the second."""
    scaling: tuple[float, float] | None
    """Slope and intercept; None where stored values are the values."""
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """All there is, and voxels along z, y, x: the file's order, slowest first."""
        return (self.channels * self.times, *self.grid.shape)


def parse_header(block: bytes, name: str, *, in_pair: bool = False) -> NiftiHeader:
    """Decode and check the first bytes of a file.

    Parameters
    ----------
    block
        The first 348 bytes, 540 where `is_nifti2`; all where the file is shorter.
    name
        The file, for messages.
    in_pair
        Whether the voxels lie in a second file.

    Raises
    ------
    VolumeError
        When it is no NIfTI volume that can be read without a doubt.
    """
    fields, byte_order = _fields(block, name, "ni" if in_pair else "n+")
    shape = _shape(fields, name)
    stored = _stored(fields, name).newbyteorder(byte_order)
    offset = _offset(fields, name, 0 if in_pair else int(fields.single_vox_offset))
    affine, notes = _affine(fields, shape, name)
    (x, y, z), times, channels = shape[:3], *_times_and_channels(shape, name)
    try:
        grid = Grid.from_affine(affine, (z, y, x))
    except VolumeError as error:
        raise VolumeError(f"{name}: {error}") from None
    return NiftiHeader(
        grid=grid,
        channels=channels,
        times=times,
        holds_labels=int(fields["intent_code"]) == INTENT_LABEL,
        byte_order=byte_order,
        stored=stored,
        offset=offset,
        scaling=_scaling(fields, name),
        notes=tuple(notes),
    )


def is_nifti2(block: bytes) -> bool:
    """Whether a file's first bytes announce the longer header of NIfTI-2."""
    return block[:4] in (struct.pack("<i", SIZE_2), struct.pack(">i", SIZE_2))


def _fields(block: bytes, name: str, kind: str) -> tuple[Any, ByteOrder]:
    wide = is_nifti2(block)
    size = SIZE_2 if wide else SIZE_1
    if len(block) < size:
        raise VolumeError(
            f"{name} ends after {len(block)} bytes; its header alone must have {size}. "
            "Fetch or make it anew."
        )
    mark = block[4:8] if wide else block[344:348]
    found = {order: struct.unpack(f"{order}i", block[:4])[0] for order in _BYTE_ORDERS}
    for order in _BYTE_ORDERS:
        if found[order] == size and mark == f"{kind}{2 if wide else 1}\0".encode():
            decode: Any = Nifti2Header if wide else Nifti1Header
            return decode(block, order, check=False), order
    _refuse_other_kind(mark, SIZE_1 in found.values(), name, kind)
    raise VolumeError(
        f"{name} is no NIfTI file: it begins with the number {found['<']}, which must "
        f"be {SIZE_1} or {SIZE_2}, and bears the mark {mark!r}, which must be {kind}1 "
        f"or {kind}2. Check what it is, or make it anew."
    )


def _refuse_other_kind(mark: bytes, has_size: bool, name: str, kind: str) -> None:  # noqa: FBT001
    """Say what a header is instead: of the other kind, or older than NIfTI."""
    if kind == "n+" and mark[:3] in (b"ni1", b"ni2"):
        raise VolumeError(
            f"{name} is the header of a pair of files (.hdr, .img), and its name that "
            "of a single file. Give it the ending .hdr and put it beside its .img."
        )
    if kind == "ni" and mark[:3] in (b"n+1", b"n+2"):
        raise VolumeError(
            f"{name} is a NIfTI file by itself (its mark is {mark!r}), and its name "
            "that of half a pair. Give it the ending .nii, or .nii.gz if gzipped."
        )
    if kind == "ni" and has_size:
        raise VolumeError(
            f"{name} is an Analyze 7.5 header: its mark is {mark!r} and not ni1. "
            "Analyze does not say which side is left; NIfTI is needed. Convert it with "
            "a program that knows how it was made, such as SPM."
        )


def _shape(fields: Any, name: str) -> tuple[int, ...]:
    dim = [int(size) for size in fields["dim"]]
    if dim[0] in (1, 2):
        raise VolumeError(
            f"{name} has {dim[0]} axes; a volume has at least three: x, y, z. Is it a "
            "single slice? Stack the slices into one file."
        )
    sizes = dim[1 : dim[0] + 1]
    if not 3 <= dim[0] <= 7 or min(sizes) < 1:
        raise VolumeError(
            f"{name} has the dimensions {dim} in its header; the first must be 3 to 7, "
            "and as many after it at least 1. The header is damaged: make it anew."
        )
    return tuple(sizes)


def _times_and_channels(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    """Tell times from channels where there are both; one axis alone is channels."""
    time, *others = shape[3:] or (1,)
    if time == 1 or prod(others) == 1:
        time, others = 1, [time, *others]
    if sum(size > 1 for size in others) > 1:
        raise VolumeError(
            f"{name} has {' x '.join(map(str, shape))} voxels; beyond x, y, z and time "
            "there may be one more axis, the channels. Save one file for each kind."
        )
    return time, prod(others)


def _stored(fields: Any, name: str) -> np.dtype[Any]:
    code = int(fields["datatype"])
    if code in _DTYPES:
        return np.dtype(_DTYPES[code])
    kind = _REFUSED.get(code, "no type that NIfTI knows")
    raise VolumeError(
        f"{name} holds {kind} (datatype {code}); voxels must be integers or floats of "
        "at most 64 bits. Convert it, or make it anew if it should."
    )


def _offset(fields: Any, name: str, least: int) -> int:
    offset = float(fields["vox_offset"])
    if not (np.isfinite(offset) and offset.is_integer() and offset >= least):
        raise VolumeError(
            f"{name} says that its voxels begin at byte {offset:g} (vox_offset); it "
            f"must be a whole number from {least} on. The header is damaged: make it "
            "anew."
        )
    return int(offset)


def _scaling(fields: Any, name: str) -> tuple[float, float] | None:
    try:
        slope, intercept = fields.get_slope_inter()
    except HeaderDataError:
        raise VolumeError(
            f"{name} scales its voxels by {float(fields['scl_slope']):g} and adds "
            f"{float(fields['scl_inter']):g} (scl_inter); both must be finite. The "
            "header is damaged: make it anew."
        ) from None
    if slope is None or (slope, intercept) == (1.0, 0.0):
        return None
    return slope, intercept


def _affine(fields: Any, shape: tuple[int, ...], name: str) -> tuple[Affine, list[str]]:
    pixdim = np.asarray(fields["pixdim"], dtype=np.float64)
    if not (np.isfinite(pixdim[1:4]).all() and (pixdim[1:4] > 0).all()):
        raise VolumeError(
            f"{name} has the voxel sizes {_plain(pixdim[1:4])} (pixdim); each must be "
            "above 0. Set them to the true sizes."
        )
    s_code, q_code = int(fields["sform_code"]), int(fields["qform_code"])
    if s_code not in _FORM_CODES or q_code not in _FORM_CODES:
        raise VolumeError(
            f"{name} has sform_code {s_code} and qform_code {q_code}; both must be 0 "
            "to 5. The header is damaged: make it anew."
        )
    notes: list[str] = []
    if s_code:
        affine = np.asarray(fields.get_sform(), dtype=np.float64)
        notes += _disagreements(fields, affine, shape, name)
    elif q_code:
        affine = _qform(fields, name)
    else:
        affine = fields.get_base_affine()
        notes.append(
            f"{name} does not say how it lies (sform_code and qform_code are 0); "
            "it is taken as LAS around its centre, as nibabel does."
        )
    unit = int(fields["xyzt_units"]) & 7
    affine[:3] *= _UNITS_MM.get(unit, 1.0)
    return affine, notes


def _qform(fields: Any, name: str) -> Affine:
    quaternion = np.array(
        [fields[f"quatern_{axis}"] for axis in "bcd"], dtype=np.float64
    )
    # A few float32 steps over one are rounding; more is no rotation.
    if not (quaternion**2).sum() <= 1.0 + 1e-5:
        raise VolumeError(
            f"{name} has the quaternion {_plain(quaternion)} (qform); the sum of its "
            "squares must not exceed 1. The header is damaged: make it anew."
        )
    fields = fields.copy()
    # The standard: qfac is -1 or 1, and anything else, such as 0, stands for 1.
    fields["pixdim"][0] = -1.0 if fields["pixdim"][0] == -1 else 1.0
    return np.asarray(fields.get_qform(), dtype=np.float64)


def _disagreements(
    fields: Any, affine: Affine, shape: tuple[int, ...], name: str
) -> list[str]:
    """Say where a header contradicts its sform, which is the one that counts."""
    notes = []
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    pixdim = np.asarray(fields["pixdim"], dtype=np.float64)[1:4]
    if not np.allclose(lengths, pixdim, rtol=0.01):
        notes.append(
            f"{name} gives its voxel sizes as {_plain(pixdim)} (pixdim) and as "
            f"{_plain(lengths)} (sform); the sform is used."
        )
    if int(fields["qform_code"]):
        other = _qform(fields, name)
        corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape[:3]])).reshape(
            3, 8
        )
        gap = (affine - other)[:3, :3] @ corners + (affine - other)[:3, 3:]
        apart_mm = float(np.sqrt((gap**2).sum(axis=0)).max())
        if apart_mm > _DISAGREE_MM:
            notes.append(
                f"{name} places its voxels twice, up to {apart_mm:.3g} mm apart "
                "(qform and sform); the sform is used."
            )
    return notes


def _plain(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{float(value):g}" for value in values) + ")"
