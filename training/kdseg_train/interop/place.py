"""Whether something new can be written in a place."""

import os
from pathlib import Path

from napari_kdseg.errors import ModelError


def check_place(out: Path) -> None:
    """Refuse a place that is taken or cannot be written to, before work is done.

    Raises
    ------
    ModelError
        Naming the folder and what to do.
    """
    if out.exists() or out.is_symlink():
        raise ModelError(
            f"{out} exists already, and a published model never changes. Choose "
            "another name, or move the old one away."
        )
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ModelError(
            f"{parent} cannot be written to, so {out.name} cannot go there. Choose "
            "another place with --out."
        )
