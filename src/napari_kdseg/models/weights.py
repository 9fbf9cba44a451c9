"""A look at a weights file without torch: is it safetensors, whole, and no pickle."""

import json
import struct
from pathlib import Path

from napari_kdseg.errors import ModelError

_HEADER_LENGTH_BYTES = 8
_LARGEST_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
# What reading a header of any shape may raise.
_MALFORMED = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
_PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib")


def check_weights(path: Path) -> None:
    """Refuse weights that are missing, a pickle, cut short, or something else.

    Raises
    ------
    ModelError
        Naming the file, what was found, the rule and the way out.
    """
    if not path.is_file():
        raise ModelError(_what_is_missing(path))
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_HEADER_LENGTH_BYTES)
        header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        fits = 0 < header_bytes <= min(_LARGEST_HEADER_BYTES, size)
        header = file.read(header_bytes) if fits else b""
    if not header.startswith(b"{"):
        raise ModelError(_what_it_is(path, start))
    expected = _HEADER_LENGTH_BYTES + header_bytes + _data_bytes(path, header)
    if size != expected:
        raise ModelError(
            f"{path} has {size} bytes where its header promises {expected}; a weights "
            "file must be whole. Get the model again from its source."
        )


def _data_bytes(path: Path, header: bytes) -> int:
    try:
        entries = json.loads(header)
        ends = [
            int(entry["data_offsets"][1])
            for name, entry in entries.items()
            if name != "__metadata__"
        ]
    except _MALFORMED as error:
        raise ModelError(
            f"{path} has a header that cannot be read; weights are a safetensors file. "
            "Get the model again from its source."
        ) from error
    return max(ends, default=0)


def _what_is_missing(path: Path) -> str:
    pickles = sorted(
        other.name
        for other in path.parent.iterdir()
        if other.suffix.lower() in _PICKLE_SUFFIXES
    )
    if pickles:
        return (
            f"{path.parent} has {pickles[0]} in place of {path.name}; pickled weights "
            "can run any code when opened, so only safetensors are read. Ask its maker "
            "for safetensors."
        )
    return (
        f"{path.parent} has no {path.name}; a model is a folder with a card and "
        "weights. Get the model again from its source."
    )


def _what_it_is(path: Path, start: bytes) -> str:
    # Pickles of protocol 2 and later begin with byte 0x80; torch packs them in a zip.
    if start.startswith((b"PK", b"\x80")):
        return (
            f"{path} is a pickle, whatever its name says; pickled weights can run any "
            "code when opened, so only safetensors are read. Ask its maker for "
            "safetensors."
        )
    return (
        f"{path} begins with {start!r} and is no safetensors file; weights are nothing "
        "else. Get the model again from its source."
    )
