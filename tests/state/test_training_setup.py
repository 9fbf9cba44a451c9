"""Setting a training up: data, starting points, checks before anything is written."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from napari_kdseg.cores import usable_cores
from napari_kdseg.project import Project
from napari_kdseg.state.training_schema import Methods
from napari_kdseg.state.training_setup import FROM_DATA, OWN, Setup

WAIT_S = 30.0

# Speaks as kdseg-train does: describe; new METHOD --out F --data D; fit R --out RUN.
FAKE = """
import json, sys
from pathlib import Path
words = sys.argv[1:]
here = Path(__file__).parent
if words[0] == "describe":
    print((here / "described.json").read_text())
elif words[0] == "new":
    assert words[1] == "supervised", words
    Path(words[3]).write_text("{training: {epochs: 7}, split: {test: 0.2}}")
else:
    (here / "checked.yaml").write_text(Path(words[1]).read_text())
    assert words[4] == "--check" and not Path(words[3]).exists(), words
    if (here / "refuse").exists():
        sys.exit("kdseg-train: The data is unreadable.")
    sys.stderr.write("It can start: brain from CT.\\n")
"""


def group(**properties: object) -> dict:
    return {"type": "object", "properties": properties}


def described() -> dict:
    number = {"type": "number", "default": 0.0}
    split = {"test": number, "validation": number}
    training = {"epochs": {"type": "integer", "default": 1000, "minimum": 1}}
    settings = group(
        method={"type": "string", "default": "supervised"},
        licence={"type": "string", "default": ""},
        description={"type": "string", "default": ""},
        split=group(**split),
        threads={"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        training=group(**training),
    )
    return {
        "supervised": {"title": "Supervised training", "settings": settings},
        "medaka": {"title": "Medaka", "settings": settings},
    }


@pytest.fixture
def script(tmp_path: Path) -> Path:
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "described.json").write_text(json.dumps(described()))
    (folder / "fake.py").write_text(FAKE)
    return folder / "fake.py"


@pytest.fixture
def setup(script: Path, tmp_path: Path) -> Iterator[Setup]:
    command = (sys.executable, str(script))
    made = Setup(Methods(tmp_path / "cache", command), command)
    poll_until(made, lambda: bool(made.method))
    yield made
    made.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "fish"
    folder.mkdir(parents=True)
    return folder


def poll_until(setup: Setup, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        setup.poll()
        time.sleep(0.01)


def rest(setup: Setup) -> None:
    poll_until(setup, lambda: not setup.busy)


def test_the_methods_are_asked_for_once_and_kept(
    setup: Setup, script: Path, tmp_path: Path
) -> None:
    assert setup.titles["medaka"] == "Medaka"
    assert setup.method == "supervised"
    script.unlink()  # nobody answers any more
    again = Methods(tmp_path / "cache", (sys.executable, str(script)))
    assert again.known == described()
    assert not again.poll()


def test_an_answer_in_another_form_is_refused_and_not_kept(
    script: Path, tmp_path: Path
) -> None:
    (script.parent / "described.json").write_text('{"supervised": {"fields": []}}')
    command = (sys.executable, str(script))
    setup = Setup(Methods(tmp_path / "cache", command), command)
    poll_until(setup, lambda: bool(setup.methods.problem))
    assert "of different versions" in setup.problem
    assert not list((tmp_path / "cache").glob("*"))


def test_settings_are_fitted_to_the_data(setup: Setup, data: Path) -> None:
    assert setup.starting_point == OWN
    assert setup.form is not None
    assert setup.form.value(("training", "epochs")) == 1000
    setup.add(data)
    assert setup.starting_point == FROM_DATA
    rest(setup)
    assert setup.form.value(("training", "epochs")) == 7
    assert setup.form.value(("split", "test")) == 0.2
    # Without cases kept apart there would be no curve of the Dice.
    assert setup.form.value(("split", "validation")) == 0.1


def test_recipes_of_the_method_are_offered_and_bring_their_settings(
    setup: Setup, data: Path
) -> None:
    assert "supervised/small" in setup.starting_points
    assert "medaka/small" not in setup.starting_points
    assert FROM_DATA not in setup.starting_points
    setup.add(data)
    rest(setup)
    setup.start_from("supervised/small")
    assert setup.form is not None
    assert setup.form.value(("training", "epochs")) == 20
    recipe = yaml.safe_load(setup.recipe_text())
    assert recipe["data"] == [{"path": str(data)}]


def test_the_licence_of_a_recipe_that_comes_along_is_not_that_of_ones_own_model(
    setup: Setup, data: Path
) -> None:
    """It is that of weights made of its own data, as is what it says of them."""
    setup.add(data)
    rest(setup)
    setup.start_from("supervised/small")
    asked = yaml.safe_load(setup.recipe_text())
    assert not {"licence", "description"} & set(asked)
    setup.edit(("licence",), "CC-BY-4.0")
    assert yaml.safe_load(setup.recipe_text())["licence"] == "CC-BY-4.0"


def test_a_training_leaves_one_core_to_the_viewer_unless_a_person_says_otherwise(
    setup: Setup, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Bound to eight cores of a large computer.
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    setup.add(data)
    rest(setup)
    most = usable_cores() - 1
    assert yaml.safe_load(setup.recipe_text())["threads"] == most
    setup.edit(("threads",), 16)
    assert yaml.safe_load(setup.recipe_text())["threads"] == 16


def test_a_recipe_chosen_while_the_data_is_looked_at_stays(
    setup: Setup, data: Path
) -> None:
    setup.add(data)
    assert setup.busy
    setup.start_from("supervised/small")
    rest(setup)
    for _ in range(50):
        setup.poll()
        time.sleep(0.01)
    assert setup.form is not None
    assert setup.form.value(("training", "epochs")) == 20


def test_a_change_by_hand_while_the_data_is_looked_at_stays(
    setup: Setup, data: Path
) -> None:
    setup.add(data)
    setup.edit(("training", "epochs"), 3)
    assert setup.busy
    rest(setup)
    assert setup.form is not None
    assert setup.form.value(("training", "epochs")) == 3
    assert setup.form.value(("split", "test")) == 0.2  # as the data suggests


def test_changes_by_hand_survive_another_data_set(setup: Setup, data: Path) -> None:
    setup.add(data)
    rest(setup)
    setup.edit(("training", "epochs"), 3)
    setup.add(data.parent, "unlabelled")
    rest(setup)
    assert setup.form is not None
    assert setup.form.value(("training", "epochs")) == 3
    recipe = yaml.safe_load(setup.recipe_text())
    assert recipe["unlabelled"] == [{"path": str(data.parent)}]


def test_nothing_starts_without_labelled_data(setup: Setup, data: Path) -> None:
    assert "Add the folder of a data set" in setup.problem
    setup.add(data, "test")
    assert setup.problem
    setup.check(start=True)
    assert not setup.busy
    setup.change(0, use="labelled")
    assert not setup.problem


def test_runs_of_a_project_go_into_it_and_others_beside_the_data(
    setup: Setup, data: Path, tmp_path: Path
) -> None:
    setup.add(data)
    assert setup.out == data.parent / "runs"
    setup.remove(0)
    Project.create(tmp_path / "project").close()
    setup.add(tmp_path / "project")
    assert setup.out == tmp_path / "project" / "runs"
    assert setup.name == "project-supervised"


def test_a_check_writes_nothing_where_the_run_would_go(
    setup: Setup, data: Path, script: Path
) -> None:
    setup.add(data)
    rest(setup)
    before = sorted(data.parent.rglob("*"))
    setup.check()
    rest(setup)
    assert setup.status == "It can start: brain from CT."
    assert sorted(data.parent.rglob("*")) == before
    checked = yaml.safe_load((script.parent / "checked.yaml").read_text())
    assert checked["method"] == "supervised"
    assert checked["training"]["epochs"] == 7


def test_a_start_that_is_refused_says_why_and_writes_nothing(
    setup: Setup, data: Path, script: Path
) -> None:
    (script.parent / "refuse").touch()
    setup.add(data)
    rest(setup)
    started: list[Path] = []
    setup.ready.connect(lambda recipe, run: started.append(run))
    setup.check(start=True)
    rest(setup)
    assert setup.status == "The data is unreadable."
    assert not started
    assert not (data.parent / "runs").exists()


def test_a_start_hands_recipe_and_run_folder_on(setup: Setup, data: Path) -> None:
    setup.add(data)
    rest(setup)
    started: list[tuple[Path, Path]] = []
    setup.ready.connect(lambda recipe, run: started.append((recipe, run)))
    for _ in range(2):  # the second run gets a folder of its own
        setup.check(start=True)
        rest(setup)
    home = data.parent / "runs" / "fish-supervised"
    assert started[0] == (home / "recipe.yaml", home / "run")
    assert started[1][1] == home.with_name("fish-supervised-2") / "run"
    assert yaml.safe_load((home / "recipe.yaml").read_text())["command"] == "fit"


CHANGES: dict[str, Callable[[Setup], None]] = {
    "edit": lambda setup: setup.edit(("training", "epochs"), 3),
    "start": lambda setup: setup.start_from("supervised/small"),
    "method": lambda setup: setup.choose_method("medaka"),
    "name": lambda setup: setup.set_name("other"),
    "out": lambda setup: setup.set_out(Path("elsewhere")),
    "data": lambda setup: setup.remove(1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_check_said_goes_when_something_else_is_set(
    setup: Setup, data: Path, change: str
) -> None:
    setup.add(data)
    other = data.with_name("other")
    other.mkdir()
    setup.add(other, "unlabelled")
    rest(setup)
    setup.start_from(OWN)
    setup.check()
    poll_until(setup, lambda: "It can start" in setup.status)
    CHANGES[change](setup)
    assert "It can start" not in setup.status


def test_an_answer_that_comes_after_a_change_is_not_told(
    setup: Setup, data: Path
) -> None:
    told: list[str] = []
    setup.add(data)
    rest(setup)
    setup.check()
    setup.edit(("training", "epochs"), 3)
    setup.status_changed.connect(told.append)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        setup.poll()
        time.sleep(0.01)
    assert (setup.status, told) == ("", [])
    assert not setup.busy


def test_a_start_is_not_called_off_by_a_change_after_it(
    setup: Setup, data: Path
) -> None:
    started: list[Path] = []
    setup.ready.connect(lambda recipe, _: started.append(recipe))
    setup.add(data)
    rest(setup)
    setup.check(start=True)
    setup.edit(("training", "epochs"), 3)
    poll_until(setup, lambda: bool(started))
    assert yaml.safe_load(started[0].read_text())["training"]["epochs"] == 7
