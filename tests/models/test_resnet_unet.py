"""The U-Net with a ResNet-18 encoder."""

import pytest
import torch

from napari_kdseg.errors import ModelError
from napari_kdseg.models.networks.resnet_unet import ResNetUNet

# A narrow decoder: the tests are about shape, and the encoder is wide enough.
NARROW = (16, 8, 8, 4, 4)


@pytest.fixture(scope="module")
def network() -> ResNetUNet:
    torch.manual_seed(0)
    return ResNetUNet(2, 2, 3, decoder_widths=NARROW).eval()


def test_logits_have_the_size_of_the_input(network: ResNetUNet):
    with torch.inference_mode():
        assert network(torch.rand(1, 2, 32, 64)).shape == (1, 3, 32, 64)


def test_the_encoder_is_resnet_18():
    # torchvision's has 11 689 512 parameters with three channels in and a head of
    # 512 x 1000 + 1000; less the head and two channels of the 7 x 7 stem.
    network = ResNetUNet(2, 1, 3, decoder_widths=NARROW)
    expected = 11_689_512 - 513_000 - 2 * 64 * 49
    assert sum(p.numel() for p in network.encoder.parameters()) == expected


def test_the_decoder_has_the_parameters_counted_by_hand(network: ResNetUNet):
    # Into each stage: what is below and the skip; two convolutions, two norms.
    inputs = (512 + 256, 16 + 128, 8 + 64, 8 + 64, 4)
    expected = sum(
        (before * after + after * after) * 9 + 4 * after
        for before, after in zip(inputs, NARROW, strict=True)
    )
    assert sum(p.numel() for p in network.decoder.parameters()) == expected


def test_features_come_at_their_level_with_their_channels(network: ResNetUNet):
    with torch.inference_mode():
        _, found = network.features(torch.rand(1, 2, 32, 64), (0, 1, 4))
    assert {level: tuple(value.shape) for level, value in found.items()} == {
        0: (1, 4, 32, 64),
        1: (1, 4, 16, 32),
        4: (1, 16, 2, 4),
    }
    assert [network.feature_channels(level) for level in (0, 4)] == [4, 16]


def test_taking_features_does_not_change_the_logits(network: ResNetUNet):
    image = torch.rand(1, 2, 32, 64)
    with torch.inference_mode():
        logits, _ = network.features(image, (1,))
        assert torch.equal(logits, network(image))


def test_every_weight_learns():
    # MONAI's own ResNet-18 shortcuts would cut the gradient; these carry it.
    network = ResNetUNet(2, 1, 2, decoder_widths=NARROW)
    network(torch.rand(2, 1, 32, 32 * 2)).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_the_image_size_must_be_a_multiple_of_32(network: ResNetUNet):
    with pytest.raises(ModelError, match="multiples of 32"):
        network(torch.rand(1, 2, 48, 64))


def test_a_level_the_decoder_lacks_is_refused(network: ResNetUNet):
    with pytest.raises(ModelError, match=r"its levels are 0 .* to 4"):
        network.feature_channels(5)
