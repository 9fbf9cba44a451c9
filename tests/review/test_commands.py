"""``kdseg-train quality agreement | export | import | mend``, and simulate."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdseg_train import cli
from napari_kdseg.errors import DataSetError
from napari_kdseg.review.store import Store, read_store
from napari_kdseg.review.verdicts import (
    About,
    Verdict,
    keep_verdicts,
    read_verdicts,
    settled,
    write_verdicts,
)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: object) -> tuple[int, str]:
        status = 0
        try:
            cli.main(["quality", *map(str, words)])
        except SystemExit as end:
            status = int(end.code or 0)
        return status, "".join(capsys.readouterr())

    return run


def reviewed(file: Path) -> list[Verdict]:
    store = Store.open(file)
    rows = []
    for name, words in {"Ada": "ggb", "Ben": "gbb"}.items():
        sitting = store.sit(name)
        for index, letter in enumerate(words):
            about = About("fish", 0, index, "ab" * 32)
            rows.append(sitting.judge(about, "good" if letter == "g" else "bad"))
    store.close()
    return rows


def test_agreement_is_said_in_a_table_and_in_words(call: Any, tmp_path: Path) -> None:
    reviewed(tmp_path / "v.sqlite")
    status, said = call("agreement", "--reviews", tmp_path / "v.sqlite")
    assert status == 0
    assert "Ada and Ben agree on 2 of 3 slices; Cohen's kappa is 0.40" in said
    assert "fish" in said
    assert "good for" in said


def test_agreement_takes_a_table_too(call: Any, tmp_path: Path) -> None:
    write_verdicts(tmp_path / "v.csv", reviewed(tmp_path / "v.sqlite"))
    status, said = call("agreement", "--reviews", tmp_path / "v.csv")
    assert (status, "agree on 2 of 3" in said) == (0, True)


def test_a_store_goes_out_as_a_table_and_comes_in_once(
    call: Any, tmp_path: Path
) -> None:
    rows = reviewed(tmp_path / "v.sqlite")
    table, other = tmp_path / "v.csv", tmp_path / "other.sqlite"
    assert call("export", "--reviews", tmp_path / "v.sqlite", "--out", table)[0] == 0
    assert list(read_verdicts(table)) == rows
    status, said = call("import", table, "--reviews", other)
    assert (status, "6 new rows; there already: 0" in said) == (0, True)
    assert (
        "0 new rows; there already: 6" in call("import", table, "--reviews", other)[1]
    )
    marked = [replace(one, source="imported") for one in rows]
    assert list(read_store(other)) == marked


def test_a_wrong_value_in_a_table_keeps_all_of_it_out(
    call: Any, tmp_path: Path
) -> None:
    table = tmp_path / "v.csv"
    table.write_text(
        "case,axis,index,verdict,source\na,0,1,good,human\na,3,1,bad,human\n"
    )
    status, said = call("import", table, "--reviews", tmp_path / "v.sqlite")
    assert status == 2
    assert "line 3: axis is '3'; write 0, 1 or 2" in said
    assert not (tmp_path / "v.sqlite").exists()


def test_a_damaged_store_is_said_and_mended(call: Any, tmp_path: Path) -> None:
    file = tmp_path / "v.sqlite"
    rows = reviewed(file)
    Store.open(file).close()
    file.write_bytes(b"SQLite format 3\0" + b"\0" * 5000)
    status, said = call("agreement", "--reviews", file)
    assert (status, "is damaged" in said) == (1, True)
    assert call("mend", file)[0] == 0
    assert list(read_store(file)) == rows


def test_what_was_taken_back_settles_nothing(tmp_path: Path) -> None:
    file = tmp_path / "v.sqlite"
    rows = reviewed(file)
    found = settled(read_verdicts(file), "v")
    assert found == {("fish", 0, 0): True, ("fish", 0, 2): False}
    store = Store.open(file)
    store.sit("Ada").take_back(rows[0])
    store.sit("Ben").take_back(rows[3])
    store.close()
    with pytest.raises(DataSetError, match="0 good and 1 bad"):
        settled(read_verdicts(file), "v")


def test_simulated_verdicts_are_a_sitting_of_a_store(tmp_path: Path) -> None:
    file = tmp_path / "v.sqlite"
    reviewed(file)
    found = [Verdict("eel", 0, 4, "bad", "simulated", "cd", "truth")]
    keep_verdicts(file, found, "truth")
    keep_verdicts(file, [replace(found[0], verdict="good")], "truth")
    rows = read_store(file)
    assert [(one.source, one.sitting) for one in rows[-2:]] == [
        ("simulated", 3),
        ("simulated", 4),
    ]
    assert len(rows) == 8
