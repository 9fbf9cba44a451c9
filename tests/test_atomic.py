"""Files and folders that appear complete or not at all."""

from contextlib import suppress
from pathlib import Path

import pytest

from napari_kdseg.atomic import (
    atomic_file,
    publish_folder,
    temporary_beside,
    write_bytes_atomic,
    write_text_atomic,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_text_file_holds_what_was_written(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "a.txt", "zwei\nZeilen, größer\n")
    assert (tmp_path / "a.txt").read_bytes() == "zwei\nZeilen, größer\n".encode()
    assert names(tmp_path) == ["a.txt"]


def test_a_new_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    write_bytes_atomic(tmp_path / "a", b"old")
    write_bytes_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_the_name_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as file:
        file.write(b"half")
        assert not (tmp_path / "a").exists()
        assert Path(file.name).parent == tmp_path
    assert (tmp_path / "a").read_bytes() == b"half"


def test_an_error_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    write_bytes_atomic(tmp_path / "a", b"old")
    with suppress(KeyboardInterrupt), atomic_file(tmp_path / "a") as file:
        file.write(b"half of the new")
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    write_bytes_atomic(tmp_path / "a", b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_bytes_atomic(tmp_path / "a", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_folder_is_published_whole(tmp_path: Path) -> None:
    temporary = temporary_beside(tmp_path / "result")
    (temporary / "inner").mkdir(parents=True)
    (temporary / "inner" / "a").write_bytes(b"1")
    publish_folder(temporary, tmp_path / "result")
    assert (tmp_path / "result" / "inner" / "a").read_bytes() == b"1"
    assert names(tmp_path) == ["result"]


def test_a_published_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    (tmp_path / "new").mkdir()
    with pytest.raises(FileExistsError, match="never replaced"):
        publish_folder(tmp_path / "new", tmp_path / "result")
    assert names(tmp_path) == ["new", "result"]
