"""The settings of every network, checked without building it.

Reading a model's card, or filling a form, needs the names, limits and defaults of a
network's settings but not torch, so they stand here and the networks stand in
`napari_kdseg.models.networks`. Both registries have the same names.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

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


PARAMETERS: dict[str, type[NetworkParameters]] = {
    "unet": UNetParameters,
    "resnet18-unet": ResNetUNetParameters,
}


def parameters_of(spec: NetworkSpec) -> NetworkParameters:
    """Check the settings of a network and fill in the defaults.

    Raises
    ------
    ModelError
        When there is no such network or no such setting, naming those there are, or
        when a value breaks its limits.
    """
    form = PARAMETERS.get(spec.name)
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
        raise ModelError(
            f"The network {spec.name} cannot have {key} = {first['input']!r}: "
            f"{first['msg']}."
        ) from error
