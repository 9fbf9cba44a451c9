"""What nnU-Net's plans say, in the words of a model's card."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_kdseg.errors import ModelError
from napari_kdseg.models.model import NetworkSpec
from napari_kdseg.volumes.labels import LabelClass, LabelSet, distinct_color
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing

_READERS = {
    "SimpleITKIO": None,
    "NibabelIO": None,
    "Tiff3DIO": None,
    "NibabelIOWithReorient": "RAS",
}
"""Readers of volumes, and where they turn the axes to."""
_NETWORKS = {"PlainConvUNet": False, "ResidualEncoderUNet": True}
_RESAMPLING = "resample_data_or_seg_to_shape"
_LARGEST_JSON_BYTES = 64_000_000


@dataclass(frozen=True)
class Plans:
    """One configuration of nnU-Net's plans."""

    channels: tuple[str, ...]
    classes: LabelSet
    preprocessing: Preprocessing
    patch_vox: tuple[int, ...]
    levels: int
    """Stages of the decoder."""
    shape: Mapping[str, Any]
    """Settings of the network but for how many are averaged."""

    def network(self, members: int) -> NetworkSpec:
        """The network, as often as there are folds."""
        return NetworkSpec(name="nnunet", parameters={**self.shape, "members": members})


def read_json(path: Path) -> dict[str, Any]:
    """Read a mapping.

    Raises
    ------
    ModelError
        When it is none.
    """
    if path.stat().st_size > _LARGEST_JSON_BYTES:
        raise ModelError(f"{path} is larger than {_LARGEST_JSON_BYTES} bytes; copy it.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no JSON ({error}). Copy it anew.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} is no mapping of settings. Copy it anew.")
    return found


def read_plans(path: Path, configuration: str, dataset: Mapping[str, Any]) -> Plans:
    """Turn a configuration of the plans into settings of ours.

    Parameters
    ----------
    path
        ``plans.json``.
    configuration
        Such as ``3d_fullres``.
    dataset
        ``dataset.json``: channels and classes.

    Raises
    ------
    ModelError
        Where they ask for something we do not do, or something is missing.
    """
    plans = read_json(path)
    try:
        own = _configuration(plans, configuration)
        if own.get("previous_stage"):
            raise ModelError(
                f"{path}: {configuration} is the second step of a cascade, which needs "
                "the labels of the first. Import 3d_fullres or 3d_lowres."
            )
        channels = tuple(str(name) for name in _channels(dataset).values())
        shape = _network(path, own)
        return Plans(
            channels=_unique(channels),
            classes=_classes(path.with_name("dataset.json"), dataset),
            preprocessing=_preprocessing(path, plans, own, len(channels)),
            patch_vox=tuple(int(size) for size in own["patch_size"]),
            levels=len(shape["widths"]) - 1,
            shape=shape,
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{path} has no good {configuration} ({type(error).__name__}: {error}); "
            "plans of nnU-Net 2.4 and newer are read. Let nnU-Net plan anew, or copy "
            "the folder again."
        ) from error


def _configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    own = dict(plans["configurations"][name])
    parent = own.pop("inherits_from", None)
    return own if parent is None else _configuration(plans, parent) | own


def _channels(dataset: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = dataset.get("channel_names") or dataset["modality"]
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        name if names.count(name) == 1 else f"{name} {place}"
        for place, name in enumerate(names)
    )


def _classes(path: Path, dataset: Mapping[str, Any]) -> LabelSet:
    labels = {
        str(name): value
        for name, value in dataset["labels"].items()
        if str(name) not in ("background", "ignore")
    }
    regions = [name for name, value in labels.items() if isinstance(value, list)]
    if regions or "regions_class_order" in dataset:
        raise ModelError(
            f"{path} has regions ({', '.join(regions)}); a voxel would be of several "
            "classes at once, and a model here gives one. Predict with nnU-Net, and "
            "give the folder of predictions as the teacher."
        )
    ordered = sorted((int(value), name) for name, value in labels.items())
    return LabelSet(
        classes=tuple(
            LabelClass(value=value, name=name, color=distinct_color(value))
            for value, name in ordered
        )
    )


# ---- how scans are prepared ----


def _preprocessing(
    path: Path, plans: Mapping[str, Any], own: Mapping[str, Any], channels: int
) -> Preprocessing:
    reader = str(plans["image_reader_writer"])
    if reader not in _READERS:
        raise ModelError(
            f"{path} reads scans with {reader}; of volumes {', '.join(_READERS)} are "
            "known. Predict with nnU-Net, and give the folder of predictions as the "
            "teacher."
        )
    _check_resampling(path, own)
    spacing = [float(size) for size in own["spacing"]]
    z, y, x = spacing if len(spacing) == 3 else (None, *spacing)
    forward = tuple(int(axis) for axis in plans["transpose_forward"])
    first, second, third = forward
    return Preprocessing(
        orientation=_READERS[reader],
        spacing_mm=(z, y, x),
        intensity=tuple(
            _intensity(path, plans, own, channel) for channel in range(channels)
        ),
        scheme="nnunet",
        axes=None if forward == (0, 1, 2) else (first, second, third),
    )


def _check_resampling(path: Path, own: Mapping[str, Any]) -> None:
    for what, order in (("data", 3), ("probabilities", 1)):
        name = own[f"resampling_fn_{what}"]
        kwargs = own[f"resampling_fn_{what}_kwargs"]
        usual = {"is_seg": False, "order": order, "order_z": 0}
        given = {key: kwargs.get(key) for key in usual}
        if name != _RESAMPLING or given != usual or kwargs.get("force_separate_z"):
            raise ModelError(
                f"{path} resamples {what} with {name} and {kwargs}; {_RESAMPLING} of "
                f"order {order} is known. Predict with nnU-Net, and give the folder of "
                "predictions as the teacher."
            )


def _intensity(
    path: Path, plans: Mapping[str, Any], own: Mapping[str, Any], channel: int
) -> Intensity:
    scheme = own["normalization_schemes"][channel]
    masked = bool(own["use_mask_for_norm"][channel])
    if scheme == "ZScoreNormalization":
        return Intensity(kind="zscore", nonzero=masked)
    if scheme == "NoNormalization":
        return Intensity(kind="none")
    if scheme == "CTNormalization":
        facts = plans["foreground_intensity_properties_per_channel"][str(channel)]
        return Intensity(
            kind="standard",
            low=facts["percentile_00_5"],
            high=facts["percentile_99_5"],
            mean=facts["mean"],
            deviation=max(facts["std"], 1e-8),
        )
    raise ModelError(
        f"{path} scales channel {channel} by {scheme}; ZScoreNormalization, "
        "CTNormalization and NoNormalization are known. Predict with nnU-Net, and give "
        "the folder of predictions as the teacher."
    )


# ---- the network ----


def _network(path: Path, own: Mapping[str, Any]) -> dict[str, Any]:
    architecture = own["architecture"]
    name = str(architecture["network_class_name"]).rpartition(".")[2]
    if name not in _NETWORKS:
        raise ModelError(
            f"{path} plans a {name}; {' and '.join(_NETWORKS)} are known. Predict with "
            "nnU-Net, and give the folder of predictions as the teacher."
        )
    given = architecture["arch_kwargs"]
    dimensions = len(own["patch_size"])
    _check_parts(path, given, dimensions)
    residual = _NETWORKS[name]
    stages = int(given["n_stages"])
    counts = given["n_blocks_per_stage" if residual else "n_conv_per_stage"]
    return {
        "dimensions": dimensions,
        "widths": [int(width) for width in given["features_per_stage"]],
        "kernels": _by_axis(given["kernel_sizes"], stages, dimensions),
        "strides": _by_axis(given["strides"], stages, dimensions),
        "encoder": _by_stage(counts, stages),
        "decoder": _by_stage(given["n_conv_per_stage_decoder"], stages - 1),
        "residual": residual,
        "bias": bool(given["conv_bias"]),
    }


def _check_parts(path: Path, given: Mapping[str, Any], dimensions: int) -> None:
    usual = {
        "conv_op": (f"Conv{dimensions}d",),
        "norm_op": (f"InstanceNorm{dimensions}d",),
        "nonlin": ("LeakyReLU",),
        "dropout_op": ("None",),
    }
    for key, allowed in usual.items():
        found = str(given.get(key)).rpartition(".")[2]
        if found not in allowed:
            raise ModelError(
                f"{path} plans a network with {key} {found}; {allowed[0]} is known. "
                "Predict with nnU-Net, and give the folder of predictions as the "
                "teacher."
            )


def _by_stage(counts: int | Sequence[int], stages: int) -> list[int]:
    return [counts] * stages if isinstance(counts, int) else [int(n) for n in counts]


def _by_axis(sizes: Any, stages: int, dimensions: int) -> list[list[int]]:
    every = [sizes] * stages if isinstance(sizes, int) else list(sizes)
    return [
        [size] * dimensions if isinstance(size, int) else [int(one) for one in size]
        for size in every
    ]
