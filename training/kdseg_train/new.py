"""A commented recipe, filled in from the data it is for."""

import json
from collections.abc import Sequence
from pathlib import Path

from kdseg_train.layouts import DataSet, read_data_set
from kdseg_train.methods import module_of
from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import DataSetError, UsageError
from napari_kdseg.volumes import formats
from napari_kdseg.volumes.orientation import Orientation

ENOUGH_CASES_TO_LOOK_AT = 5
LARGEST_PATCH = 512
CT_LOWEST = -500
ORIENTATION = "RAS"


def new_recipe(method: str, folders: Sequence[Path], out: Path) -> None:
    """Write a recipe for a method on some data sets; every line says what it does.

    Patch size, orientation and intensity rule are read off the first cases. MS-KD wants
    one organ a data set: each set is taken to annotate its own classes alone.

    Raises
    ------
    UsageError
        Where the recipe exists already, or there is no such method.
    DataSetError
        Where a folder is no data set, or its cases have no labels.
    """
    module = module_of(method)
    if out.exists():
        raise UsageError(f"{out} exists already; choose another name or move it away.")
    sets = [read_data_set(folder) for folder in folders]
    classes = list(dict.fromkeys(name for found in sets for name in found.classes))
    if not classes:
        raise DataSetError(
            f"none of {', '.join(str(folder) for folder in folders)} has labels; a "
            f"recipe of {method} needs some."
        )
    lines = [
        f"# {module.TITLE}",
        "# Settings left out have the paper's values: kdseg-train describe " + method,
        "version: 1",
        "command: fit",
        f"method: {method}",
        f"name: {json.dumps(out.stem)}                     # of the resulting model",
        "licence: not stated                # of the resulting weights",
        *_data_lines(sets, folders),
        "split: {test: 0.2, validation: 0.0, seed: 0}   # by scan, never by slice",
        f"classes: {json.dumps(classes)}",
        *_preprocessing_lines(sets[0]),
        *_network_lines(sets[0]),
        *_method_lines(method),
        "",
    ]
    write_text_atomic(out, "\n".join(lines))


def _data_lines(sets: Sequence[DataSet], folders: Sequence[Path]) -> list[str]:
    lines = [
        "data:      # classes not named under `annotated` are unknown, not background"
    ]
    for found, folder in zip(sets, folders, strict=True):
        names, path = json.dumps(found.classes), json.dumps(str(folder.resolve()))
        lines.append(
            f"  - {{path: {path}, annotated: {names}}}   # {len(found.cases)} cases"
        )
    return lines


def _preprocessing_lines(found: DataSet) -> list[str]:
    lowest = 0.0
    for case in found.cases[:ENOUGH_CASES_TO_LOOK_AT]:
        data = formats.read_volume(case.images[0]).data
        lowest = min(lowest, float(data[:].min()))
    if found.channels[0].upper() == "CT" or lowest < CT_LOWEST:
        rule = "{kind: window, low: -325, high: 325}   # HU, linear to -1..1"
        return _intensity(rule, "-1     # air")
    return _intensity("{kind: zscore}", "0")


def _intensity(rule: str, pad: str) -> list[str]:
    return [
        "preprocessing:",
        f"  orientation: {ORIENTATION}    # axes are flipped and swapped to this",
        "  intensity:",
        f"    - {rule}",
        f"  pad_value: {pad}",
    ]


def _network_lines(found: DataSet) -> list[str]:
    height, width = 1, 1
    for case in found.cases[:ENOUGH_CASES_TO_LOOK_AT]:
        grid = formats.inspect_volume(case.images[0]).grid
        _, y, x = Orientation.between(grid, ORIENTATION).shape
        height, width = max(height, y), max(width, x)
    shorter = min(height, width, LARGEST_PATCH)
    stages = max(3, min(8, shorter.bit_length() - 2))
    unit = 2 ** (stages - 1)
    patch = [min(LARGEST_PATCH, -(-size // unit) * unit) for size in (height, width)]
    return [
        f"network: {{name: unet, parameters: {{width: 32, stages: {stages}}}}}",
        f"patch_vox: [{patch[0]}, {patch[1]}]   # y, x of slices; z, y, x of volumes",
        "training: {epochs: 1000, iterations_per_epoch: 250, batch: 4}",
        "seed: 0",
    ]


def _method_lines(method: str) -> list[str]:
    if method != "ms-kd":
        return []
    return [
        "distillation:",
        "  background_weight: 1    # lambda 1 of eq. 8",
        "  feature_weight: 10      # lambda 2; 0: logits-wise supervision alone",
    ]
