"""The residual squeeze-and-excitation U-Net of FLARE22 cross teaching."""

import inspect

import pytest
import torch

from napari_kdseg.errors import ModelError
from napari_kdseg.models.networks import build
from napari_kdseg.models.networks.se_resunet import SEResUNet
from napari_kdseg.models.parameters import (
    NetworkSpec,
    SEResUNetParameters,
    parameters_of,
)


def tiny(dimensions: int = 3, **shape: object) -> SEResUNet:
    torch.manual_seed(0)
    return SEResUNet(dimensions, 1, 3, **{"width": 4, "stages": 3, **shape})


def parameter_count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def on_meta(**shape: object) -> int:
    """Parameters of a network for FLARE22: one channel, 13 organs."""
    with torch.device("meta"):
        return parameter_count(SEResUNet(3, 1, 14, **shape))


@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("size", [(8, 12), (4, 8, 12)])
def test_logits_have_the_size_of_the_input(
    size: tuple[int, ...], separable: bool, upsampling: str
):
    network = tiny(len(size), separable=separable, upsampling=upsampling)
    assert network(torch.rand(2, 1, *size)).shape == (2, 3, *size)


def test_a_teacher_and_the_student_have_the_parameters_of_the_authors_code():
    # 92.06 and 5.23 million; the exact numbers follow from the shape
    teacher, student = on_meta(), on_meta(separable=True)
    assert teacher == on_meta(upsampling="resize") == 92_056_604
    assert student == 5_227_548
    assert round(teacher / student, 1) == 17.6


def test_a_dense_network_has_the_parameters_counted_by_hand():
    # width 2, two stages, 2D, one channel in, three classes out; a norm has 2 a
    # channel, a 3 x 3 convolution 9 a pair and a bias, fc: (2 + 1) + (1 * 2 + 2)
    stem = (1 * 2 * 9 + 2) + 4
    fine = 2 * (2 * 2 * 9 + 2 + 4)
    first_deep = (2 * 4 * 9 + 4 + 8) + (4 * 4 * 9 + 4 + 8) + (2 * 4 + 8)
    second_deep = 2 * (4 * 4 * 9 + 4 + 8)
    up, excite, head = 4 * 2 * 4, 3 + 4, 2 * 3
    decoder = (4 * 2 * 9 + 2 + 4) + (2 * 2 * 9 + 2 + 4)
    by_hand = stem + fine + first_deep + second_deep + up + excite + decoder + head
    assert by_hand == 841
    assert parameter_count(SEResUNet(2, 1, 3, width=2, stages=2)) == 841


def test_a_separable_block_has_a_kernel_a_channel_and_a_matrix():
    # each 3 x 3 convolution of a block, a -> b: 9 a + a, then a b + b
    dense = SEResUNet(2, 1, 3, width=2, stages=2)
    split = SEResUNet(2, 1, 3, width=2, stages=2, separable=True)
    pairs = [(2, 2), (2, 2), (2, 4), (4, 4), (4, 4), (4, 4), (4, 2), (2, 2)]
    saved = sum((9 * a * b + b) - (10 * a + a * b + b) for a, b in pairs)
    assert parameter_count(dense) - parameter_count(split) == saved


def test_one_two_three_blocks_a_stage_unless_others_are_asked_for():
    assert [len(stage) for stage in tiny().encoder] == [1, 2, 3]
    assert [len(stage) for stage in tiny(blocks=(2, 1, 1)).encoder] == [2, 1, 1]


def test_widths_double_up_to_512():
    assert SEResUNetParameters().widths == (32, 64, 128, 256, 512)
    assert SEResUNetParameters(stages=6).widths[-1] == 512


def test_one_excitation_serves_what_was_up_sampled_and_the_skip():
    network = tiny()
    calls = []
    for layer in network.excite:
        layer.register_forward_hook(lambda *_: calls.append(1))
    network(torch.rand(1, 1, 8, 8, 8))
    assert len(network.excite) == 2
    assert len(calls) == 4


def test_excitation_adds_the_channel_weighted_by_its_mean():
    # x + x * relu(2 * leaky(1 * mean + 0) + 0): mean 3 gives 3 + 3 * 6 = 21
    layer = SEResUNet(2, 1, 2, width=1, stages=2).excite[0]
    with torch.no_grad():
        layer.squeeze.weight.fill_(1)
        layer.squeeze.bias.zero_()
        layer.excite.weight.fill_(2)
        layer.excite.bias.zero_()
    assert layer(torch.full((1, 1, 2, 2), 3.0)).unique().item() == pytest.approx(21)


def test_resizing_keeps_a_plane_that_rises_evenly():
    # 0 1 becomes 0 1/3 2/3 1 with the corners kept; a kernel of one tap copies it
    layer = tiny(2, upsampling="resize", width=1, stages=2).up[0]
    with torch.no_grad():
        layer.convolution.weight.zero_()
        layer.convolution.weight[:, 0, 0, 0] = 1
    row = torch.zeros(1, 2, 1, 2)
    row[0, 0, 0, 1] = 1
    assert layer(row)[0, 0, 0].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_the_block_s_shortcut_is_projected_only_where_shapes_change():
    network = tiny()
    first, second = network.encoder[1]
    assert isinstance(network.encoder[0][0].shortcut, torch.nn.Identity)
    assert isinstance(second.shortcut, torch.nn.Identity)
    projection = first.shortcut[0]
    assert (projection.kernel_size, projection.stride) == ((1, 1, 1), (2, 2, 2))


def test_head_and_up_sampling_have_no_bias():
    for upsampling in ("transposed", "resize"):
        network = tiny(upsampling=upsampling)
        names = [name for name, _ in network.named_parameters()]
        assert "head.bias" not in names
        assert not [n for n in names if n.startswith("up.") and n.endswith("bias")]


def test_weights_spread_as_glorot_and_bengio_ask():
    # 64 to 64 channels, 3 x 3: variance 2 / (9 * 64 + 9 * 64)
    torch.manual_seed(0)
    network = SEResUNet(2, 1, 2, width=64, stages=2)
    weight = network.encoder[0][0].first[0].weight
    assert weight.std().item() == pytest.approx((2 / (2 * 9 * 64)) ** 0.5, rel=0.02)
    assert network.encoder[0][0].first[0].bias.abs().max() == 0


def test_features_are_those_of_the_decoder():
    network = tiny()
    logits, found = network.features(torch.rand(1, 1, 8, 8, 8), (0, 1))
    assert {level: tuple(t.shape[1:]) for level, t in found.items()} == {
        0: (4, 8, 8, 8),
        1: (8, 4, 4, 4),
    }
    assert [network.feature_channels(level) for level in (0, 1)] == [4, 8]
    assert torch.equal(network.head(found[0]), logits)


def test_a_level_or_size_that_does_not_fit_is_refused():
    with pytest.raises(ModelError, match="no features at level 2"):
        tiny().feature_channels(2)
    with pytest.raises(ModelError, match="multiples of 4"):
        tiny()(torch.rand(1, 1, 8, 8, 6))


def test_every_parameter_gets_a_gradient():
    network = tiny(separable=True)
    network(torch.rand(1, 1, 8, 8, 8)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_blocks_for_another_number_of_stages_are_refused():
    spec = NetworkSpec(name="se_resunet", parameters={"stages": 3, "blocks": [1, 2]})
    with pytest.raises(ModelError, match="2 numbers for 3 stages; give one"):
        parameters_of(spec)


def test_defaults_of_network_and_settings_agree():
    known = inspect.signature(SEResUNet).parameters
    for name, field in SEResUNetParameters.model_fields.items():
        if name != "dimensions":
            assert known[name].default == field.default


def test_a_spec_builds_it_with_lists_as_they_come_from_yaml():
    spec = NetworkSpec(
        name="se_resunet",
        parameters={"width": 2, "stages": 2, "blocks": [1, 1], "dimensions": 2},
    )
    network = build(spec, 1, 2)
    assert isinstance(network, SEResUNet)
    assert len(network.encoder[1]) == 1
