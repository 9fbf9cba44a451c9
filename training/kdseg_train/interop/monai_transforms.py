"""MONAI's transforms in the words of a card; those without words are refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from napari_kdseg.errors import ModelError

Rule = dict[str, Any]

_NOTHING = (
    *("LoadImage", "EnsureChannelFirst", "AddChannel", "AsChannelFirst", "EnsureType"),
    *("CastToType", "ToTensor", "ToDevice"),
)
_AFTER = ("Activations", "AsDiscrete", "Invert", "SaveImage", "EnsureType", "ToTensor")


def preprocessing_of(source: Path, before: Any, after: Any) -> dict[str, Any]:
    """What a bundle does to scans, as settings of a card.

    Parameters
    ----------
    source
        The bundle, for messages.
    before, after
        The entries ``preprocessing`` and ``postprocessing``, as plain values.

    Raises
    ------
    ModelError
        Naming the first transform without words here.
    """
    found: dict[str, Any] = {"orientation": None, "intensity": [{"kind": "none"}]}
    for transform in _listed(source, before):
        name = _name(transform)
        if name in _NOTHING:
            continue
        if name not in _READ:
            _refuse(source, transform)
        try:
            _READ[name](source, transform, found)
        except (LookupError, TypeError, ValueError) as error:
            raise ModelError(
                f"{source}: {transform.get('_target_')} lacks an argument ({error}). "
                "Get the bundle again."
            ) from error
    for transform in _listed(source, after):
        if _name(transform) not in _AFTER or transform.get("sigmoid"):
            _refuse(source, transform)
    return found


def _listed(source: Path, composed: Any) -> list[Mapping[str, Any]]:
    steps = composed.get("transforms") if isinstance(composed, Mapping) else composed
    if not isinstance(steps, list) or not all(isinstance(s, Mapping) for s in steps):
        raise ModelError(
            f"{source} does not list its transforms under preprocessing and "
            "postprocessing, as bundles do. Get it again."
        )
    return [step for step in steps if not step.get("_disabled_")]


def _name(transform: Mapping[str, Any]) -> str:
    """The transform's name, that of the dictionary form without its d."""
    name = str(transform.get("_target_")).rpartition(".")[2]
    for ending in ("Dict", "D", "d"):
        if name.endswith(ending) and name.removesuffix(ending) in (
            *_NOTHING, *_AFTER, *_READ,
        ):  # fmt: skip
            return name.removesuffix(ending)
    return name


def _refuse(source: Path, transform: Mapping[str, Any]) -> None:
    raise ModelError(
        f"{source} uses {transform.get('_target_')} in a way that has no equal here; "
        f"known are {', '.join((*_NOTHING[:2], *_READ))}. Predict with MONAI, and give "
        "the folder of predictions as the teacher."
    )


def _orientation(_: Path, transform: Mapping[str, Any], found: Rule) -> None:
    found["orientation"] = str(transform["axcodes"])


def _spacing(_: Path, transform: Mapping[str, Any], found: Rule) -> None:
    found["spacing_mm"] = [float(size) for size in transform["pixdim"]][::-1]


def _resize(source: Path, transform: Mapping[str, Any], found: Rule) -> None:
    if transform.get("mode") not in ("trilinear", "bilinear"):
        _refuse(source, transform)
    found["resize_vox"] = [int(size) for size in transform["spatial_size"]][::-1]


def _range(source: Path, transform: Mapping[str, Any], found: Rule) -> None:
    low, high = float(transform["a_min"]), float(transform["a_max"])
    to_low, to_high = float(transform["b_min"]), float(transform["b_max"])
    if not transform.get("clip"):
        _refuse(source, transform)
    deviation = (high - low) / (to_high - to_low)
    _set(source, transform, found, {
        "kind": "standard", "low": low, "high": high,
        "mean": low - to_low * deviation, "deviation": deviation,
    })  # fmt: skip


def _normalise(source: Path, transform: Mapping[str, Any], found: Rule) -> None:
    if transform.get("subtrahend") is not None or transform.get("divisor") is not None:
        _refuse(source, transform)
    if not transform.get("channel_wise") and not transform.get("nonzero"):
        _refuse(source, transform)  # one mean for all channels
    nonzero = bool(transform.get("nonzero", False))
    _set(source, transform, found, {"kind": "zscore", "nonzero": nonzero})


def _set(source: Path, transform: Mapping[str, Any], found: Rule, rule: Rule) -> None:
    """Scale by one rule; a second has no words here."""
    if found["intensity"] != [{"kind": "none"}]:
        _refuse(source, transform)
    found["intensity"] = [rule]


_READ: dict[str, Callable[[Path, Mapping[str, Any], Rule], None]] = {
    "Orientation": _orientation,
    "Spacing": _spacing,
    "Resize": _resize,
    "ScaleIntensityRange": _range,
    "NormalizeIntensity": _normalise,
}
