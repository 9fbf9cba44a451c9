"""A commented recipe, filled in from the data it is for."""

import json
from collections.abc import Sequence
from dataclasses import replace
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
    sets = [_used(read_data_set(folder)) for folder in folders]
    classes = list(dict.fromkeys(name for found in sets for name in found.classes))
    if not classes:
        raise DataSetError(
            f"none of {', '.join(str(folder) for folder in folders)} has labels whose "
            f"classes are named; a recipe of {method} needs some. In a project, "
            "name them with Classes… in the Volumes dock."
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
        _split_line(method),
        f"classes: {json.dumps(classes)}",
        *_lines_of(method, sets[0]),
        "",
    ]
    write_text_atomic(out, "\n".join(lines))


def _used(found: DataSet) -> DataSet:
    """The data set without what its project leaves out."""
    cases = tuple(case for case in found.cases if not case.left_out)
    if cases == found.cases:
        return found
    classes = dict.fromkeys(name for case in cases for name in case.values)
    kept = tuple(name for name in found.classes if name in classes)
    return replace(found, cases=cases, classes=kept)


def _data_lines(sets: Sequence[DataSet], folders: Sequence[Path]) -> list[str]:
    lines = [
        "data:      # classes not named under `annotated` are unknown, not background"
    ]
    for found, folder in zip(sets, folders, strict=True):
        path, count = json.dumps(str(folder.resolve())), len(found.cases)
        drawn = {frozenset(case.annotated) for case in found.cases if case.label}
        if len(drawn) > 1:
            said = "what was drawn differs, as the project says"
            lines.append(f"  - {{path: {path}}}   # {count} cases; {said}")
            continue
        every = drawn.pop() if drawn else found.classes
        names = json.dumps([name for name in found.classes if name in every])
        lines.append(f"  - {{path: {path}, annotated: {names}}}   # {count} cases")
    return lines


def _split_line(method: str) -> str:
    if method == "kd-net":
        return "split: {test: 0.0, validation: 0.1, seed: 0}   # folds test"
    return "split: {test: 0.2, validation: 0.0, seed: 0}   # by scan, never by slice"


def _lines_of(method: str, found: DataSet) -> list[str]:
    if method == "cross-teaching":
        return _cross_teaching_lines(found)
    if method == "kd-net":
        return _kd_net_lines(found)
    if method == "medaka":
        return _medaka_lines(found)
    preprocessing, network = _preprocessing_lines(found), _network_lines(found)
    return [*preprocessing, *network, *_method_lines(method)]


def _cross_teaching_lines(found: DataSet) -> list[str]:
    rule = "{kind: percentile}   # no CT: 0.5 to 99.5 % of the values, not HU"
    if _is_ct(found):
        rule = "{kind: window_zscore, low: -300, high: 300}   # HU"
    return [
        "# Cases without labels, or with none `annotated`, are learnt from as well.",
        *_intensity(rule, "-1     # air, about"),
        "  resize_vox: [96, 96, 96]   # the whole volume, whatever its size in mm",
        "network: {name: se_resunet, parameters: {width: 32, separable: true}}",
        "patch_vox: [96, 64, 96]   # z, y, x",
        "training: {epochs: 1000, iterations_per_epoch: 100}  # 2 a case",
        "teaching: {consistency_weight: 0.1, labelled_distillation: 10, "
        "unlabelled_distillation: 10}",
        "baseline: false   # also train the student on the labelled cases alone",
        "seed: 0",
    ]


def _kd_net_lines(found: DataSet) -> list[str]:
    channel = "t1ce" if "t1ce" in found.channels else found.channels[0]
    rule = "{kind: zscore, nonzero: true}   # skull-stripped: 0 stays 0"
    return [
        *_intensity(rule, "0"),
        "network: {name: unet, parameters: {width: 30, stages: 5, skips: 4}}",
        "patch_vox: [64, 64, 64]   # z, y, x; the paper crops 128 and halves",
        f"student_channel: {json.dumps(channel)}   # what the student sees of "
        f"{', '.join(found.channels)}",
        "folds: 3              # cross-validation; 1 with split.test above 0: none",
        "baseline: true        # the student's network without a teacher",
        "distillation: {imitation: 0.75, bottleneck_weight: 10, temperature: 5}",
        "seed: 0",
    ]


def _medaka_lines(found: DataSet) -> list[str]:
    patch = [min(256, -(-size // 32) * 32) for size in _largest_slice(found)]
    return [
        "unlabelled: []   # scans to be pseudo-labelled, as [{path: more}]",
        *_preprocessing_lines(found),
        "network: {name: resnet18-unet}",
        f"patch_vox: [{patch[0]}, {patch[1]}]   # y, x of slices",
        "teacher_training: {epochs: 15, iterations_per_epoch: 250, batch: 64}",
        "training: {epochs: 5, iterations_per_epoch: 250, batch: 64}   # the student's",
        "distillation: {alpha: 0.1, temperature: 4}",
        "quality:              # which slices are good enough to learn from",
        "  source: proxy       # judged by labels; as in the paper: reviews, people's",
        "  # reviews: verdicts.csv",
        "  # labels: predictions     # the folder of those that were judged",
        "seed: 0",
    ]


def _is_ct(found: DataSet) -> bool:
    lowest = 0.0
    for case in found.cases[:ENOUGH_CASES_TO_LOOK_AT]:
        data = formats.read_volume(case.images[0]).data
        lowest = min(lowest, float(data[:].min()))
    return found.channels[0].upper() == "CT" or lowest < CT_LOWEST


def _preprocessing_lines(found: DataSet) -> list[str]:
    if _is_ct(found):
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
    height, width = _largest_slice(found)
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


def _largest_slice(found: DataSet) -> tuple[int, int]:
    height, width = 1, 1
    for case in found.cases[:ENOUGH_CASES_TO_LOOK_AT]:
        grid = formats.inspect_volume(case.images[0]).grid
        _, y, x = Orientation.between(grid, ORIENTATION).shape
        height, width = max(height, y), max(width, x)
    return height, width


def _method_lines(method: str) -> list[str]:
    if method != "ms-kd":
        return []
    return [
        "distillation:",
        "  background_weight: 1    # lambda 1 of eq. 8",
        "  feature_weight: 10      # lambda 2; 0: logits-wise supervision alone",
    ]
