"""Every command and every example that the documentation shows: it works as written.

Blocks of ``bash`` and ``python`` are taken from the pages as they are. Commands of
``kdseg-train`` are run, page by page, in an empty folder, those that a newcomer reads
first one after the other in the same; of ``make`` and ``pip`` it is
checked that what they name is there. A comment before a block says what is done
otherwise, and why::

    <!-- test: only read; REASON -->
    <!-- test: add --size 32; REASON -->

What is only read is still parsed: its commands, options and recipes must exist.
"""

import re
import shlex
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import parsed

from kdseg_train.cli import main
from kdseg_train.config import find_recipe
from napari_kdseg import shipped

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in (
        ROOT / "README.md",
        ROOT / "training" / "README.md",
        *(ROOT / "docs").rglob("*.md"),
    )
)
BLOCK = re.compile(
    r"(?:<!-- test: (?P<mark>[^;]+); (?P<reason>[^>]+) -->\n)?"
    r"^```(?P<language>bash|python)\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
ONLY_READ = "only read"
READ_FIRST = (
    "README.md",
    "docs/tutorials/first-result.md",
    "docs/tutorials/single-organ.md",
)
"""One after the other, in one folder."""


@dataclass(frozen=True)
class Block:
    """What stands between two fences, and how it is to be treated."""

    language: str
    text: str
    mark: str

    @property
    def is_run(self) -> bool:
        return self.mark != ONLY_READ

    @property
    def added(self) -> list[str]:
        """Words that make its commands quick."""
        verb, _, words = self.mark.partition(" ")
        return shlex.split(words) if verb == "add" else []

    @property
    def commands(self) -> list[list[str]]:
        lines = self.text.replace("\\\n", " ").splitlines()
        found = [shlex.split(line, comments=True) for line in lines]
        return [words for words in found if words]


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(found["language"], found["text"], found["mark"] or "")
        for found in BLOCK.finditer(text)
    ]


def commands_of(page: str, program: str) -> list[list[str]]:
    """Commands of a program, those in scripts for others among them."""
    return [
        words[words.index(program) + 1 :]
        for block in blocks_of(page)
        if block.language == "bash"
        for words in block.commands
        if program in words[:2]
    ]


# ---- what is read ----


@pytest.mark.parametrize("page", PAGES)
def test_marks_are_understood(page: str) -> None:
    for block in blocks_of(page):
        assert block.mark in ("", ONLY_READ) or block.mark.startswith("add --")


@pytest.mark.parametrize("page", PAGES)
def test_no_mark_stands_where_there_is_no_block(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text.count("<!-- test:") == sum(
        bool(block.mark) for block in blocks_of(page)
    )


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_marked_is_known(page: str) -> None:
    for block in blocks_of(page):
        if block.language == "bash" and block.is_run:
            for words in block.commands:
                assert words[0] in ("kdseg-train", "make", "pip"), shlex.join(words)


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_options_exist(page: str) -> None:
    for words in commands_of(page, "kdseg-train"):
        parsed(words)


@pytest.mark.parametrize("words", ["fitt x --out y", "fit x --out y --sett a=b", "fit"])
def test_a_wrong_command_line_would_be_noticed(words: str) -> None:
    with pytest.raises(Exception, match=r"No such command|No such option|Missing"):
        parsed(words.split())


@pytest.mark.parametrize("page", PAGES)
def test_recipes_exist(page: str) -> None:
    for words in commands_of(page, "kdseg-train"):
        if words[0] == "fit":
            recipe = Path(str(parsed(words)["recipe"]))
            assert recipe.suffix == ".yaml" or find_recipe(recipe).is_file()


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    for words in commands_of(page, "make"):
        assert set(words) <= set(targets)


@pytest.mark.parametrize("page", PAGES)
def test_extras_of_the_package_exist(page: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for words in commands_of(page, "pip"):
        for extra in re.findall(r"(?:\.|napari-kdseg)\[([^\]]+)\]", " ".join(words)):
            assert set(extra.split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_of_the_repository(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
        if "://" not in target and not is_made(ROOT / page, target):
            assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", [*PAGES, "training/benchmarks/README.md"])
def test_programs_of_the_repository_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for program in re.findall(r"python ((?:training|docs)/[\w/]+\.py)", text):
        assert (ROOT / program).is_file(), program


def is_made(page: Path, target: str) -> bool:
    """Whether a link leads to a page that is written while the site is built."""
    place = (page.parent / target).resolve()
    reference = ROOT / "docs" / "reference"
    return place == reference / "command-line.md" or place.parent == (
        reference / "settings"
    )


# ---- what is run ----


def has_something_to_run(page: str) -> bool:
    return any(
        block.language == "python"
        or any(words[0] == "kdseg-train" for words in block.commands)
        for block in blocks_of(page)
        if block.is_run
    )


@pytest.fixture
def own_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the shipped models: predicting with them notes how long it took."""
    copied = tmp_path / "shipped"
    shutil.copytree(shipped.sample_folder(), copied)
    monkeypatch.setattr(shipped, "sample_folder", lambda: copied)


@pytest.mark.slow
@pytest.mark.usefixtures("own_samples")
@pytest.mark.parametrize(
    "pages",
    [
        READ_FIRST,
        *(
            (page,)
            for page in PAGES
            if page not in READ_FIRST and has_something_to_run(page)
        ),
    ],
    ids=" ".join,
)
def test_pages_work_as_written(
    pages: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for page in pages:
        for block in blocks_of(page):
            if not block.is_run:
                continue
            if block.language == "python":
                exec(compile(block.text, page, "exec"), {})
                continue
            for program, *words in block.commands:
                if program == "kdseg-train":
                    assert status_of([*words, *block.added]) == 0, shlex.join(words)


def status_of(words: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)
