"""MetaImage files that are good, but for what a test changes."""

import zlib
from pathlib import Path

import numpy as np

BASE = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "10 20 30",
    "CenterOfRotation": "0 0 0",
    "AnatomicalOrientation": "RAI",
    "ElementSpacing": "1 2 3",
    "DimSize": "2 3 4",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}


NOISE = np.random.default_rng(0).integers(0, 9999, 24).astype("<i2").tobytes()


PACKED = zlib.compress(NOISE)


def head(
    folder: Path, lines: dict[str, str | None] | None = None, data: bytes = NOISE
) -> Path:
    """A good file, but for the lines that are other, or None: not there."""
    fields = {**BASE, **(lines or {})}
    fields["ElementDataFile"] = fields.pop("ElementDataFile")  # the last line it is
    text = "".join(f"{k} = {v}\n" for k, v in fields.items() if v is not None)
    path = folder / "head.mha"
    path.write_bytes(text.encode() + data)
    return path


def packed(folder: Path, size: str | None = str(len(PACKED))) -> Path:
    return head(folder, {"CompressedData": "True", "CompressedDataSize": size}, PACKED)
