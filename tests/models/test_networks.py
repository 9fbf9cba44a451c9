"""Networks by name, and their settings."""

import pytest
import torch

from napari_kdseg.errors import ModelError
from napari_kdseg.models.networks import NETWORKS, build
from napari_kdseg.models.networks.unet import UNet
from napari_kdseg.models.parameters import PARAMETERS, NetworkSpec, parameters_of


def test_every_network_has_settings_and_a_builder():
    assert set(NETWORKS) == set(PARAMETERS)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_every_network_is_built_from_its_defaults(name: str):
    with torch.device("meta"):
        network = build(NetworkSpec(name=name), 2, 5)
        size = network.divisor * 2
        logits = network(torch.empty(1, 2, *[size] * network.dimensions))
    assert logits.shape == (1, 5, *[size] * network.dimensions)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_the_divisor_is_known_without_building(name: str):
    spec = NetworkSpec(name=name)
    with torch.device("meta"):
        assert build(spec, 1, 2).divisor == parameters_of(spec).divisor


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_a_form_can_list_every_setting(name: str):
    schema = PARAMETERS[name].model_json_schema()
    assert all("description" in field for field in schema["properties"].values())


def test_settings_reach_the_network():
    parameters = {"dimensions": 3, "width": 2, "stages": 3, "down": "pool"}
    network = build(NetworkSpec(name="unet", parameters=parameters), 1, 2)
    assert isinstance(network, UNet)
    assert (network.dimensions, network.widths) == (3, (2, 4, 8))
    assert any(isinstance(module, torch.nn.MaxPool3d) for module in network.modules())


def test_the_same_seed_draws_the_same_weights():
    spec = NetworkSpec(name="unet", parameters={"width": 2, "stages": 2})
    torch.manual_seed(7)
    first = build(spec, 1, 2)
    torch.manual_seed(7)
    assert torch.equal(first.head.weight, build(spec, 1, 2).head.weight)


def test_an_unknown_network_is_refused_with_those_there_are():
    with pytest.raises(ModelError, match="no network 'vnet'; choose one of unet"):
        build(NetworkSpec(name="vnet"), 1, 2)


def test_an_unknown_setting_is_refused_with_those_there_are():
    spec = NetworkSpec(name="unet", parameters={"widht": 8})
    with pytest.raises(ModelError, match=r"no setting 'widht'.*width, stages"):
        build(spec, 1, 2)


def test_a_setting_out_of_its_limits_is_refused():
    spec = NetworkSpec(name="unet", parameters={"stages": 1})
    with pytest.raises(ModelError, match=r"stages = 1.*greater than or equal to 2"):
        build(spec, 1, 2)


def test_there_is_no_resnet_for_volumes():
    spec = NetworkSpec(name="resnet18-unet", parameters={"dimensions": 3})
    with pytest.raises(ModelError, match="dimensions = 3"):
        build(spec, 1, 2)
