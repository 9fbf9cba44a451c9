"""Files and folders that appear complete or not at all."""

from contextlib import suppress
from pathlib import Path

import pytest

from napari_kdseg.atomic import (
    atomic_file,
    check_writable,
    publish_folder,
    refusal,
    temporary_beside,
    write_bytes_atomic,
    write_text_atomic,
)
from napari_kdseg.errors import UsageError


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


# ---- Places that cannot be written to ----


def test_a_new_file_in_folders_that_are_not_there_yet_may_be_written(
    tmp_path: Path,
) -> None:
    (tmp_path / "old.csv").write_text("old")
    check_writable(tmp_path / "old.csv")
    check_writable(tmp_path / "new" / "folder" / "table.csv")
    assert names(tmp_path) == ["old.csv"]


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder; give the name of a file in"):
        check_writable(tmp_path)


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(UsageError, match=r"table\.csv cannot be written: .*/a: Not a"):
        check_writable(tmp_path / "a" / "table.csv")


def test_a_disk_that_may_only_be_read_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system", "/some/where/tmp3f")

    monkeypatch.setattr("napari_kdseg.atomic.os.open", refuse)
    told = rf"{tmp_path}: Read-only file system\. Take a place that may be written to"
    with pytest.raises(UsageError, match=told):
        check_writable(tmp_path / "table.csv")


def test_a_folder_that_windows_protects_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def refuse(path: Path, *_: object) -> None:
        tried.append(Path(path))
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("napari_kdseg.atomic.os.open", refuse)
    with pytest.raises(UsageError, match="Ask for the right to use it"):
        check_writable(tmp_path / "table.csv")
    (path,) = tried
    assert path.parent == tmp_path
    assert path.name.startswith(".")


def test_a_temporary_name_is_told_as_the_name_of_the_file(tmp_path: Path) -> None:
    hidden = temporary_beside(tmp_path / "table.csv")
    error = OSError(28, "No space left on device", str(hidden))
    assert refusal(error) == (
        f"{tmp_path / 'table.csv'}: No space left on device. Make room, or take "
        "another place."
    )
