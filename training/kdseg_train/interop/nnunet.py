"""A results folder of nnU-Net v2 becomes a model.

::

    Dataset904_Hippocampus/nnUNetTrainer__nnUNetPlans__3d_fullres/
    ├── plans.json      how scans are prepared, cut and which network sees them
    ├── dataset.json    channels and classes
    └── fold_0 ... fold_4, or fold_all
        └── checkpoint_final.pth
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdseg_train.interop.nnunet_plans import Plans, read_json, read_plans
from kdseg_train.interop.untrusted import Unpacked, unpack
from napari_kdseg.errors import ModelError
from napari_kdseg.models.model import Model, ModelCard, Provenance, Tiling, save_model

PLANS, DATASET = "plans.json", "dataset.json"
ALL_FOLDS = ("0", "1", "2", "3", "4")
# Trainers of the package that change how is learnt, and neither network nor inference.
_KNOWN_TRAINER = re.compile(
    r"nnUNetTrainer(_\d+epochs?|NoMirroring|_onlyMirror01|DA5|DAOrd0|NoDA|DiceCELoss"
    r"(_noSmooth)?|DiceLoss|CELoss|TopkLoss\w*|Adam\w*|CosAnneal|_noDeepSupervision"
    r"|SGD|probabilisticOversampling\w*|DiceFocalLoss|ScaleLR\w*|Benchmark_\w+)?"
)


@dataclass(frozen=True)
class NnUNetOptions:
    """What of a results folder is taken over."""

    folds: tuple[str, ...] | None = None
    """None: all five, or ``all`` where that was trained."""
    checkpoint: str = "checkpoint_final.pth"
    mirror: bool = True
    """Whether to mirror as the trainer allows; 8 times as long in 3D."""


def is_results_folder(source: Path) -> bool:
    """Whether a folder looks as nnU-Net leaves its results."""
    return (source / PLANS).is_file() or any(source.glob("fold_*"))


def import_nnunet(source: Path, out: Path, options: NnUNetOptions) -> Model:
    """Read a results folder and write a model folder.

    Raises
    ------
    ModelError
        When a file or a fold is missing, or the folder asks for something that only
        nnU-Net's own code can do; says what would help.
    """
    for name in (PLANS, DATASET):
        if not (source / name).is_file():
            raise ModelError(
                f"{source} has no {name}; the folder of a configuration, such as "
                "nnUNetTrainer__nnUNetPlans__3d_fullres, has plans.json, dataset.json "
                "and its folds. Give that folder."
            )
    folds = _folds(source, options)
    parts = []
    for fold in folds:
        with tempfile.TemporaryDirectory() as scratch:
            path = source / f"fold_{fold}" / options.checkpoint
            parts.append(unpack(path, Path(scratch)))
    _check_trainers(source, folds, parts)
    return _save(source, out, options, folds, parts)


def _save(
    source: Path,
    out: Path,
    options: NnUNetOptions,
    folds: Sequence[str],
    parts: Sequence[Unpacked],
) -> Model:
    configuration = str(parts[0].facts.get("init_args", {}).get("configuration"))
    dataset = read_json(source / DATASET)
    plans = read_plans(source / PLANS, configuration, dataset)
    card = ModelCard(
        name=out.name,
        role="teacher",
        network=plans.network(len(parts)),
        channels=plans.channels,
        classes=plans.classes,
        preprocessing=plans.preprocessing,
        tiling=Tiling(
            tile_vox=plans.patch_vox,
            overlap=0.5,
            placing="nnunet",
            mirror=_mirror(parts[0]) if options.mirror else (),
        ),
        provenance=Provenance(method="nnU-Net v2"),
        licence=str(dataset.get("licence") or "not stated"),
        description=_described(source, configuration, folds, parts[0]),
    )
    return save_model(out, card, _network(source, card, parts, plans))


def _folds(source: Path, options: NnUNetOptions) -> tuple[str, ...]:
    there = tuple(
        sorted(
            folder.name.removeprefix("fold_")
            for folder in source.glob("fold_*")
            if (folder / options.checkpoint).is_file()
        )
    )
    wanted = options.folds
    if wanted is None:
        wanted = ("all",) if there == ("all",) else ALL_FOLDS
    missing = [fold for fold in wanted if fold not in there]
    if not missing:
        return wanted
    if not there:
        raise ModelError(
            f"{source} has no fold with a {options.checkpoint}; a model comes from "
            "fold_0 to fold_4 or fold_all. Finish the training, or name another file "
            "with --checkpoint."
        )
    raise ModelError(
        f"{source} has {options.checkpoint} in fold {', '.join(there)} and not in "
        f"{', '.join(missing)}; nnU-Net averages all that are named. Train the "
        f"missing, or take those there are with --folds {','.join(there)}."
    )


def _check_trainers(
    source: Path, folds: Sequence[str], parts: Sequence[Unpacked]
) -> None:
    for fold, part in zip(folds, parts, strict=True):
        trainer = str(part.facts.get("trainer_name"))
        if not _KNOWN_TRAINER.fullmatch(trainer):
            raise ModelError(
                f"{source / f'fold_{fold}'} was trained by {trainer}; a trainer that "
                "is not nnU-Net's own may change network and inference, which only "
                "its code knows. Predict with nnU-Net, and give the folder of "
                "predictions as the teacher."
            )


def _mirror(part: Unpacked) -> tuple[int, ...]:
    axes = part.facts.get("inference_allowed_mirroring_axes") or ()
    return tuple(int(axis) for axis in axes)


def _described(
    source: Path, configuration: str, folds: Sequence[str], part: Unpacked
) -> str:
    which = f"fold {folds[0]}" if len(folds) == 1 else f"folds {', '.join(folds)}, mean"
    return (
        f"{source.parent.name}, {configuration}, {which}, trained by nnU-Net v2's "
        f"{part.facts['trainer_name']}."
    )


# ---- weights ----


def _network(
    source: Path, card: ModelCard, parts: Sequence[Unpacked], plans: Plans
) -> Any:
    import torch

    from napari_kdseg.models.networks import build

    with torch.device("meta"):
        network = build(card.network, len(card.channels), card.classes.count)
    named = {
        f"members.{number}.{own}": value
        for number, part in enumerate(parts)
        for name, value in part.weights.items()
        if (own := own_name(name, plans.levels)) is not None
    }
    wanted = {name: value.shape for name, value in network.state_dict().items()}
    shapes = {name: value.shape for name, value in named.items()}
    for name in sorted(wanted.keys() | shapes.keys()):
        if wanted.get(name) != shapes.get(name):
            raise ModelError(
                f"{source} has weights of {_shape(shapes.get(name))} where its plans "
                f"promise {_shape(wanted.get(name))} ({name}); plans and checkpoint "
                "are of two trainings. Copy the folder anew."
            )
    network.load_state_dict(named, assign=True)
    return network


_RENAMED = (
    (re.compile(r"encoder\.stem\.convs\.0\.(.+)"), r"stem.\1"),
    (re.compile(r"encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.(.+)"), r"encoder.\1.\2.\3"),
    (re.compile(r"(encoder\.)stages\.(\d+)\.blocks\.(.+)"), r"\1\2.\3"),
)
_PARTS = (("conv1.", "first."), ("conv2.", "second."))
_SKIP = re.compile(r"skip\.\d+\.")
_DECODER = re.compile(r"decoder\.(stages|transpconvs|seg_layers)\.(\d+)\.(.+)")


def own_name(name: str, levels: int) -> str | None:
    """What a tensor of nnU-Net's networks is called in ours; None: one kept twice.

    Parameters
    ----------
    name
        In the checkpoint.
    levels
        Stages of the decoder, which nnU-Net counts from the coarsest.
    """
    name = name.removeprefix("module.").removeprefix("_orig_mod.")
    if ".all_modules." in name or name.startswith("decoder.encoder."):
        return None
    found = _DECODER.fullmatch(name)
    if found is not None:
        return _of_decoder(found[1], levels - 1 - int(found[2]), found[3])
    for pattern, ours in _RENAMED:
        name = pattern.sub(ours, name)
    for theirs, own in _PARTS:
        name = name.replace(theirs, own)
    return _SKIP.sub("widen.", name)


def _of_decoder(part: str, level: int, rest: str) -> str | None:
    if part == "transpconvs":
        return f"up.{level}.{rest}"
    if part == "seg_layers":  # the others are for deep supervision
        return f"head.{rest}" if level == 0 else None
    return f"decoder.{level}.{rest.removeprefix('convs.')}"


def _shape(shape: Any) -> str:
    return "nothing" if shape is None else str(list(shape))
