"""Networks by name. To add one: its file, a line here, its settings in `parameters`."""

from collections.abc import Callable

from napari_kdseg.models.networks.network import SegmentationNetwork
from napari_kdseg.models.networks.unet import UNet
from napari_kdseg.models.parameters import NetworkSpec, parameters_of


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


NETWORKS: dict[str, Callable[..., SegmentationNetwork]] = {
    "unet": UNet,
    "resnet18-unet": _resnet18_unet,
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
    return NETWORKS[spec.name](
        in_channels=in_channels, out_channels=out_channels, **parameters
    )
