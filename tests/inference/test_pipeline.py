"""Reading ahead and writing behind keep the order, and lose no error."""

import threading

import pytest

from napari_kdseg.inference.pipeline import Behind, read_ahead


def test_what_is_read_ahead_comes_in_order() -> None:
    assert list(read_ahead(lambda item: item * 2, range(9), 3)) == [*range(0, 18, 2)]


def test_no_more_is_read_than_was_asked_for() -> None:
    started: list[int] = []
    both = threading.Semaphore(0)

    def read(item: int) -> int:
        started.append(item)
        both.release()
        return item

    reading = read_ahead(read, range(10), 2)
    assert next(reading) == 0
    for _ in range(3):  # the one that was taken, and two ahead of it
        assert both.acquire(timeout=30)
    reading.close()
    assert started == [0, 1, 2]


def test_an_error_of_reading_comes_where_its_item_is_due() -> None:
    def read(item: int) -> int:
        if item == 2:
            raise ValueError("damaged")
        return item

    reading = read_ahead(read, range(5), 4)
    assert [next(reading), next(reading)] == [0, 1]
    with pytest.raises(ValueError, match="damaged"):
        next(reading)


def test_everything_is_written_in_order_when_the_block_ends() -> None:
    written: list[int] = []
    with Behind(written.append) as behind:
        for item in range(5):
            behind.put(item)
    assert written == [0, 1, 2, 3, 4]


def test_what_was_handed_over_is_written_when_the_block_is_left_by_an_error() -> None:
    written: list[int] = []

    def fail() -> None:
        with Behind(written.append) as behind:
            behind.put(1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert written == [1]


def test_an_error_of_writing_is_raised_at_the_latest_at_the_end() -> None:
    def full(_: int) -> None:
        raise OSError("No space left")

    with pytest.raises(OSError, match="No space left"), Behind(full) as behind:
        behind.put(1)
