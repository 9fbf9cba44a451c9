"""Recipes: everything a training run depends on, checked before it starts.

A recipe is a YAML file. Unknown keys are refused, every field carries its default, its
limits and the text that a form shows. The defaults are the MS-KD paper's numbers where
it gives any (arXiv 2108.02559, section 3.1), else those of nnU-Net v1, whose training
constants the paper shares.
"""

import difflib
import re
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from napari_kdseg.errors import ModelError, RecipeError
from napari_kdseg.models.parameters import NetworkSpec, multiples, parameters_of
from napari_kdseg.shipped import recipe_folder, shipped_recipes
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing

AnyConfig = TypeVar("AnyConfig", bound=BaseModel)
MAY_CHANGE = ("device", "threads")
"""Settings of a prediction that whoever goes on with it may choose anew."""

_NUMBERS = re.compile(r"[-+]?[\d.]+(, ?[-+]?[\d.]+)+")


class Settings(BaseModel):
    """A group of settings: frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataEntry(Settings):
    """Cases of one data set, and what their labels speak about."""

    path: Path = Field(description="folder of the data set, or of images alone")
    annotated: tuple[str, ...] | None = Field(
        None,
        description="classes these labels speak about; all others are unknown here "
        "and never count as background. Nothing given: every class of the data set",
    )
    map: dict[str, tuple[int, ...]] = Field(
        default_factory=dict, description="class -> stored label values that mean it"
    )
    cases: str | tuple[str, ...] | None = Field(
        None, description='sorted case ids as a slice, "0:120", or a list of ids'
    )
    exclude: tuple[str, ...] = Field((), description="case ids to leave out")
    intensity_offset: float = Field(0.0, description="added to every voxel on reading")


class Split(Settings):
    """How cases are divided; always by scan, never by slice."""

    test: float = Field(0.0, ge=0, lt=1, description="share kept for testing")
    validation: float = Field(0.0, ge=0, lt=1, description="share that only curves see")
    seed: int = Field(0, ge=0)


class Augmentation(Settings):
    """Random changes of training patches; the paper names none."""

    probability: float = Field(0.3, ge=0, le=1, description="of each kind of change")
    rotation_degrees: float = Field(15.0, ge=0, le=180, description="in the slice")
    scale: float = Field(0.2, ge=0, lt=1, description="largest zoom, 0.2 = 20 %")
    noise: float = Field(0.05, ge=0, description="largest standard deviation of noise")
    contrast: float = Field(0.2, ge=0, lt=1, description="largest change of contrast")
    brightness: float = Field(0.1, ge=0, description="largest shift of brightness")
    gain: float = Field(
        0.0, ge=0, lt=1, description="largest part by which all values grow or shrink"
    )
    noise_probability: float | None = Field(
        None, ge=0, le=1, description="none: as of each other kind of change"
    )
    each_axis: bool = Field(
        default=False,
        description="turn about each axis, and zoom along each, by itself; otherwise "
        "in the slice alone, and alike",
    )
    zoom: tuple[tuple[float, float], ...] = Field(
        ((0.5, 2.0), (0.8, 1.25), (0.8, 1.25)),
        min_length=3,
        max_length=3,
        description="least and most along z, y, x, with each_axis",
    )
    room: float = Field(
        1.0,
        ge=1,
        le=2,
        description="a volume is padded to so many times the patch, in which the patch "
        "lies anywhere; with each_axis as much is seen of what turns in",
    )
    mirror: tuple[int, ...] = Field(
        (),
        description="axes (0 1 2 for z y x) mirrored at random; none by default, "
        "since a mirrored scan swaps left and right organs",
    )


class Plateau(Settings):
    """Learning rate decay when the loss stops falling."""

    factor: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="the rate is multiplied by this; the paper says 'decays by 20 %', "
        "nnU-Net v1, whose constants it shares, to 20 %; 0.8 is the literal text",
    )
    patience_epochs: int = Field(30, ge=0)
    threshold: float = Field(1e-3, ge=0, description="least reduction of the loss")
    smoothing: float = Field(
        0.93, ge=0, lt=1, description="of the loss that is watched"
    )
    minimum_rate: float = Field(1e-6, ge=0)
    watch: Literal["training", "validation"] = Field(
        "training", description="whose loss; validation: of the cases kept apart"
    )


class Training(Settings):
    """One stage of training: optimiser, schedule, batches."""

    epochs: int = Field(1000, ge=1)
    iterations_per_epoch: int = Field(250, ge=1)
    batch: int = Field(4, ge=1)
    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: float = Field(3e-4, gt=0)
    weight_decay: float = Field(3e-5, ge=0)
    amsgrad: bool = Field(default=True, description="of adam")
    momentum: float = Field(0.99, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(default=True, description="of sgd")
    schedule: Literal["plateau", "poly", "constant"] = Field(
        "plateau", description="poly: (1 - step/steps)^0.9"
    )
    plateau: Plateau = Plateau()
    gradient_clip: float | None = Field(
        12.0, gt=0, description="norm, no paper's number; none: unlimited"
    )
    foreground: float = Field(
        0.33, ge=0, le=1, description="share of patches that contain foreground"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="bfloat16: networks run in half the bytes, losses and weights stay "
        "float32; faster on GPUs, and on processors with avx512_bf16 or AMX",
    )
    checkpoint_minutes: float = Field(10.0, gt=0)

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "Training":
        if self.optimiser == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError(
                "training.nesterov needs momentum above 0; set nesterov: false"
            )
        return self

    @property
    def steps(self) -> int:
        """Number of optimiser steps in all."""
        return self.epochs * self.iterations_per_epoch


def ct_preprocessing() -> Preprocessing:
    """HU -325 to 325, linear to -1 to 1, as the MS-KD paper has it; air outside."""
    window = Intensity(kind="window", low=-325.0, high=325.0)
    return Preprocessing(intensity=(window,), pad_value=-1.0)


class Frozen(Settings):
    """What a recipe meant on the day the run was prepared."""

    root: Path = Field(description="folder that relative data paths start from")
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    training: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    unlabelled: tuple[str, ...]
    fingerprint: str = Field(description="SHA-256 of the files and their meaning")


class Recipe(Settings):
    """What every method needs to know; each method adds its own fields."""

    version: Literal[1] = 1
    command: Literal["fit"] = "fit"
    method: str
    name: str = Field("", description="name of the resulting model")
    description: str = ""
    licence: str = Field("", description="licence of the resulting weights")
    data: tuple[DataEntry, ...] = Field(min_length=1)
    unlabelled: tuple[DataEntry, ...] = ()
    test: tuple[DataEntry, ...] = Field(
        (), description="cases for testing alone, with all the labels they have"
    )
    split: Split = Split()
    classes: tuple[str, ...] | None = Field(
        None, description="order of the classes; nothing given: as the data names them"
    )
    preprocessing: Preprocessing = Field(default_factory=ct_preprocessing)
    network: NetworkSpec = Field(
        NetworkSpec(name="unet"), description="a network and its settings"
    )
    patch_vox: tuple[int, ...] = Field(
        (512, 512), description="two numbers: slices of y, x; three: z, y, x"
    )
    overlap: float = Field(0.5, ge=0, lt=1, description="of tiles at inference")
    augmentation: Augmentation = Augmentation()
    training: Training = Training()
    examples: int = Field(
        4,
        ge=0,
        description="patches of validation cases that are pictured while it trains, "
        "at up to twenty epochs; 0: none",
    )
    seed: int = Field(0, ge=0)
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu or cuda[:N]"
    )
    threads: int | None = Field(
        None, ge=1, description="of the processor, for each process; none: all"
    )
    frozen: Frozen | None = Field(
        None, description="filled in when the run is prepared; not written by hand"
    )

    @model_validator(mode="after")
    def _patch_fits_the_network(self) -> "Recipe":
        if len(self.patch_vox) not in (2, 3) or min(self.patch_vox) < 1:
            raise ValueError(
                f"patch_vox is {self.patch_vox}: give two numbers for slices (y, x) "
                "or three for volumes (z, y, x)"
            )
        if any(not 3 - len(self.patch_vox) <= a < 3 for a in self.augmentation.mirror):
            raise ValueError(
                f"augmentation.mirror is {self.augmentation.mirror}: axes are 0, 1, 2 "
                "for z, y, x, and slices have no z"
            )
        check_patch(self.patch_vox, self.network_spec, "this network takes")
        return self

    @property
    def network_spec(self) -> NetworkSpec:
        """The network in as many dimensions as the patch has."""
        parameters = {**self.network.parameters, "dimensions": len(self.patch_vox)}
        return NetworkSpec(name=self.network.name, parameters=parameters)

    @property
    def root(self) -> Path:
        """Folder that relative paths of data sets start from."""
        return self.frozen.root if self.frozen else Path()

    def found(self, path: Path) -> Path:
        """Where something lies that the recipe names and that is no data set.

        Models, predictions and verdicts: a relative path starts from the current
        folder, as on any command line; where nothing lies there, from `root`.
        """
        return path if path.exists() else self.root / path


def check_patch(patch_vox: tuple[int, ...], spec: NetworkSpec, who_takes: str) -> None:
    """Refuse a patch that a network cannot halve as often as it does.

    Parameters
    ----------
    who_takes
        Begins the rule, such as "this network takes".

    Raises
    ------
    ValueError
        Where there is no such network, too.
    """
    try:
        divisors = parameters_of(spec).divisors
    except ModelError as error:
        raise ValueError(str(error)) from error
    if any(size % by for size, by in zip(patch_vox, divisors, strict=True)):
        raise ValueError(
            f"patch_vox is {patch_vox}: {who_takes} multiples of {multiples(divisors)}"
            "; change the patch or the number of stages"
        )


def parse(
    config_type: type[AnyConfig], values: dict[str, Any], where: str
) -> AnyConfig:
    """Check settings against their form.

    Raises
    ------
    RecipeError
        Names the file, the first key that is wrong, what is allowed there.
    """
    try:
        return config_type.model_validate(values)
    except ValidationError as error:
        raise RecipeError(_sentence(error, config_type, where)) from error


def find_recipe(name: Path) -> Path:
    """File of a recipe: a path, or the name of one that comes along (``ms-kd/small``).

    Raises
    ------
    RecipeError
        Where there is neither; the recipes that come along are listed.
    """
    shipped = recipe_folder() / name.with_suffix(".yaml")
    for path in (name, shipped):
        if path.is_file():
            return path
    raise RecipeError(
        f"there is no recipe {name}; give a file, or one of "
        f"{', '.join(shipped_recipes())}."
    )


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a recipe and put ``a.b=value`` overrides into it; values are YAML.

    Raises
    ------
    RecipeError
        Where the file is missing, is no YAML mapping, or an override is no ``a=b``.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(
            f"{path} is no YAML file ({reason}); `kdseg-train new` writes one."
        ) from error
    if not isinstance(values, dict):
        raise RecipeError(
            f"{path} holds {type(values).__name__}, a recipe is a mapping of settings; "
            "`kdseg-train new` writes one."
        )
    for override in overrides:
        apply_override(values, override)
    return values


def apply_override(
    values: dict[str, Any], override: str, option: str = "--set"
) -> None:
    """Put one ``a.b=value`` into settings; YAML, or a list of numbers as ``64,64``.

    Parameters
    ----------
    values
        Gets it.
    override, option
        As given on a command line, and behind which word.

    Raises
    ------
    RecipeError
        Where it is no ``a=b``, or ``a`` is no group.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(
            f"{option} {override!r} has no '='; write {option} {key or 'a.b'}=VALUE."
        )
    *parents, last = key.split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise RecipeError(
                f"{option} {override!r}: {parent!r} is a value, no group."
            )
        values = child
    try:
        values[last] = yaml.safe_load(f"[{text}]" if _NUMBERS.fullmatch(text) else text)
    except yaml.YAMLError as error:
        raise RecipeError(
            f"{option} {override!r}: {text!r} is no YAML value."
        ) from error


def _sentence(error: ValidationError, config_type: type[BaseModel], where: str) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _names_at(config_type, first["loc"][:-1])
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}."
        return f"{where}: unknown key {key!r}; {hint}"
    # A whole group of settings is no help in a message; a single value is.
    simple = first["type"] != "missing" and not isinstance(first["input"], dict)
    found = f" (found {first['input']!r})" if simple else ""
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {key or 'recipe'}: {message}{found}."


def _names_at(
    config_type: type[BaseModel], location: tuple[int | str, ...]
) -> list[str]:
    fields = config_type.model_fields
    for part in location:
        if isinstance(part, int) or part not in fields:
            continue
        for candidate in _models_in(fields[part].annotation):
            fields = candidate.model_fields
    return list(fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    parts = getattr(annotation, "__args__", ())
    return [found for part in parts for found in _models_in(part)]
