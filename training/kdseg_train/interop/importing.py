"""Which importer takes which source."""

from dataclasses import dataclass
from pathlib import Path

from kdseg_train.interop.monai_import import import_bundle, is_bundle
from kdseg_train.interop.nnunet import NnUNetOptions, import_nnunet, is_results_folder
from kdseg_train.interop.onnx_import import import_onnx
from kdseg_train.interop.place import check_place
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
    if source.suffix.lower() == ".onnx":
        return import_onnx(source, out, options.card)
    if is_bundle(source):
        return import_bundle(source, out, options.card)
    if is_results_folder(source):
        return import_nnunet(source, out, options)
    raise ModelError(
        f"{source} is no results folder of nnU-Net v2 (plans.json and fold_0), no "
        "MONAI bundle (configs/metadata.json) and no .onnx file. Is it a folder above "
        "or below?"
    )
