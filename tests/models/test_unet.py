"""The U-Net in the shape of nnU-Net v1."""

import inspect
import math

import pytest
import torch

from napari_kdseg.errors import ModelError
from napari_kdseg.models.networks.unet import UNet
from napari_kdseg.models.parameters import UNetParameters


def tiny(dimensions: int = 2, **shape: object) -> UNet:
    torch.manual_seed(0)
    return UNet(dimensions, 1, 3, **{"width": 4, "stages": 3, **shape})


def parameter_count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("down", ["convolution", "pool"])
@pytest.mark.parametrize("size", [(8, 12), (16, 4), (4, 8, 12)])
def test_logits_have_the_size_of_the_input(size: tuple[int, ...], down: str):
    network = tiny(len(size), down=down)
    assert network(torch.rand(2, 1, *size)).shape == (2, 3, *size)


def test_a_2d_network_has_the_parameters_counted_by_hand():
    # width 2, two stages, one channel in, three classes out; norm: 2 a channel.
    fine = 1 * 2 * 9 + 4 + 2 * 2 * 9 + 4
    deep = 2 * 4 * 9 + 8 + 4 * 4 * 9 + 8
    up = 4 * 2 * 2 * 2
    decoder = (2 + 2) * 2 * 9 + 4 + 2 * 2 * 9 + 4
    head = 2 * 3 + 3
    assert fine + deep + up + decoder + head == 451
    assert parameter_count(UNet(2, 1, 3, width=2, stages=2)) == 451


def test_a_3d_network_has_the_parameters_counted_by_hand():
    # As above with 27 in place of 9 and 8 in place of 4: 170 + 664 + 64 + 332 + 9.
    assert parameter_count(UNet(3, 1, 3, width=2, stages=2)) == 1239


def test_one_convolution_a_stage_leaves_out_the_second():
    # 451 less the second convolution and norm of three stages: 40 + 152 + 40.
    network = UNet(2, 1, 3, width=2, stages=2, convolutions=1)
    assert parameter_count(network) == 219


def test_pooling_down_has_the_parameters_of_striding_down():
    assert parameter_count(tiny(down="pool")) == parameter_count(tiny())


def test_widths_double_up_to_480_in_slices_and_320_in_volumes():
    assert UNetParameters().widths == (32, 64, 128, 256, 480, 480, 480, 480)
    assert UNetParameters(dimensions=3, stages=6).widths == (32, 64, 128, 256, 320, 320)


def test_the_widest_stage_can_be_set():
    assert tiny(max_width=6).widths == (4, 6, 6)


def test_the_divisor_is_two_to_the_halvings():
    assert tiny(stages=4).divisor == 8


def test_defaults_stand_in_one_place():
    signature = inspect.signature(UNet.__init__).parameters
    for name, field in UNetParameters.model_fields.items():
        if name != "dimensions":
            assert signature[name].default == field.default


def test_features_come_at_their_level_with_their_channels():
    network = tiny(stages=4)
    _, found = network.features(torch.rand(2, 1, 16, 24), (0, 1, 2))
    assert {level: tuple(value.shape) for level, value in found.items()} == {
        0: (2, 4, 16, 24),
        1: (2, 8, 8, 12),
        2: (2, 16, 4, 6),
    }
    assert [network.feature_channels(level) for level in (0, 1, 2)] == [4, 8, 16]


def test_features_in_volumes_halve_all_three_axes():
    _, found = tiny(3).features(torch.rand(1, 1, 4, 8, 12), (1,))
    assert found[1].shape == (1, 8, 2, 4, 6)


def test_taking_features_does_not_change_the_logits():
    network, image = tiny(), torch.rand(2, 1, 8, 8)
    logits, _ = network.features(image, (0, 1))
    assert torch.equal(logits, network(image))


def test_no_features_are_kept_that_nobody_asked_for():
    _, found = tiny().features(torch.rand(1, 1, 8, 8), ())
    assert found == {}


def test_a_loss_on_features_reaches_all_but_what_lies_above_them():
    network = tiny()
    _, found = network.features(torch.rand(1, 1, 8, 8), (1,))
    found[1].square().sum().backward()
    untouched = {
        name.rpartition(".")[0]
        for name, parameter in network.named_parameters()
        if parameter.grad is None
    }
    assert {name.split(".")[0] for name in untouched} == {"up", "decoder", "head"}
    assert all(name.startswith(("up.0", "decoder.0", "head")) for name in untouched)


@pytest.mark.parametrize("level", [-1, 2])
def test_a_level_the_decoder_lacks_is_refused(level: int):
    network = tiny()
    with pytest.raises(ModelError, match=f"level {level}; its levels are 0"):
        network.features(torch.rand(1, 1, 8, 8), (level,))
    with pytest.raises(ModelError, match="its levels are 0"):
        network.feature_channels(level)


def test_weights_are_drawn_as_he_et_al():
    # Variance 2 / ((1 + 0.01²) · inputs · 9) of the second convolution.
    network = tiny(width=64, stages=2)
    weight = network.encoder[0][1][0].weight
    expected = math.sqrt(2 / (1.0001 * 64 * 9))
    assert weight.std().item() == pytest.approx(expected, rel=0.02)
    assert network.head.bias.abs().max() == 0


def test_the_image_size_must_be_a_multiple_of_the_divisor():
    with pytest.raises(ModelError, match=r"8 x 10 voxels.*multiples of 4"):
        tiny()(torch.rand(1, 1, 8, 10))


def test_a_bottom_of_one_voxel_is_refused_before_the_norm_meets_it():
    with pytest.raises(ModelError, match=r"4 x 4 voxels.*fewer than two"):
        tiny()(torch.rand(1, 1, 4, 4))


def test_a_bottom_of_two_voxels_is_enough():
    network = tiny().train()
    assert network(torch.rand(1, 1, 4, 8)).isfinite().all()


def test_an_image_with_other_channels_is_refused():
    with pytest.raises(ModelError, match="2 channels; this network takes 1"):
        tiny()(torch.rand(1, 2, 8, 8))


def test_a_volume_does_not_go_into_a_network_for_slices():
    with pytest.raises(ModelError, match="5 axes; a 2D network takes 4"):
        tiny()(torch.rand(1, 1, 8, 8, 8))


# ---- fewer skips, and the bottleneck ----


def decoded(network: UNet, encoded: list[torch.Tensor]) -> torch.Tensor:
    return network._decoded(list(encoded), ())[0]


def test_without_skips_nothing_but_the_bottleneck_reaches_the_output():
    network = tiny(skips=0)
    encoded = network.encoded(torch.rand(1, 1, 8, 8))
    silent = [torch.zeros_like(value) for value in encoded[:-1]]
    assert torch.equal(
        decoded(network, [*silent, encoded[-1]]), decoded(network, encoded)
    )


@pytest.mark.parametrize("skips", [1, 2])
def test_the_coarsest_skips_are_kept(skips: int):
    network = tiny(stages=4, skips=skips)
    encoded = network.encoded(torch.rand(1, 1, 16, 16))
    logits = decoded(network, encoded)
    for level in range(3):
        changed = list(encoded)
        changed[level] = torch.zeros_like(encoded[level])
        same = torch.equal(decoded(network, changed), logits)
        assert same == (level < 3 - skips)


def test_all_skips_are_the_network_as_it_was():
    whole, asked = tiny(), tiny(skips=2)
    assert {n: v.shape for n, v in whole.state_dict().items()} == {
        n: v.shape for n, v in asked.state_dict().items()
    }
    image = torch.rand(1, 1, 8, 8)
    assert torch.equal(whole(image), asked(image))


def test_a_network_without_skips_has_the_parameters_counted_by_hand():
    # 451 less the half of the decoder's first convolution that saw the skip: 2 · 2 · 9
    assert parameter_count(UNet(2, 1, 3, width=2, stages=2, skips=0)) == 415


def test_more_skips_than_levels_are_refused_with_the_most():
    with pytest.raises(ValueError, match="3 stages has at most 2 skips"):
        UNetParameters(stages=3, skips=3)


def test_a_card_says_nothing_of_skips_where_there_is_no_choice():
    # the fingerprint of a model is made from these values
    assert "skips" not in UNetParameters().model_dump(mode="json")
    assert UNetParameters(skips=0).model_dump(mode="json")["skips"] == 0


def test_the_bottleneck_is_what_the_encoder_ends_in():
    network, image = tiny(), torch.rand(2, 1, 8, 12)
    logits, bottleneck = network.with_bottleneck(image)
    assert torch.equal(logits, network(image))
    assert bottleneck.shape == (2, 16, 2, 3)


def test_a_loss_on_the_bottleneck_reaches_the_encoder_alone():
    network = tiny()
    _, bottleneck = network.with_bottleneck(torch.rand(1, 1, 8, 8))
    bottleneck.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == name.startswith("encoder."), name
