"""The settings of every network, checked without building it.

Reading a model's card, or filling a form, needs the names, limits and defaults of a
network's settings but not torch, so they stand here and the networks stand in
`napari_kdseg.models.networks`. Both registries have the same names.
"""

import math
from collections.abc import Callable, Sequence
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

    @property
    def divisors(self) -> tuple[int, ...]:
        """The same by axis, (z,) y, x, for networks that halve some axes less often."""
        return (self.divisor,) * self.dimensions


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


class NnUNetParameters(NetworkParameters):
    """Settings of the U-Nets that nnU-Net v2 plans: by stage, and by axis."""

    dimensions: Literal[2, 3] = Field(3, description="2: slices (y, x); 3: volumes")
    widths: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (32, 64, 128, 256, 320), description="channels by stage, finest first"
    )
    kernels: tuple[tuple[int, ...], ...] | None = Field(
        None, description="sizes of the convolutions by stage and axis; none: all 3"
    )
    strides: tuple[tuple[int, ...], ...] | None = Field(
        None, description="of the stages by axis, the first all 1; none: then all 2"
    )
    encoder: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="convolutions, or residual blocks, by stage; none: 2 each"
    )
    decoder: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="convolutions by stage, coarsest first; none: 2 each"
    )
    residual: bool = Field(default=False, description="an encoder of residual blocks")
    bias: bool = Field(default=True, description="convolutions before a norm have one")
    members: int = Field(
        1, ge=1, le=10, description="networks of this shape whose logits are averaged"
    )

    @model_validator(mode="after")
    def _one_entry_a_stage(self) -> "NnUNetParameters":
        stages = len(self.widths)
        if stages < 2:
            raise ValueError("widths has one stage; a U-Net has at least two")
        wanted = {"kernels": stages, "strides": stages, "encoder": stages}
        for name, count in (wanted | {"decoder": stages - 1}).items():
            given = getattr(self, name)
            if given is not None and len(given) != count:
                raise ValueError(f"{name} has {len(given)} entries and needs {count}")
        return self

    @model_validator(mode="after")
    def _sizes_by_axis(self) -> "NnUNetParameters":
        for name in ("kernels", "strides"):
            for sizes in getattr(self, name) or ():
                if len(sizes) != self.dimensions or min(sizes) < 1:
                    raise ValueError(
                        f"{name} has {list(sizes)}; a stage has {self.dimensions} "
                        "sizes, all above 0"
                    )
        if any(size % 2 == 0 for sizes in self.kernels or () for size in sizes):
            raise ValueError("kernels has an even size; they are odd, so that they fit")
        if self.strides is not None and set(self.strides[0]) != {1}:
            raise ValueError("strides begins with another stage than one of all 1")
        return self

    @property
    def kernels_by_stage(self) -> tuple[tuple[int, ...], ...]:
        """Sizes of the convolutions, finest stage first."""
        return self.kernels or ((3,) * self.dimensions,) * len(self.widths)

    @property
    def strides_by_stage(self) -> tuple[tuple[int, ...], ...]:
        """What each stage divides the sizes by, finest first."""
        rest = len(self.widths) - 1
        axes = self.dimensions
        return self.strides or ((1,) * axes, *((2,) * axes for _ in range(rest)))

    @property
    def divisors(self) -> tuple[int, ...]:
        """Each axis has strides of its own."""
        return tuple(
            math.prod(axis) for axis in zip(*self.strides_by_stage, strict=True)
        )

    @property
    def divisor(self) -> int:
        """What suits every axis."""
        return math.lcm(*self.divisors)


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


class OnnxParameters(NetworkParameters):
    """Settings of a network that another tool wrote as ONNX."""

    dimensions: Literal[2, 3] = Field(3, description="2: slices (y, x); 3: volumes")
    graph_bytes: int = Field(ge=1, description="size of the file in the weights")
    steps: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="what sizes must be multiples of, (z,) y, x; none: 1"
    )
    input_name: str = Field("image", description="what the file calls the image")
    xyz: bool = Field(default=False, description="its axes are x, y, z, as MONAI's")

    @property
    def divisors(self) -> tuple[int, ...]:
        """What was given."""
        return self.steps or (1,) * self.dimensions

    @property
    def divisor(self) -> int:
        """What suits every axis."""
        return math.lcm(*self.divisors)


class MonaiParameters(NetworkParameters):
    """Settings of a network of MONAI's own, with its own arguments."""

    dimensions: Literal[2, 3] = Field(3, description="2: slices (y, x); 3: volumes")
    kind: Literal[
        "UNet", "BasicUNet", "DynUNet", "SegResNet", "AttentionUnet", "VNet"
    ] = Field(description="class of monai.networks.nets")
    arguments: dict[str, JsonValue] = Field(
        default_factory=dict, description="but for dimensions and channels"
    )
    step: int = Field(16, ge=1, description="what sizes must be multiples of")

    @property
    def divisor(self) -> int:
        """What was given."""
        return self.step


PARAMETERS: dict[str, type[NetworkParameters]] = {
    "unet": UNetParameters,
    "resnet18-unet": ResNetUNetParameters,
    "se_resunet": SEResUNetParameters,
    "nnunet": NnUNetParameters,
}


IMPORTED: dict[str, type[NetworkParameters]] = {
    "onnx": OnnxParameters,
    "monai": MonaiParameters,
}
"""Networks of other tools, which predict and are not trained here."""


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
    form = (PARAMETERS | IMPORTED | CLASSIFIERS).get(spec.name)
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


def multiples(divisors: Sequence[int]) -> str:
    """Say what sizes must be multiples of: one number, or one an axis."""
    alike = len(set(divisors)) == 1
    return str(divisors[0]) if alike else " x ".join(str(by) for by in divisors)
