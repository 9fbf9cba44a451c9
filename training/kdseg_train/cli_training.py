"""The commands that train: what it will take, and doing it."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from kdseg_train.options import Resume, say_of_threads

# Whatever else a command needs is imported inside it: --help must answer at once.

Recipe = Annotated[
    Path, typer.Argument(help="A recipe, or the name of one that comes along.")
]
Data = Annotated[
    Path | None,
    typer.Option(help="Where relative data paths start; else the recipe's folder."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting in place of the recipe's: a.b=value."),
]


def estimate(
    recipe: Recipe,
    data: Data = None,
    set_: Changes = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Numbers for a program, stage by stage.")
    ] = False,
) -> None:
    """Say what memory and time a training will take here, from a short trial."""
    from kdseg_train.config import find_recipe, load_recipe
    from kdseg_train.methods import estimate as foreseen
    from kdseg_train.methods import prepare

    file = find_recipe(recipe)
    values = load_recipe(file, tuple(set_ or ()))
    found = foreseen(prepare(values, str(file), data or file.parent))
    in_numbers = json.dumps(found.as_json(), indent=2)
    sys.stdout.write(f"{in_numbers if json_ else found.in_words}\n")


def fit(
    recipe: Recipe,
    out: Annotated[Path, typer.Option(help="Run folder; the model will be in it.")],
    data: Data = None,
    resume: Resume = False,
    set_: Changes = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train, whether or not the memory will do.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only say whether it could start; write nothing."),
    ] = False,
) -> None:
    """Train a network as a recipe says; with torchrun in several processes."""
    from kdseg_train.config import find_recipe, load_recipe
    from kdseg_train.follow import prepare_and_execute
    from kdseg_train.methods import check as checked
    from kdseg_train.methods import prepare
    from kdseg_train.ranks import are_launched
    from kdseg_train.together import execute_together

    file = find_recipe(recipe)
    values = load_recipe(file, tuple(set_ or ()))
    if check:
        from kdseg_train.check import check as found_out

        place = data or file.parent
        findings = found_out(values, str(file), place, out, any_memory=force)
        sys.stdout.write(json.dumps(findings.as_json()) + "\n")
        sys.stderr.write(f"It can start: {findings.in_words}\n")
        return

    def lead() -> None:
        config = prepare(values, str(file), data or file.parent)
        say_of_threads(config["threads"])
        foreseen = checked(config, any_memory=force)
        if foreseen is not None:
            sys.stderr.write(f"{foreseen.in_words}\n")
        prepare_and_execute(out, config, resume=resume, alone=not are_launched())
        sys.stderr.write(f"The model is in {out / 'model'}.\n")

    execute_together(out, str(values.get("device", "auto")), lead)
