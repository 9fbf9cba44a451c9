"""A command line as the program understands it, without doing what it says."""

import typer
from typer.main import get_command

from kdseg_train.cli import app


def parsed(words: list[str]) -> dict[str, object]:
    """Parameters of a command line, as the program understands it.

    Raises
    ------
    typer.Exit, click.UsageError
        Where it does not.
    """
    command = get_command(app)
    context = typer.Context(command)
    rest = words
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, rest)
        assert command is not None, name
    return dict(command.make_context(name, rest, parent=context).params)
