"""Which exporter writes which form, and what all of them have in common."""

import importlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kdseg_train.interop.place import check_place
from napari_kdseg.atomic import temporary_beside
from napari_kdseg.errors import ModelError, UsageError
from napari_kdseg.extras import not_installed
from napari_kdseg.models.model import Model

LARGEST_ERROR = 1e-3
"""How far logits may lie from torch's, in units of the largest of them."""
FORMS = ("onnx", "monai-bundle", "bioimageio")


def export(model: Model, form: str, out: Path) -> None:
    """Write a model for another tool, complete or not at all.

    Parameters
    ----------
    model
        With one network that segments.
    form
        One of `FORMS`.
    out
        File (``onnx``) or folder; must be new.

    Raises
    ------
    ModelError
        When the form cannot say what the model does, or gives other values.
    UsageError
        When there is no such form.
    """
    if form not in FORMS:
        raise UsageError(
            f"There is no form {form!r} to export to; choose one of {', '.join(FORMS)}."
        )
    check_single(model)
    check_place(out)
    module = importlib.import_module(f"kdseg_train.interop.{_MODULES[form]}")
    write: Callable[[Model, Path], None] = module.write
    write(model, out)


_MODULES = {
    "onnx": "onnx_export",
    "monai-bundle": "monai_export",
    "bioimageio": "bioimageio_export",
}


def check_single(model: Model) -> None:
    """Refuse what is not one segmentation network.

    Raises
    ------
    ModelError
        Saying what to export instead.
    """
    if model.parts is not None:
        raise ModelError(
            f"{model.card.name} is a composite of two networks; export its parts "
            f"{model.parts[0].folder} and {model.parts[1].folder} one by one."
        )
    if model.card.role == "quality-classifier":
        raise ModelError(
            f"{model.card.name} is a quality-classifier, which segments nothing; only "
            "segmentation models are exported."
        )


@contextmanager
def new_path(out: Path) -> Iterator[Path]:
    """A name to write under, which becomes ``out`` when all went well."""
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(out.absolute())
    try:
        yield temporary
        temporary.rename(out.absolute())
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)
        raise


def random_images(model: Model, seed: int = 0) -> list[np.ndarray]:
    """Two images to compare on: one tile, and two tiles that are longer by one step."""
    from napari_kdseg.models.parameters import parameters_of

    card, generator = model.card, np.random.default_rng(seed)
    tile = card.tiling.tile_vox
    longer = [
        size + by
        for size, by in zip(tile, parameters_of(card.network).divisors, strict=True)
    ]
    shapes: Sequence[Sequence[int]] = ((1, *tile), (2, *longer))
    return [
        generator.normal(size=(count, len(card.channels), *sides)).astype(np.float32)
        for count, *sides in shapes
    ]


def check_equal(
    name: str,
    tool: str,
    network: Any,
    run: Callable[[np.ndarray], np.ndarray],
    images: Sequence[np.ndarray],
) -> None:
    """Compare what another tool computes with what torch does.

    Raises
    ------
    ModelError
        Where it differs by more than rounding.
    """
    import torch

    for image in images:
        with torch.inference_mode():
            wanted = network(torch.from_numpy(image)).numpy()
        found = run(image)
        apart = (
            float(np.abs(found - wanted).max()) if found.shape == wanted.shape else 1
        )
        if apart > LARGEST_ERROR * max(float(np.abs(wanted).max()), 1.0):
            raise ModelError(
                f"{name} gives other values in {tool} than here ({apart:.3g} apart on "
                f"{list(image.shape)}); nothing was written. Please report this model."
            )


def traced(network: Any, image: np.ndarray) -> Any:
    """Record what a network computes, as TorchScript."""
    import torch

    with quiet(), torch.inference_mode():
        return torch.jit.trace(network, torch.from_numpy(image), check_trace=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's remarks on tracing back: what they warn of is checked after."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def needed(module: str, what: str) -> Any:
    """Import a module of an extra.

    Raises
    ------
    ModelError
        With the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(not_installed(what, module)) from error
