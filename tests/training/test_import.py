"""Models of other tools, good and bad."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from kdseg_train.interop.importing import ImportOptions, import_from
from kdseg_train.interop.nnunet import own_name
from napari_kdseg.errors import ModelError
from napari_kdseg.inference.predict import Settings, predict_volume
from napari_kdseg.models.networks import build
from napari_kdseg.models.parameters import NetworkSpec
from napari_kdseg.volumes.formats import read_volume
from napari_kdseg.volumes.volume import Grid, Volume

# ---- nnU-Net: a results folder, made by hand in its form ----

SHAPE = {"dimensions": 3, "widths": [4, 8], "strides": [[1, 1, 1], [1, 2, 2]]}
KERNELS = [[1, 3, 3], [3, 3, 3]]


def plans(**changes: Any) -> dict[str, Any]:
    own = {
        "patch_size": [4, 16, 12],
        "spacing": [2.0, 1.0, 1.0],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {
            "is_seg": False,
            "order": 3,
            "order_z": 0,
            "force_separate_z": None,
        },
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {
            "is_seg": False,
            "order": 1,
            "order_z": 0,
            "force_separate_z": None,
        },
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet."
            "PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 2,
                "features_per_stage": [4, 8],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": KERNELS,
                "strides": SHAPE["strides"],
                "n_conv_per_stage": [2, 2],
                "n_conv_per_stage_decoder": [2],
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
        },
    }
    return {
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "configurations": {"3d_fullres": own | changes},
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 50.0, "std": 25.0, "percentile_00_5": -100.0,
                  "percentile_99_5": 150.0}
        },
    }  # fmt: skip


DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "spleen": 2},
    "file_ending": ".nii.gz",
}


def theirs(name: str) -> str:
    """What nnU-Net calls a tensor of ours, for two stages."""
    name = name.removeprefix("members.0.")
    kind, level, rest = name.split(".", 2)
    if kind == "encoder":
        return f"encoder.stages.{level}.0.convs.{rest}"
    if kind == "decoder":
        return f"decoder.stages.{level}.convs.{rest}"
    if kind == "up":
        return f"decoder.transpconvs.{level}.{rest}"
    return f"decoder.seg_layers.0.{level}"


def weights(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    parameters = {**SHAPE, "kernels": KERNELS}
    network = build(NetworkSpec(name="nnunet", parameters=parameters), 1, 3)
    found: dict[str, torch.Tensor] = {}
    for name, value in network.state_dict().items():
        named = theirs(name) if "head" not in name else name.replace(
            "members.0.head", "decoder.seg_layers.0"
        )  # fmt: skip
        found[named] = value
        if ".conv." in named:  # kept twice there
            found[named.replace(".conv.", ".all_modules.0.")] = value
    return found


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """One fold of a results folder, with numpy values in its log as nnU-Net has."""
    folder = tmp_path / "Dataset001_Made" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans()))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    add_fold(folder, 0)
    return folder


def add_fold(folder: Path, fold: int, **changes: Any) -> None:
    (folder / f"fold_{fold}").mkdir(exist_ok=True)
    checkpoint = {
        "network_weights": weights(fold),
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "init_args": {"configuration": "3d_fullres", "fold": fold},
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)]},
        "_best_ema": np.float64(0.5),
    }
    path = folder / f"fold_{fold}" / "checkpoint_final.pth"
    torch.save(checkpoint | changes, path)


def only_fold_0(**changes: Any) -> ImportOptions:
    return ImportOptions(**({"folds": ("0",), "mirror": False} | changes))


def test_a_results_folder_becomes_a_model(results, tmp_path):
    model = import_from(results, tmp_path / "made", only_fold_0(mirror=True))
    card = model.card
    assert card.channels == ("CT",)
    assert card.classes.names == ("liver", "spleen")
    assert card.preprocessing.spacing_mm == (2.0, 1.0, 1.0)
    assert card.tiling.tile_vox == (4, 16, 12)
    assert card.tiling.mirror == (0, 1, 2)
    wanted = weights(0)["encoder.stages.1.0.convs.0.conv.weight"]
    found = model.network().state_dict()["members.0.encoder.1.0.conv.weight"]
    assert torch.equal(found, wanted)


def test_folds_are_averaged(results, tmp_path):
    add_fold(results, 1)
    both = import_from(results, tmp_path / "both", only_fold_0(folds=("0", "1")))
    alone = [
        import_from(results, tmp_path / fold, only_fold_0(folds=(fold,))).network()
        for fold in ("0", "1")
    ]
    image = torch.randn(1, 1, 4, 16, 12, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        mean = (alone[0](image) + alone[1](image)) / 2
        torch.testing.assert_close(both.network()(image), mean)


def test_scans_are_cut_to_what_is_not_zero_and_the_rest_is_background(
    results, tmp_path
):
    model = import_from(results, tmp_path / "made", only_fold_0())
    data = np.zeros((1, 12, 30, 28), np.float32)
    data[:, 2:9, 5:25, 3:20] = np.random.default_rng(0).normal(50, 30, (1, 7, 20, 17))
    affine = np.diag([1.0, 1.0, 2.5, 1.0])
    settings = Settings(device="cpu", uncertainty="entropy", probabilities=True)

    def predicted(part: tuple[slice, ...]) -> Any:
        array = np.ascontiguousarray(data[(slice(None), *part)])
        volume = Volume(array, Grid.from_affine(affine, array.shape[1:]), ("CT",))
        return predict_volume(volume, [model], settings)

    box = (slice(2, 9), slice(5, 25), slice(3, 20))
    whole, cut = predicted((slice(None),) * 3), predicted(box)
    assert len(np.unique(cut.labels[0])) > 1
    np.testing.assert_array_equal(whole.labels[0][box], cut.labels[0])
    outside = np.ones(data.shape[1:], bool)
    outside[box] = False
    assert not whole.labels[0][outside].any()
    assert (whole.probabilities[0][0][outside] == 1).all()


@pytest.mark.parametrize("axes", [(0,), (0, 1, 2)])
def test_mirroring_averages_the_logits_of_all_ways(results, tmp_path, axes):
    add_fold(results, 0, inference_allowed_mirroring_axes=axes)
    model = import_from(results, tmp_path / "made", only_fold_0(mirror=True))
    from napari_kdseg.inference.forward import Forward

    network = model.network()
    forward = Forward([model.card], [network], Settings(precision="float32"), "cpu")
    image = np.random.default_rng(1).normal(size=(1, 4, 16, 12)).astype(np.float32)
    (found,) = forward([image])
    one = torch.from_numpy(image)[None]
    ways = [()]
    for axis in axes:
        ways += [(*way, axis + 2) for way in ways]
    assert len(ways) == 2 ** len(axes)
    with torch.inference_mode():
        logits = [network(one.flip(way)).flip(way) for way in ways]
    torch.testing.assert_close(found, torch.stack(logits).mean(0))


def test_names_of_a_residual_encoder_are_understood():
    assert own_name("encoder.stem.convs.0.conv.weight", 2) == "stem.conv.weight"
    named = own_name("encoder.stages.1.blocks.0.conv2.norm.bias", 2)
    assert named == "encoder.1.0.second.norm.bias"
    assert own_name("encoder.stages.1.blocks.0.skip.1.conv.weight", 2) == (
        "encoder.1.0.widen.conv.weight"
    )
    assert own_name("decoder.seg_layers.0.weight", 2) is None
    assert own_name("decoder.seg_layers.1.weight", 2) == "head.weight"
    assert own_name("decoder.encoder.stages.0.0.convs.0.conv.weight", 2) is None


def test_missing_folds_are_named_with_the_way_out(results, tmp_path):
    with pytest.raises(ModelError, match=r"in fold 0 and not in 1, 2, 3, 4.*--folds 0"):
        import_from(results, tmp_path / "made", ImportOptions())
    assert not (tmp_path / "made").exists()


def test_a_folder_without_any_fold_is_refused(results, tmp_path):
    (results / "fold_0" / "checkpoint_final.pth").unlink()
    with pytest.raises(ModelError, match=r"no fold with a checkpoint_final\.pth"):
        import_from(results, tmp_path / "made", ImportOptions())


def test_a_trainer_of_ones_own_is_refused(results, tmp_path):
    add_fold(results, 0, trainer_name="MyTrainer")
    with pytest.raises(ModelError, match=r"was trained by MyTrainer.*folder of pred"):
        import_from(results, tmp_path / "made", only_fold_0())
    assert not (tmp_path / "made").exists()


class Planted:
    """What must never be executed."""

    def __reduce__(self) -> Any:
        return os.system, ("touch planted",)


def test_code_in_a_checkpoint_is_not_run(results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add_fold(results, 0, logging=Planted())
    with pytest.raises(
        ModelError, match=r"was not read.*tensors and plain values alone"
    ):
        import_from(results, tmp_path / "made", only_fold_0())
    assert not (tmp_path / "planted").exists()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"previous_stage": "3d_lowres"}, "second step of a cascade"),
        ({"normalization_schemes": ["MyScheme"]}, "scales channel 0 by MyScheme"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, "resamples data with"),
        ({"patch_size": None}, "no good 3d_fullres"),
    ],
)
def test_plans_that_only_nnunet_can_follow_are_refused(
    results, tmp_path, changes, what
):
    (results / "plans.json").write_text(json.dumps(plans(**changes)))
    with pytest.raises(ModelError, match=what):
        import_from(results, tmp_path / "made", only_fold_0())
    assert not (tmp_path / "made").exists()


def test_regions_are_refused(results, tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    described = DATASET | {"labels": labels, "regions_class_order": [1, 2]}
    (results / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match=r"has regions \(whole\)"):
        import_from(results, tmp_path / "made", only_fold_0())


def test_weights_of_another_network_are_refused(results, tmp_path):
    changed = plans()
    own = changed["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    own["features_per_stage"] = [4, 16]
    (results / "plans.json").write_text(json.dumps(changed))
    with pytest.raises(ModelError, match="plans and checkpoint are of two trainings"):
        import_from(results, tmp_path / "made", only_fold_0())


def test_a_folder_that_cannot_be_written_to_is_named(results, tmp_path, monkeypatch):
    # The superuser may write anywhere, so the system's answer is given here.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ModelError, match=r"cannot be written to.*with --out"):
        import_from(results, tmp_path / "made", only_fold_0())


def test_the_command_says_what_came(results, tmp_path, call):
    words = ("import", results, "--out", tmp_path / "made", "--folds", "0")
    status, _, said = call(*words)
    assert status == 0
    assert "Dataset001_Made, 3d_fullres, fold 0" in said
    assert "It segments liver, spleen." in said
    assert call(*words)[0] == 1  # a published model never changes


# ---- MONAI ----

NETWORK = {
    "_target_": "SegResNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "init_filters": 8,
    "blocks_down": [1, 2],
    "blocks_up": [1],
    "dropout_prob": 0.2,
}


def bundle(folder: Path, **changes: Any) -> Path:
    from monai.networks.nets import SegResNet

    described = {key: v for key, v in NETWORK.items() if key != "_target_"}
    torch.manual_seed(0)
    network = SegResNet(**described)
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    config = {
        "spacing": [1.0, 1.0, 2.0],
        "network_def": NETWORK,
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -2,
                 "a_max": 2, "b_min": 0, "b_max": 1, "clip": True},
            ],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 12, 8],
                    "sw_batch_size": 2, "overlap": 0.5, "mode": "gaussian"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "Invertd", "keys": "pred", "transform": "$@preprocessing"},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            ],
        },
    }  # fmt: skip
    (folder / "configs" / "inference.json").write_text(json.dumps(config | changes))
    formats = {
        "inputs": {"image": {"channel_def": {"0": "CT"}}},
        "outputs": {"pred": {"channel_def": {"0": "background", "1": "spleen"}}},
    }
    about = {"name": "Spleen", "network_data_format": formats}
    (folder / "configs" / "metadata.json").write_text(json.dumps(about))
    return folder


def test_a_bundle_gives_the_labels_that_monai_gives(tmp_path, write_scan):
    from monai.inferers import SlidingWindowInferer
    from monai.networks.nets import SegResNet

    source = bundle(tmp_path / "spleen_ct")
    model = import_from(source, tmp_path / "spleen", ImportOptions())
    assert model.card.tiling.tile_vox == (8, 12, 16)
    scan = read_volume(write_scan(directions=(1, 1, 1)))
    settings = Settings(device="cpu", uncertainty=None)
    found = predict_volume(scan, [model], settings).labels[0]

    described = {key: v for key, v in NETWORK.items() if key != "_target_"}
    network = SegResNet(**described).eval()
    network.load_state_dict(torch.load(source / "models" / "model.pt"))
    image = torch.from_numpy(np.asarray(scan.data).transpose(0, 3, 2, 1).copy())[None]
    seen = (image.clip(-2, 2) + 2) / 4
    inferer = SlidingWindowInferer((16, 12, 8), 2, 0.5, mode="gaussian")
    with torch.inference_mode():
        logits = inferer(seen, network)[0].numpy()
    wanted = logits.argmax(0).transpose(2, 1, 0)
    assert len(np.unique(wanted)) == 2
    assert (found == wanted).mean() > 0.9999


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"network_def": {**NETWORK, "init_filters": "$__import__('os').getpid()"}},
            "which is code; no code of a bundle is run",
        ),
        (
            {"network_def": {"_target_": "scripts.net.MyNet"}},
            r"network scripts\.net\.MyNet; UNet",
        ),
        (
            {"preprocessing": {"transforms": [{"_target_": "CropForegroundd"}]}},
            "uses CropForegroundd",
        ),
        ({"inferer": {"_target_": "SimpleInferer"}}, "cuts scans with SimpleInferer"),
        (
            {"postprocessing": {"transforms": [{"_target_": "KeepLargestConnected"}]}},
            "uses KeepLargestConnected",
        ),
    ],
)
def test_a_bundle_that_needs_more_than_we_know_is_refused(tmp_path, changes, what):
    source = bundle(tmp_path / "bundle", **changes)
    with pytest.raises(ModelError, match=what):
        import_from(source, tmp_path / "made", ImportOptions())
    assert not (tmp_path / "made").exists()


# ---- ONNX ----


def graph(path: Path, inputs: int = 1, axes: int = 4) -> Path:
    """A convolution from one channel to two classes."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    shape = ["n", 1, *["s"] * (axes - 2)]
    images = [
        helper.make_tensor_value_info(f"x{i}", kind, shape) for i in range(inputs)
    ]
    weight = helper.make_tensor("w", kind, [2, 1, 1, 1], [0.0, 1.0])
    node = helper.make_node("Conv", ["x0", "w"], ["y"])
    out = helper.make_tensor_value_info("y", kind, ["n", 2, *["s"] * (axes - 2)])
    made = helper.make_graph([node], "g", images, [out], [weight])
    opset = [helper.make_opsetid("", 17)]
    path.write_bytes(
        helper.make_model(made, opset_imports=opset, ir_version=8).SerializeToString()
    )
    return path


CARD = {
    "channels": ["MR"],
    "classes": {"classes": [{"value": 1, "name": "bright", "color": "#ff0000"}]},
    "preprocessing": {"intensity": [{"kind": "none"}]},
    "tiling": {"tile_vox": [8, 8]},
}


def test_a_file_of_onnx_becomes_a_model_with_a_card_that_is_given(tmp_path, write_scan):
    pytest.importorskip("onnxruntime")
    card = tmp_path / "card.yaml"
    card.write_text(yaml.safe_dump(CARD))
    source = graph(tmp_path / "net.onnx")
    model = import_from(source, tmp_path / "bright", ImportOptions(card=card))
    scan = read_volume(write_scan())
    settings = Settings(device="cpu", uncertainty=None)
    found = predict_volume(scan, [model], settings).labels[0]
    np.testing.assert_array_equal(found, np.asarray(scan.data)[0] > 0)


def test_a_file_of_onnx_that_says_nothing_asks_for_a_card(tmp_path):
    source = graph(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=r"does not say what it segments.*with --card"):
        import_from(source, tmp_path / "made", ImportOptions())


@pytest.mark.parametrize(("inputs", "axes"), [(2, 4), (1, 3)])
def test_onnx_with_other_inputs_is_refused(tmp_path, inputs, axes):
    source = graph(tmp_path / "net.onnx", inputs, axes)
    with pytest.raises(
        ModelError, match=r"takes x0 .*takes one float image|no good file"
    ):
        import_from(source, tmp_path / "made", ImportOptions())
    assert not (tmp_path / "made").exists()


def test_a_damaged_file_of_onnx_is_refused(tmp_path):
    pytest.importorskip("onnx")
    (tmp_path / "net.onnx").write_bytes(b"no onnx at all")
    with pytest.raises(ModelError, match="no good file of ONNX"):
        import_from(tmp_path / "net.onnx", tmp_path / "made", ImportOptions())


def test_what_is_no_model_is_refused_with_what_would_be(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no results folder of nnU-Net v2"):
        import_from(tmp_path / "empty", tmp_path / "made", ImportOptions())
