"""Which importer takes which source."""

from dataclasses import dataclass
from pathlib import Path

from kdseg_train.interop.nnunet import NnUNetOptions, import_nnunet, is_results_folder
from napari_kdseg.errors import ModelError
from napari_kdseg.models.model import Model


@dataclass(frozen=True)
class ImportOptions(NnUNetOptions):
    """What of a source is taken over, and what it does not say itself."""

    card: Path | None = None
    """A card without network."""


def import_from(source: Path, out: Path, options: ImportOptions) -> Model:
    """Turn a model of another tool into a model folder.

    Raises
    ------
    ModelError
        When it is of no kind known, or cannot become a model; nothing is written.
    """
    if not source.exists():
        raise ModelError(f"{source} does not exist; give a folder or file to import.")
    check_place(out)
    if is_results_folder(source):
        return import_nnunet(source, out, options)
    raise ModelError(
        f"{source} is no results folder of nnU-Net v2 (plans.json and fold_0), no MONAI "
        "bundle (configs/metadata.json) and no .onnx file. Is it a folder above or "
        "below?"
    )


def check_place(out: Path) -> None:
    """Refuse a place that is taken or cannot be written to, before work is done.

    Raises
    ------
    ModelError
        Naming the folder and what to do.
    """
    import os

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
