"""The commands about models of other tools: import, export."""

import sys
from pathlib import Path
from typing import Annotated

import typer

# Whatever else a command needs is imported inside it: --help must answer at once.


def import_model(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Results folder of nnU-Net v2, MONAI bundle, or ONNX file.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Model folder; must be new.")],
    folds: Annotated[
        str | None,
        typer.Option(help="nnU-Net: as 0,1,2 or all; several are averaged."),
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(help="nnU-Net: which file of a fold.")
    ] = "checkpoint_final.pth",
    mirror: Annotated[
        bool,
        typer.Option(
            "--mirror/--no-mirror",
            help="nnU-Net: mirror as in training; up to 8 times as long.",
        ),
    ] = True,
    card: Annotated[
        Path | None,
        typer.Option(help="A model.yaml without network, for what ONNX does not say."),
    ] = None,
) -> None:
    """Turn a model of another tool into a model folder."""
    from kdseg_train.interop.importing import ImportOptions, import_from

    options = ImportOptions(
        folds=None if folds is None else tuple(folds.split(",")),
        checkpoint=checkpoint,
        mirror=mirror,
        card=card,
    )
    model = import_from(source, out, options)
    classes = ", ".join(model.card.classes.names)
    sys.stderr.write(f"{out}: {model.card.description} It segments {classes}.\n")


def export_model(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model folder or shipped model.")
    ],
    to: Annotated[str, typer.Option(help="onnx, monai-bundle or bioimageio.")],
    out: Annotated[Path, typer.Option(help="File (onnx) or folder; must be new.")],
) -> None:
    """Write a model for another tool, its values compared before it is kept."""
    from kdseg_train.interop.exporting import export
    from napari_kdseg.models.model import Model
    from napari_kdseg.shipped import find_model

    export(Model.open(find_model(model)), to, out)
    sys.stderr.write(f"{out} is ready.\n")
