"""Bytes, seconds and numbers of things as people say them."""

import pytest

from napari_kdseg.amounts import counted, duration, size


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "< 1 s"),
        (42.4, "42 s"),
        (150, "2 min"),
        (9000, "2.5 h"),
        (938.8 * 3600, "39 days"),
    ],
)
def test_times_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (2_500, "2 kB"),
        (7_440_000, "7.44 MB"),
        (22.6e9, "22.6 GB"),
        (999.8e9, "1 TB"),
        (8.48e12, "8.48 TB"),
    ],
)
def test_sizes_are_said_as_people_say_them(count: float, words: str) -> None:
    assert size(count) == words


def test_one_thing_is_said_without_an_s() -> None:
    assert [counted(number, "row") for number in range(3)] == [
        "0 rows",
        "1 row",
        "2 rows",
    ]
