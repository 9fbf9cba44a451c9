"""The settings of every network, checked without building it.

Reading a model's card, or filling a form, needs the names, limits and defaults of a
network's settings but not torch, so they stand here and the networks stand in
`napari_kdseg.models.networks`. Both registries have the same names.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_serializer,
    model_validator,
)

from napari_kdseg.errors import ModelError

_LARGEST_WIDTH_2D = 480
_LARGEST_WIDTH_3D = 320


class NetworkSpec(BaseModel):
    """Which network, with which settings; the settings left out have their default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="a name of PARAMETERS, such as unet")
    parameters: dict[str, JsonValue] = Field(
        default_factory=dict, description="settings that differ from the default"
    )


class NetworkParameters(BaseModel):
    """What the settings of all networks have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dimensions: Literal[2, 3] = Field(2, description="2: slices (y, x); 3: volumes")

    @property
    def divisor(self) -> int:
        """Sizes of the input must be multiples of this."""
        raise NotImplementedError


class UNetParameters(NetworkParameters):
    """Settings of the U-Net in the shape of nnU-Net v1."""

    width: int = Field(32, ge=1, description="channels of the first stage")
    stages: int = Field(8, ge=2, le=9, description="resolutions, the finest included")
    max_width: int | None = Field(
        None, ge=1, description="widest stage; none: 480 in 2D, 320 in 3D"
    )
    convolutions: int = Field(2, ge=1, le=8, description="convolutions a stage")
    down: Literal["convolution", "pool"] = Field(
        "convolution", description="halve by a strided convolution or by max pooling"
    )
    skips: int | None = Field(
        None,
        ge=0,
        description="skip connections, at the coarsest levels, since the finest show "
        "most of the scanner and least of the organ; none: at all levels",
    )

    @model_validator(mode="after")
    def _no_more_skips_than_levels(self) -> "UNetParameters":
        if self.skips is not None and self.skips >= self.stages:
            raise ValueError(
                f"a network of {self.stages} stages has at most {self.stages - 1} skips"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_says_nothing(
        self, handler: Callable[["UNetParameters"], dict[str, Any]]
    ) -> dict[str, Any]:
        # Settings that came later leave the fingerprints of older models as they were.
        values = handler(self)
        if values.get("skips") is None:
            values.pop("skips", None)
        return values

    def has_skip(self, level: int) -> bool:
        """Whether encoder and decoder are joined at a level, 0 the finest."""
        return self.skips is None or level >= self.stages - 1 - self.skips

    @property
    def divisor(self) -> int:
        """Each stage but the first halves the size."""
        return int(2 ** (self.stages - 1))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels by stage, finest first: doubled until they reach the widest."""
        widest = self.max_width or (
            _LARGEST_WIDTH_2D if self.dimensions == 2 else _LARGEST_WIDTH_3D
        )
        return tuple(min(self.width * 2**s, widest) for s in range(self.stages))


class ResNetUNetParameters(NetworkParameters):
    """Settings of the U-Net with a ResNet-18 encoder."""

    dimensions: Literal[2] = Field(2, description="slices (y, x) only")
    decoder_widths: tuple[int, int, int, int, int] = Field(
        (256, 128, 64, 32, 16), description="channels of the decoder, coarsest first"
    )

    @property
    def divisor(self) -> int:
        """The encoder halves the size five times."""
        return 32


class SEResUNetParameters(NetworkParameters):
    """Settings of the residual U-Net with squeeze and excitation."""

    dimensions: Literal[2, 3] = Field(3, description="2: slices (y, x); 3: volumes")
    width: int = Field(32, ge=1, description="channels of the first stage")
    stages: int = Field(5, ge=2, le=9, description="resolutions, the finest included")
    max_width: int = Field(512, ge=1, description="where doubling ends")
    blocks: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="residual blocks by stage, finest first; none: 1, 2, 3, ..."
    )
    upsampling: Literal["transposed", "resize"] = Field(
        "transposed",
        description="by transposed convolution, or interpolation and a convolution",
    )
    separable: bool = Field(
        default=False, description="depthwise-separable convolutions in the blocks"
    )

    @model_validator(mode="after")
    def _one_number_a_stage(self) -> "SEResUNetParameters":
        if self.blocks is not None and len(self.blocks) != self.stages:
            raise ValueError(
                f"blocks has {len(self.blocks)} numbers for {self.stages} stages; give "
                "one a stage, or none"
            )
        return self

    @property
    def divisor(self) -> int:
        """Each stage but the first halves the size."""
        return int(2 ** (self.stages - 1))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels by stage, finest first: doubled until they reach the widest."""
        return tuple(min(self.width * 2**s, self.max_width) for s in range(self.stages))

    @property
    def blocks_by_stage(self) -> tuple[int, ...]:
        """Residual blocks of each stage, finest first."""
        return self.blocks or tuple(range(1, self.stages + 1))


class QualityParameters(NetworkParameters):
    """Settings of the classifier that tells good slices from bad."""

    dimensions: Literal[2] = Field(2, description="slices (y, x) only")
    width: int = Field(
        64, ge=1, description="channels of the first stage; 64: ResNet-18"
    )

    @property
    def divisor(self) -> int:
        """The encoder halves the size five times."""
        return 32


PARAMETERS: dict[str, type[NetworkParameters]] = {
    "unet": UNetParameters,
    "resnet18-unet": ResNetUNetParameters,
    "se_resunet": SEResUNetParameters,
}


CLASSIFIERS: dict[str, type[NetworkParameters]] = {
    "resnet18-quality": QualityParameters,
}
"""Networks that judge a slice and its labels, one number a slice."""


def parameters_of(spec: NetworkSpec) -> NetworkParameters:
    """Check the settings of a network and fill in the defaults.

    Raises
    ------
    ModelError
        When there is no such network or no such setting, naming those there are, or
        when a value breaks its limits.
    """
    form = PARAMETERS.get(spec.name) or CLASSIFIERS.get(spec.name)
    if form is None:
        raise ModelError(
            f"There is no network {spec.name!r}; choose one of {', '.join(PARAMETERS)}."
        )
    unknown = sorted(set(spec.parameters) - set(form.model_fields))
    if unknown:
        raise ModelError(
            f"The network {spec.name} has no setting {unknown[0]!r}; its settings are "
            f"{', '.join(form.model_fields)}."
        )
    try:
        return form.model_validate(spec.parameters)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        found = f"{key} = {first['input']!r}" if key else "these settings together"
        raise ModelError(
            f"The network {spec.name} cannot have {found}: {first['msg']}."
        ) from error
