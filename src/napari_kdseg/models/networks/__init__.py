"""Networks by name. To add one: its file, a line here, its settings in `parameters`."""

from collections.abc import Callable

from torch import nn

from napari_kdseg.errors import ModelError
from napari_kdseg.models.networks.network import SegmentationNetwork
from napari_kdseg.models.networks.nnunet import NnUNet
from napari_kdseg.models.networks.se_resunet import SEResUNet
from napari_kdseg.models.networks.unet import UNet
from napari_kdseg.models.parameters import PARAMETERS, NetworkSpec, parameters_of


def _resnet18_unet(
    dimensions: int,
    in_channels: int,
    out_channels: int,
    decoder_widths: tuple[int, ...],
) -> SegmentationNetwork:
    # MONAI's networks take two seconds to import: only who asks for one pays.
    from napari_kdseg.models.networks.resnet_unet import ResNetUNet

    return ResNetUNet(
        dimensions, in_channels, out_channels, decoder_widths=decoder_widths
    )


def _resnet18_quality(
    dimensions: int, in_channels: int, out_channels: int, width: int
) -> nn.Module:
    from napari_kdseg.models.networks.quality import QualityNetwork

    return QualityNetwork(dimensions, in_channels, out_channels, width=width)


def _onnx(
    in_channels: int, out_channels: int, **settings: object
) -> SegmentationNetwork:
    from napari_kdseg.models.networks.imported import OnnxNetwork

    return OnnxNetwork(in_channels, out_channels, **settings)


def _monai(
    in_channels: int, out_channels: int, **settings: object
) -> SegmentationNetwork:
    from napari_kdseg.models.networks.imported import MonaiNetwork

    return MonaiNetwork(in_channels, out_channels, **settings)


NETWORKS: dict[str, Callable[..., SegmentationNetwork]] = {
    "unet": UNet,
    "resnet18-unet": _resnet18_unet,
    "se_resunet": SEResUNet,
    "nnunet": NnUNet,
}


IMPORTED: dict[str, Callable[..., SegmentationNetwork]] = {
    "onnx": _onnx,
    "monai": _monai,
}


CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    "resnet18-quality": _resnet18_quality,
}


def build(
    spec: NetworkSpec, in_channels: int, out_channels: int
) -> SegmentationNetwork:
    """Build a network with freshly drawn weights.

    Parameters
    ----------
    spec
        Its name and settings.
    in_channels
        Channels of the image.
    out_channels
        Classes, background included.

    Raises
    ------
    ModelError
        When there is no such network or setting, or a value breaks its limits.
    """
    parameters = parameters_of(spec).model_dump()
    known = NETWORKS | IMPORTED
    if spec.name not in known:
        raise ModelError(
            f"The network {spec.name} judges slices and segments nothing; choose one "
            f"of {', '.join(PARAMETERS)}."
        )
    return known[spec.name](
        in_channels=in_channels, out_channels=out_channels, **parameters
    )


def build_classifier(
    spec: NetworkSpec, in_channels: int, out_channels: int
) -> nn.Module:
    """Build a network that judges a slice and its labels, weights freshly drawn.

    Parameters
    ----------
    spec, in_channels, out_channels
        As `build` takes them: channels of the image, and the classes of the labels,
        background included. The network sees a channel a class but background.

    Raises
    ------
    ModelError
        As `build`.
    """
    parameters = parameters_of(spec).model_dump()
    if spec.name not in CLASSIFIERS:
        raise ModelError(
            f"The network {spec.name} segments and judges no slices; choose one of "
            f"{', '.join(CLASSIFIERS)}."
        )
    return CLASSIFIERS[spec.name](
        in_channels=in_channels, out_channels=out_channels, **parameters
    )
