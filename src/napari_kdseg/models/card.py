"""The card of a model: everything about it but the weights, checked when read."""

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveFloat,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from napari_kdseg.errors import ModelError
from napari_kdseg.models.parameters import (
    CLASSIFIERS,
    NetworkSpec,
    multiples,
    parameters_of,
)
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Preprocessing
from napari_kdseg.volumes.volume import Grid

VERSION = 1
"""Format of the model folder that is written; older ones are read, newer refused."""

# Letters of any script first, then also spaces and . _ + -: no separators, no "..",
# nothing that Windows forbids. The name becomes a folder beside each prediction.
_SAFE_NAME = re.compile(r"[^\W_](?:[\w .+-]{0,78}[\w+-])?")


@runtime_checkable  # tests check every annotation while they run
class ScannedGrid(Protocol):
    """What can be asked to fit a model: a volume, or a file's header."""

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        ...

    @property
    def channels(self) -> tuple[str, ...]:
        """What each channel shows."""
        ...


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tiling(_Part):
    """How a volume is cut for the network, and how the pieces are put together."""

    tile_vox: tuple[int, ...] = Field(
        description="two sizes: slices, y and x; three: z, y, x"
    )
    overlap: float = Field(0.5, ge=0, lt=1, description="share of a tile, by axis")
    blending: Literal["gaussian", "constant"] = Field(
        "gaussian", description="weights of a tile's logits, or all the same"
    )
    batch: int = Field(1, ge=1, description="tiles that go through the network at once")
    placing: Literal["monai", "nnunet"] = Field(
        "monai",
        description="where tiles lie and how a gaussian falls off: as MONAI's, the "
        "last pulled back, or as nnU-Net's, spread evenly",
    )
    mirror: tuple[int, ...] = Field(
        (),
        description="axes, 0 the first of a tile, that are mirrored; logits of all "
        "ways to mirror are averaged, which takes 2, 4 or 8 times as long",
    )
    air_up_to: float | None = Field(
        None,
        description="tiles without a value above this, as scaled for the network, are "
        "background and are not computed; none: all are",
    )

    @model_serializer(mode="wrap")
    def _without_what_says_nothing(
        self, handler: Callable[["Tiling"], dict[str, Any]]
    ) -> dict[str, Any]:
        # Settings that came later leave the fingerprints of older models as they were.
        values = handler(self)
        if self.placing == "monai":
            values.pop("placing", None)
        if not self.mirror:
            values.pop("mirror", None)
        return values

    @model_validator(mode="after")
    def _mirrors_its_axes(self) -> "Tiling":
        axes = set(self.mirror)
        if len(axes) < len(self.mirror) or not axes <= set(range(len(self.tile_vox))):
            raise ValueError(
                f"mirror is {list(self.mirror)}; a tile has the axes 0 to "
                f"{len(self.tile_vox) - 1}, each at most once"
            )
        return self

    @field_validator("tile_vox")
    @classmethod
    def _two_or_three(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if len(sizes) not in (2, 3) or min(sizes) < 1:
            raise ValueError("give two sizes (y, x) or three (z, y, x), all above 0")
        return sizes


def _positive(counts: dict[str, int]) -> dict[str, int]:
    if any(count < 1 for count in counts.values()):
        raise ValueError("each class keeps at least 1 component")
    return counts


class Postprocessing(_Part):
    """What is cleaned up in the labels, class by class."""

    keep_largest: dict[str, int] = Field(
        default_factory=dict, description="class -> how many components stay"
    )
    fill_holes: tuple[str, ...] = Field((), description="classes without holes")
    minimum_mm3: float = Field(
        0.0, ge=0, description="components below this volume are removed"
    )

    @field_validator("keep_largest")
    @classmethod
    def _at_least_one(cls, counts: dict[str, int]) -> dict[str, int]:
        return _positive(counts)


class CoarseToFine(_Part):
    """How a composite model goes from the whole volume to a box, and into the box."""

    margin: float = Field(
        1.1, ge=1, description="sides of the box, in sides of what the coarse one found"
    )
    fallback_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        (240.0, 160.0, 240.0),
        description="central box along z, y, x where the coarse one finds nothing",
    )
    keep_largest: dict[str, int] = Field(
        default_factory=dict,
        description="class -> how many components stay, in both passes; what a "
        "model's own card says comes first, and of all others 1 stays",
    )

    @field_validator("keep_largest")
    @classmethod
    def _at_least_one(cls, counts: dict[str, int]) -> dict[str, int]:
        return _positive(counts)


class Calibration(_Part):
    """From a classifier's z to ``P(good) = 1 / (1 + exp(-(slope z + intercept)))``."""

    slope: float = Field(1.0, gt=0, description="above 0: the order of slices stays")
    intercept: float = 0.0
    threshold: float = Field(
        0.5, ge=0, description="slices with at least this P(good) are accepted"
    )
    chosen: str = Field("", description="how the threshold was chosen, in words")


class Provenance(_Part):
    """Where a model comes from; nothing here changes its labels."""

    method: str = Field("", description="such as ms-kd")
    recipe: dict[str, JsonValue] | None = Field(None, description="as resolved")
    data_fingerprint: str = Field("", description="SHA-256 of the training data")
    teachers: tuple[str, ...] = Field((), description="fingerprints of its teachers")
    versions: dict[str, str] = Field(default_factory=dict, description="of packages")
    metrics: dict[str, JsonValue] = Field(default_factory=dict)
    created_utc: str = Field("", description="ISO 8601")


class ModelCard(_Part):
    """What a model segments, in what, how, and where it comes from."""

    version: Literal[1] = 1
    name: str = Field(description="also the name of its folder in predictions")
    role: Literal["teacher", "student", "quality-classifier", "composite"] = "student"
    network: NetworkSpec
    channels: tuple[str, ...] = Field(min_length=1, description="in their order")
    classes: LabelSet = Field(description="in the order of the network, background off")
    preprocessing: Preprocessing = Field(default_factory=Preprocessing)
    tiling: Tiling
    postprocessing: Postprocessing = Field(default_factory=Postprocessing)
    coarse_to_fine: CoarseToFine | None = Field(
        None, description="of a composite, whose card else is that of its fine model"
    )
    calibration: Calibration | None = Field(
        None, description="of a quality-classifier, which has classes to look at"
    )
    spacing_range_mm: tuple[float, float] | None = Field(
        None, description="least and largest voxel spacing it is for, of every axis"
    )
    provenance: Provenance = Field(default_factory=Provenance)
    licence: str = Field("not stated", description="of the weights")
    description: str = ""

    @property
    def dimensions(self) -> Literal[2, 3]:
        """2 where the network sees slices, 3 where it sees volumes."""
        return 2 if len(self.tiling.tile_vox) == 2 else 3

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not _SAFE_NAME.fullmatch(name):
            raise ValueError(
                "a name begins with a letter or a digit and has up to 80 letters, "
                "digits, spaces and . _ + -; it becomes a folder, so no / and no \\"
            )
        return name

    @field_validator("network")
    @classmethod
    def _complete(cls, spec: NetworkSpec) -> NetworkSpec:
        # With every setting written down, a later default changes no old model.
        try:
            parameters = parameters_of(spec)
        except ModelError as error:
            raise ValueError(str(error)) from error
        return NetworkSpec(
            name=spec.name, parameters=parameters.model_dump(mode="json")
        )

    @field_validator("spacing_range_mm")
    @classmethod
    def _ordered(cls, limits: tuple[float, float] | None) -> tuple[float, float] | None:
        if limits is not None and not 0 < limits[0] <= limits[1]:
            raise ValueError("give the least and the largest spacing, both above 0")
        return limits

    @model_validator(mode="after")
    def _parts_agree(self) -> "ModelCard":
        if not self.classes.classes:
            raise ValueError("classes is empty; a model has at least one class")
        if len(set(self.channels)) < len(self.channels):
            raise ValueError("each channel needs a name of its own")
        count = len(self.preprocessing.intensity)
        if count not in (1, len(self.channels)):
            raise ValueError(
                f"preprocessing.intensity has {count} entries for "
                f"{len(self.channels)} channels; give one for all, or one a channel"
            )
        self._check_tile()
        self._check_classifier()
        self._check_scheme()
        if (self.role == "composite") != (self.coarse_to_fine is not None):
            raise ValueError(
                f"the role is {self.role} and coarse_to_fine is "
                f"{'missing' if self.coarse_to_fine is None else 'given'}; a composite "
                "has it and no other model"
            )
        cleaned = {*self.postprocessing.keep_largest, *self.postprocessing.fill_holes}
        strangers = sorted(cleaned - set(self.classes.names))
        if strangers:
            raise ValueError(
                f"postprocessing names {strangers[0]!r}, which is no class; the "
                f"classes are {', '.join(self.classes.names)}"
            )
        return self

    def _check_classifier(self) -> None:
        has_network = self.network.name in CLASSIFIERS
        judges = self.role == "quality-classifier"
        if not judges == has_network == (self.calibration is not None):
            raise ValueError(
                f"the role is {self.role}, the network {self.network.name} and "
                f"calibration {'missing' if self.calibration is None else 'given'}; a "
                f"quality-classifier has {' or '.join(CLASSIFIERS)} and a calibration, "
                "and no other model has either"
            )

    def _check_scheme(self) -> None:
        if self.preprocessing.scheme != "nnunet":
            return
        if self.role in ("composite", "quality-classifier"):
            raise ValueError(
                f"the role is {self.role} and preprocessing.scheme nnunet; that scheme "
                "is for a model that predicts alone"
            )

    def _check_tile(self) -> None:
        parameters, tile = parameters_of(self.network), self.tiling.tile_vox
        if parameters.dimensions != self.dimensions:
            raise ValueError(
                f"tiling.tile_vox has {self.dimensions} sizes and the network is "
                f"{parameters.dimensions}D; both must agree"
            )
        divisors = parameters.divisors
        if any(size % by for size, by in zip(tile, divisors, strict=True)):
            raise ValueError(
                f"tiling.tile_vox is {list(tile)}; this network takes multiples of "
                f"{multiples(divisors)}"
            )

    def check_fits(self, scan: ScannedGrid, name: str = "") -> None:
        """Refuse a volume that this model is not for.

        Parameters
        ----------
        scan
            A volume, or the header of a file.
        name
            What to call it in the message; none given: its case id or file.

        Raises
        ------
        ModelError
            When channels, spacing or dimensions do not fit; says what would.
        """
        own = getattr(scan, "name", None) or getattr(scan, "path", "The volume")
        called = name or str(own)
        if self.role == "quality-classifier":
            raise ModelError(
                f"{self.name} is a quality-classifier: it judges the slices of a "
                f"prediction and does not segment {called}. Take a segmentation model."
            )
        self._check_channels(called, scan.channels)
        if self.dimensions == 3 and min(scan.grid.shape) < 2:
            raise ModelError(
                f"{called} has {_by(scan.grid.shape)} voxels (z, y, x), one slice, "
                f"and {self.name} is a 3D model; it needs a stack. Take a 2D model."
            )
        if self.spacing_range_mm is None:
            return
        low, high = self.spacing_range_mm
        # A spacing that a file rounded to four digits is still the same spacing.
        if any(
            not low * 0.999 <= spacing <= high * 1.001
            for spacing in scan.grid.spacing_mm
        ):
            raise ModelError(
                f"{called} has a spacing of {_by(scan.grid.spacing_mm)} mm (z, y, x); "
                f"{self.name} is for {low:g} to {high:g} mm. Resample the volume, or "
                "take a model for this spacing."
            )

    def _check_channels(self, called: str, channels: tuple[str, ...]) -> None:
        wanted, found = ", ".join(self.channels), ", ".join(channels)
        if len(channels) != len(self.channels):
            raise ModelError(
                f"{called} has {_count(len(channels), 'channel')} ({found}); "
                f"{self.name} takes {len(self.channels)} ({wanted}). Give it these "
                "channels in this order."
            )
        if channels != self.channels and set(channels) == set(self.channels):
            raise ModelError(
                f"{called} has the channels {found}; {self.name} takes {wanted}. "
                "Give it the same channels in this order."
            )

    def what_changes_labels(self) -> dict[str, JsonValue]:
        """Give the parts of the card that a prediction depends on, as JSON values."""
        parts = {
            "network",
            "channels",
            "classes",
            "preprocessing",
            "tiling",
            "postprocessing",
        }
        found = self.model_dump(mode="json", include=parts)
        # Settings that came later leave the fingerprints of older models as they were.
        if self.preprocessing.resize_vox is None:
            del found["preprocessing"]["resize_vox"]
        if self.tiling.air_up_to is None:
            del found["tiling"]["air_up_to"]
        if self.coarse_to_fine is not None:
            found["coarse_to_fine"] = self.coarse_to_fine.model_dump(mode="json")
        if self.calibration is not None:
            found["calibration"] = self.calibration.model_dump(mode="json")
        return found


def portable_card(card: ModelCard) -> dict[str, JsonValue]:
    """Give the card as JSON values for a file of another form, without the recipe.

    A recipe names folders of the computer it ran on, and files of other forms travel.
    """
    provenance = card.provenance.model_copy(update={"recipe": None})
    named = card.model_copy(update={"provenance": provenance})
    found: dict[str, JsonValue] = named.model_dump(mode="json")
    return found


def in_words(card: ModelCard, fingerprint: str) -> str:
    """Write a card for people, as Markdown."""
    classes = "\n".join(f"| {c.value} | {c.name} |" for c in card.classes.classes)
    made_by = card.provenance.method or "unknown method"
    made_on = card.provenance.created_utc or "an unknown day"
    asked = (
        "any spacing"
        if card.spacing_range_mm is None
        else f"{card.spacing_range_mm[0]:g} to {card.spacing_range_mm[1]:g} mm"
    )
    lines = [
        f"# {card.name}",
        "",
        card.description or "No description was given.",
        "",
        f"- A {card.dimensions}D {card.network.name}, {card.role}.",
        f"- Takes {_count(len(card.channels), 'channel')}: {', '.join(card.channels)}; "
        f"{asked}.",
        f"- Works at {_working_size(card.preprocessing)}.",
        f"- Tiles of {_by(card.tiling.tile_vox)} voxels, overlap "
        f"{card.tiling.overlap:g}, {card.tiling.blending} blending.",
        f"- Made by {made_by} on {made_on}.",
        *(f"- Taught by {teacher[:12]}." for teacher in card.provenance.teachers),
        f"- Licence of the weights: {card.licence}.",
        f"- Fingerprint: `{fingerprint}`",
        "",
        "| Value | Class |",
        "| ---: | :--- |",
        "| 0 | background |",
        classes,
        "",
        "Everything a program needs is in `model.yaml`; the weights are in "
        + (
            "`coarse` and `fine`, two model folders."
            if card.role == "composite"
            else "`weights.safetensors`."
        ),
        "",
    ]
    return "\n".join(lines)


def in_brief(error: ValidationError) -> str:
    """Say in a phrase what is wrong with a card."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"the key {key!r} is unknown to this version; remove it if it is a slip"
    if first["type"] == "missing":
        return f"the key {key!r} is missing; every card has it"
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    # A whole mapping is no help in a message; a single value is.
    found = first["input"]
    shown = f" (found {found!r})" if isinstance(found, str | int | float) else ""
    return f"{key}: {message}{shown}" if key else message


def _working_size(preprocessing: Preprocessing) -> str:
    if preprocessing.resize_vox is not None:
        return f"{_by(preprocessing.resize_vox)} voxels (z, y, x), whatever the scan's"
    if preprocessing.spacing_mm is not None:
        return f"{_by(preprocessing.spacing_mm)} mm (z, y, x)"
    return "the spacing of the scan"


def _by(values: Sequence[float | None]) -> str:
    return " x ".join("any" if value is None else f"{value:g}" for value in values)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
