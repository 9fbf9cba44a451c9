"""The report of a run: one file, everything in it, nothing asked of a network."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from kdseg_train.report import write_report
from napari_kdseg.errors import RunError
from napari_kdseg.runs.run import Run

Call = Callable[..., tuple[int, str, str]]


class Page(HTMLParser):
    """Text and addresses of a page; open tags must be closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.seen: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "img", "path", "use", "rect"):
            self.open.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "use", "rect"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A training that goes on: two epochs, a picture of each, no scores yet."""
    config = {
        "version": 1,
        "command": "fit",
        "method": "ms-kd",
        "name": "<b>organs</b>",
        "training": {"epochs": 9},
        "frozen": {"training": ["case_1", "case_2"], "fingerprint": "abc123"},
    }
    made = Run.create(tmp_path / "run", config)
    made.event("started", host="box", pid=1)
    made.warning("The scans are few.")
    folder = made.folder / "examples" / "student"
    folder.mkdir(parents=True)
    for epoch in (1, 2):
        said = {"validation_dice": 0.5, "validation_dice_of": {"liver": 0.5}}
        made.metric(stage="student", step=epoch, epoch=epoch, loss=2 / epoch, **said)
        picture = np.full((4, 4, 3), epoch, np.uint8)
        (folder / f"{epoch}.png").write_bytes(imagecodecs.png_encode(picture))
        file = f"examples/student/{epoch}.png"
        made.event("example", stage="student", epoch=epoch, file=file)
    return made


def page_of(run: Run) -> Page:
    page = Page(write_report(run.folder).read_text(encoding="utf-8"))
    assert page.open == ["html"] or page.open == []
    return page


def test_the_report_tells_what_there_is_of_a_run_that_goes_on(run: Run) -> None:
    page = page_of(run)
    assert "Training by the method ms-kd" in page.text
    assert "The scans are few." in page.text
    assert "case_1, case_2" in page.text
    assert "abc123" in page.text
    assert "epochs: 9" in page.text
    assert "There are none: the training has not come to its test" in page.text
    assert page.seen.count("svg") == 2  # loss and Dice
    assert page.seen.count("img") == 2


def test_the_report_needs_no_network(run: Run) -> None:
    page = page_of(run)
    assert page.addresses
    for address in page.addresses:
        assert address.startswith(("data:image/png;base64,", "#")), address
    html = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "script" not in page.seen
    assert not re.search(r"url\((?!#)|@import", html)


def test_names_are_text_and_never_markup(run: Run) -> None:
    page = page_of(run)
    assert page.text.startswith("<b>organs</b> - ms-kd")  # the title
    assert page.seen.count("b") == 1  # that of the warning


def test_the_report_has_the_scores_and_what_they_mean(run: Run) -> None:
    titles = "model,class,averaging,cases,dice,nsd_tolerance_mm"
    row = "organs,liver,volumes,3,0.912345,1.0"
    (run.folder / "metrics-summary.csv").write_text(f"{titles}\n{row}\n")
    text = page_of(run).text
    assert "0.9123" in text
    assert "Dice 2|A∩B|/(|A|+|B|)" in text


def test_a_picture_that_lies_outside_the_run_is_not_taken_in(run: Run) -> None:
    outside = run.folder.parent / "secret.png"
    outside.write_bytes(b"secret")
    run.event("example", stage="student", epoch=3, file="../secret.png")
    assert page_of(run).seen.count("img") == 2


def test_a_run_without_events_has_a_report(tmp_path: Path) -> None:
    config = {"version": 1, "command": "fit", "method": "ms-kd"}
    text = page_of(Run.create(tmp_path / "run", config)).text
    assert "No epoch has ended yet." in text
    assert "prepared" in text


def test_only_trainings_have_reports(call: Call, tmp_path: Path) -> None:
    Run.create(tmp_path / "run", {"version": 1, "command": "predict"})
    status, _, said = call("report", tmp_path / "run")
    assert status == 1
    assert "reports are made of trainings" in said
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_folder_that_cannot_be_written_to_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdseg_train.report.write_text_atomic", refuse)
    with pytest.raises(RunError, match="No space left on device"):
        write_report(run.folder)
