"""Voxels in one run of bytes: every packing, order of axes and kind of damage."""

import bz2
import gzip
import io
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_kdseg.errors import VolumeError
from napari_kdseg.volumes.formats import packing as packings
from napari_kdseg.volumes.formats import payload as payloads
from napari_kdseg.volumes.formats.payload import (
    Packing,
    Payload,
    check_length,
    decoded,
    lazy,
    packed_into,
    read_all,
    read_bytes,
    write_voxels,
)
from napari_kdseg.volumes.formats.voxels import LazyVoxels, PackedVoxels

PACKERS: dict[Packing, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bzip2": bz2.compress,
}
PACKED: list[Packing] = ["gzip", "zlib", "bzip2"]
# Shape as stored, which stored axis is channel, z, y, x.
ORDERS = {
    "channels slowest": ((2, 5, 4, 3), (0, 1, 2, 3)),
    "channels fastest": ((5, 4, 3, 2), (3, 0, 1, 2)),
    "channels between": ((5, 2, 4, 3), (1, 0, 2, 3)),
    "no channels": ((5, 4, 3), (None, 0, 1, 2)),
    "ones around": ((2, 1, 5, 4, 3), (0, 2, 3, 4)),
    "x slowest": ((3, 4, 5), (None, 2, 1, 0)),
    "turned, with channels": ((5, 3, 4, 2), (3, 0, 2, 1)),
}


def stored_in(
    folder: Path, data: np.ndarray, packing: Packing = "none", before: bytes = b""
) -> Payload:
    """A file with `before`, then `data` packed, and the payload that describes it."""
    path = folder / f"voxels.{packing}"
    path.write_bytes(before + PACKERS[packing](data.tobytes()))
    axes = (None, 0, 1, 2) if data.ndim == 3 else (0, 1, 2, 3)
    return Payload(
        path, packing, len(before), 0, data.dtype, data.shape, axes, None, str(path)
    )


def numbers(shape: tuple[int, ...], dtype: str = "<i2") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 99, shape).astype(dtype)


def gathered(found: PackedVoxels) -> np.ndarray:
    """All blocks put together, each place once."""
    whole, seen = np.empty(found.shape, found.dtype), np.zeros(found.shape, int)
    for place, block in found.blocks():
        whole[place] = block
        seen[place] += 1
    assert (seen == 1).all()
    return whole


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f8"])
@pytest.mark.parametrize("scaling", [None, (0.1, -3.3)])
def test_every_order_of_axes_reads_the_same_whole_lazily_and_in_blocks(
    packing: Packing,
    order: str,
    dtype: str,
    scaling: tuple[float, float] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(payloads, "_BLOCK_VOXELS", 50)
    shape, axes = ORDERS[order]
    data = numbers(shape, dtype)
    payload = replace(stored_in(tmp_path, data, packing), axes=axes, scaling=scaling)
    ones = tuple(axis for axis in range(data.ndim) if axis not in axes)
    kept = [axis for axis in axes if axis is not None]
    expected = data.transpose(*ones, *kept)[(0,) * len(ones)]
    expected = expected if axes[0] is not None else expected[np.newaxis]
    if scaling is not None:
        wide = expected * np.float64(0.1) - 3.3
        expected = wide if dtype == "<f8" else wide.astype(np.float32)
    whole, left = read_all(payload), lazy(payload)
    assert (
        whole.dtype == left.dtype == payload.dtype == expected.dtype.newbyteorder("=")
    )
    assert whole.flags.c_contiguous
    assert np.array_equal(whole, expected)
    assert np.array_equal(np.asarray(left), expected)
    assert isinstance(left, LazyVoxels if packing == "none" else PackedVoxels)
    if isinstance(left, PackedVoxels):
        assert np.array_equal(gathered(left), expected)
    assert np.array_equal(left[0, 1:3, 2], expected[0, 1:3, 2])


def test_blocks_stay_small_where_channels_come_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payloads, "_BLOCK_VOXELS", 48)
    payload = stored_in(tmp_path, numbers((6, 4, 3, 2)), "gzip")
    found = lazy(replace(payload, axes=(3, 0, 1, 2)))
    assert isinstance(found, PackedVoxels)
    places = [place for place, _ in found.blocks()]
    planes = [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert places == [(channel, span) for span in planes for channel in (0, 1)]


@pytest.mark.parametrize("packing", PACKERS)
def test_a_header_before_the_voxels_is_passed_over(
    packing: Packing, tmp_path: Path
) -> None:
    data = numbers((5, 4, 3))
    payload = stored_in(tmp_path, data, packing, before=b"NRRD0004\n\n")
    assert np.array_equal(read_all(payload)[0], data)
    assert np.array_equal(np.asarray(lazy(payload))[0], data)


@pytest.mark.parametrize("packing", PACKERS)
def test_a_header_packed_with_the_voxels_is_passed_over(
    packing: Packing, tmp_path: Path
) -> None:
    data = numbers((7, 4, 3))
    payload = replace(stored_in(tmp_path, data, packing), shape=(5, 4, 3), skip=48)
    assert np.array_equal(read_all(payload)[0], data[2:])
    assert np.array_equal(np.asarray(lazy(payload))[0], data[2:])
    with pytest.raises(VolumeError):
        read_all(replace(payload, skip=480))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut in half": lambda b: b[: len(b) // 2],
    "one byte short": lambda b: b[:-1],
    "five bytes short": lambda b: b[:-5],
    "a bit changed": lambda b: b[: len(b) // 2] + b"\x55" + b[len(b) // 2 + 1 :],
    "garbage behind": lambda b: b + b"garbage",
    "a wrong mark": lambda b: b"\x01\x02" + b[2:],
    "nothing": lambda b: b"",
    "text": lambda b: b"Dear colleague, " * 40,
}


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_packed_file_is_refused_when_it_has(
    packing: Packing, kind: str, tmp_path: Path
) -> None:
    payload = stored_in(tmp_path, numbers((5, 4, 3)), packing)
    payload.path.write_bytes(DAMAGE[kind](payload.path.read_bytes()))
    for read in (read_all, lambda given: np.asarray(lazy(given))):
        with pytest.raises(VolumeError) as refusal:
            read(payload)
        message = str(refusal.value)
        assert message.startswith(str(payload.path))
        assert message.endswith(("anew.", "lies."))


@pytest.mark.parametrize("packing", PACKED)
def test_a_stream_that_holds_more_or_less_than_promised_is_refused(
    packing: Packing, tmp_path: Path
) -> None:
    payload = stored_in(tmp_path, numbers((5, 4, 3)), packing)
    for shape, words in (((5, 4, 2), "goes on after the 80"), ((5, 4, 4), "ends 40")):
        wrong = replace(payload, shape=shape)
        for read in (read_all, lambda given: np.asarray(lazy(given))):
            with pytest.raises(VolumeError, match=words):
                read(wrong)


def test_a_plain_file_of_another_length_is_refused(tmp_path: Path) -> None:
    payload = replace(stored_in(tmp_path, numbers((5, 4, 3))), shape=(5, 4, 4))
    words = r"has 120 bytes, and its header promises 160 \(voxels 4 x 4 x 5, int16\)"
    for read in (check_length, read_all, lazy):
        with pytest.raises(VolumeError, match=words):
            read(payload)


@pytest.mark.parametrize(
    ("packing", "side"), [("gzip", 400), ("zlib", 400), ("bzip2", 4000)]
)
def test_sizes_no_stream_can_hold_are_refused_before_memory_is_taken(
    packing: Packing, side: int, tmp_path: Path
) -> None:
    payload = stored_in(tmp_path, numbers((5, 4, 3)), packing)
    with pytest.raises(VolumeError, match=f"more than {packing} can pack"):
        check_length(replace(payload, shape=(side, side, side)))


@pytest.mark.parametrize(("packing", "megabytes"), [("gzip", 4), ("bzip2", 50)])
def test_what_packs_best_is_within_the_bound(
    packing: Packing, megabytes: int, tmp_path: Path
) -> None:
    check_length(stored_in(tmp_path, np.zeros((megabytes, 1000, 1000), "u1"), packing))


@pytest.mark.parametrize("packing", ["gzip", "bzip2"])
def test_streams_one_after_another_are_one_file(
    packing: Packing, tmp_path: Path
) -> None:
    data = numbers((5, 4, 3))
    payload = stored_in(tmp_path, data, packing)
    raw, pack = data.tobytes(), PACKERS[packing]
    payload.path.write_bytes(pack(raw[:33]) + pack(raw[33:60]) + pack(raw[60:]))
    assert np.array_equal(read_all(payload)[0], data)


def test_a_second_zlib_stream_is_refused(tmp_path: Path) -> None:
    payload = stored_in(tmp_path, numbers((5, 4, 3)), "zlib")
    payload.path.write_bytes(payload.path.read_bytes() + zlib.compress(b""))
    with pytest.raises(VolumeError, match="something follows the packed stream"):
        read_all(payload)


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("size", [1, 7])
def test_streams_are_read_in_any_pieces(
    packing: Packing, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packings, "BUFFER_BYTES", size)
    data = numbers((5, 4, 3))
    payload = stored_in(tmp_path, data, packing)
    assert np.array_equal(read_all(payload)[0], data)
    whole = payload.path.read_bytes()
    for end in range(len(whole)):
        payload.path.write_bytes(whole[:end])
        with pytest.raises(VolumeError):
            read_all(payload)


@settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data(), st.sampled_from(PACKED))
def test_no_change_of_a_packed_file_gives_wrong_voxels(
    tmp_path: Path, draws: st.DataObject, packing: Packing
) -> None:
    data = numbers((5, 4, 3))
    payload = stored_in(tmp_path, data, packing)
    changed = bytearray(payload.path.read_bytes())
    for _ in range(draws.draw(st.integers(1, 3))):
        place = draws.draw(st.integers(0, len(changed) - 1))
        changed[place] = draws.draw(st.integers(0, 255))
    payload.path.write_bytes(changed)
    try:
        found = read_all(payload)
    except VolumeError:
        return
    assert np.array_equal(found[0], data)


def test_an_error_at_the_end_comes_after_the_last_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payloads, "_BLOCK_VOXELS", 12_000)
    data = numbers((50, 40, 30))
    payload = stored_in(tmp_path, data, "gzip")
    packed = bytearray(payload.path.read_bytes())
    packed[-8] ^= 1
    payload.path.write_bytes(packed)
    found, seen = lazy(payload), []
    assert isinstance(found, PackedVoxels)
    with pytest.raises(VolumeError, match="cannot be read to its end"):
        seen.extend(place for place, _ in found.blocks())
    assert len(seen) >= 4


def test_a_separate_data_file_is_named_beside_its_header(tmp_path: Path) -> None:
    payload = replace(stored_in(tmp_path, numbers((5, 4, 3))), name="a.nhdr")
    payload.path.write_bytes(b"123")
    with pytest.raises(VolumeError) as refusal:
        check_length(payload)
    assert str(refusal.value).startswith(f"a.nhdr: its data file {payload.path} has 3")
    payload.path.unlink()
    with pytest.raises(VolumeError, match=r"voxels\.none cannot be read: No such file"):
        check_length(payload)


def test_scaled_voxels_that_leave_the_range_become_infinite(tmp_path: Path) -> None:
    payload = stored_in(tmp_path, np.full((1, 1, 2), 100, "<i2"))
    found = read_all(replace(payload, scaling=(3e38, 1.0)))
    assert np.isinf(found).all()


@pytest.mark.parametrize("packing", ["none", "gzip", "zlib"])
def test_what_is_written_is_read_and_is_the_same_each_time(
    packing: Packing, tmp_path: Path
) -> None:
    data = numbers((2, 5, 4, 3), "i4")
    files = [io.BytesIO(b""), io.BytesIO(b"")]
    for file in files:
        file.write(b"header")
        with packed_into(file, packing) as stream:
            write_voxels(stream, data, np.dtype(">i4"))
        assert not file.closed
    assert files[0].getvalue() == files[1].getvalue()
    path = tmp_path / "a"
    path.write_bytes(files[0].getvalue())
    payload = Payload(
        *(path, packing, 6, 0), np.dtype(">i4"), data.shape, (0, 1, 2, 3), None, "a"
    )
    assert np.array_equal(read_all(payload), data)
    unpack = {"none": bytes, "gzip": gzip.decompress, "zlib": zlib.decompress}
    assert unpack[packing](path.read_bytes()[6:]) == data.astype(">i4").tobytes()


def test_bzip2_is_not_written() -> None:
    with (
        pytest.raises(ValueError, match="never written"),
        packed_into(io.BytesIO(), "bzip2"),
    ):
        pass


def test_a_stream_is_open_for_whoever_reads_a_header_in_it(tmp_path: Path) -> None:
    payload = stored_in(tmp_path, numbers((5, 4, 3)), "gzip")
    with decoded(payload.path, "gzip") as stream:
        assert read_bytes(stream, 500) == numbers((5, 4, 3)).tobytes()
