"""What a person sees of work in a terminal, and what a log gets of it."""

import pytest
from rich.console import Console

from kdseg_train.follow import counting, print_failures, showing
from napari_kdseg.errors import UsageError
from napari_kdseg.runs.run import Run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that somebody executes."""
    folder = tmp_path_factory.mktemp("work") / "run"
    return Run.create(folder, {"version": 1, "command": "fit"})


def lines(said: str) -> list[str]:
    """What was said before the bars, which a log gets in the end alone."""
    return [line.rstrip() for line in said.splitlines() if "\u2501" not in line]


def test_a_log_is_told_at_once_and_then_once_a_minute_how_far_it_is(
    run: Run, capsys: Capture
) -> None:
    with showing(run):
        for second in range(0, 180, 10):
            run.progress(second, 180, "student", time=1e9 + second)
    assert lines(capsys.readouterr().err) == [
        "student: 0 of 180",
        "student: 60 of 180",
        "student: 120 of 180",
    ]


def test_a_log_has_the_pace_of_what_has_one(run: Run, capsys: Capture) -> None:
    with showing(run):
        run.progress(1, 2, "volumes", pace="475 an hour")
    assert lines(capsys.readouterr().err) == ["volumes, 475 an hour: 1 of 2"]


def test_a_terminal_has_bars_alone(
    run: Run, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Console, "is_terminal", True)
    with showing(run):
        run.progress(1, 2, "student")
    said = capsys.readouterr().err
    assert "1/2" in said
    assert "1 of 2" not in said


def test_an_error_before_anything_was_counted_stands_alone(capsys: Capture) -> None:
    with pytest.raises(UsageError), counting("cases"):
        raise UsageError("There are none.")
    assert capsys.readouterr().err == ""


def test_an_error_before_a_run_has_got_anywhere_stands_alone(
    run: Run, capsys: Capture
) -> None:
    with pytest.raises(UsageError), showing(run):
        raise UsageError("There is none.")
    assert capsys.readouterr().err == ""


def test_what_was_counted_is_a_bar(capsys: Capture) -> None:
    with counting("cases") as count:
        count(1, 3)
        count(2, 3)
    assert "cases" in (said := capsys.readouterr().err)
    assert "2/3" in said


def test_what_failed_is_told_with_paths_in_one_piece(capsys: Capture) -> None:
    path = "/data/" + "deep/" * 40 + "scan.nii.gz"
    print_failures(
        [
            {"failed": "one", "attempts": 1, "why": f"{path} is damaged."},
            {"failed": "two [red]", "attempts": 3, "why": "its worker died."},
        ],
        "2 failed of 2 volumes in 5 s.",
    )
    told = capsys.readouterr().out
    assert path in told.splitlines()
    assert " ".join(told.split()) == (
        f"one failed: {path} is damaged. two [red] failed after 3 attempts: its worker "
        "died. 2 failed of 2 volumes in 5 s."
    )
