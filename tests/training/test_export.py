"""Models written for other tools, and run there."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from kdseg_train.interop.exporting import export
from kdseg_train.interop.importing import ImportOptions, import_from
from napari_kdseg.errors import ModelError, UsageError
from napari_kdseg.inference.predict import Settings, predict_volume
from napari_kdseg.models.model import Model, Postprocessing, Tiling, save_composite
from napari_kdseg.volumes.formats import read_labels, read_volume
from napari_kdseg.volumes.labels import LabelClass, LabelSet
from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing

SPARSE = LabelSet(
    classes=(
        LabelClass(value=2, name="liver", color="#ff0000"),
        LabelClass(value=7, name="spleen", color="#00ff00"),
    )
)
WINDOW = Preprocessing(
    orientation="LPS", intensity=(Intensity(kind="window", low=-2, high=2),)
)
RESIZED = Preprocessing(
    orientation="RAS", resize_vox=(16, 24, 32), intensity=(Intensity(kind="zscore"),)
)
CUBES = {
    "network": {
        "name": "unet",
        "parameters": {"dimensions": 3, "width": 4, "stages": 3},
    },
    "tiling": Tiling(tile_vox=(8, 16, 12), overlap=0.5, batch=2),
}


def ours(scan: Path, model: Model) -> np.ndarray:
    settings = Settings(device="cpu", uncertainty=None)
    return np.asarray(predict_volume(read_volume(scan), [model], settings).labels[0])


# ---- ONNX ----


@pytest.mark.parametrize("changes", [{}, CUBES], ids=["slices", "cubes"])
def test_onnx_gives_in_onnxruntime_what_torch_gives(tmp_path, model_folder, changes):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch = pytest.importorskip("torch")
    model = model_folder(**changes)
    export(model, "onnx", tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    tile = model.card.tiling.tile_vox
    image = np.random.default_rng(3).normal(size=(3, 1, *tile)).astype(np.float32)
    (found,) = session.run(None, {"image": image})
    with torch.inference_mode():
        wanted = model.network()(torch.from_numpy(image)).numpy()
    assert np.abs(found - wanted).max() < 1e-4 * max(1, np.abs(wanted).max())
    first, second = np.sort(wanted, axis=1)[:, -1], np.sort(wanted, axis=1)[:, -2]
    sure = first - second > 1e-4
    assert sure.mean() > 0.9
    assert (found.argmax(1) == wanted.argmax(1))[sure].all()


def test_onnx_comes_back_as_a_model_with_the_same_labels(
    tmp_path, model_folder, write_scan
):
    pytest.importorskip("onnxruntime")
    model = model_folder(classes=SPARSE, preprocessing=WINDOW)
    export(model, "onnx", tmp_path / "net.onnx")
    back = import_from(tmp_path / "net.onnx", tmp_path / "back", ImportOptions())
    assert back.card.network.name == "onnx"
    assert back.card.classes == model.card.classes
    scan = write_scan(directions=(-1, 1, -1))
    assert (ours(scan, back) == ours(scan, model)).mean() > 0.9999


# ---- MONAI ----


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": SPARSE, "preprocessing": WINDOW},
        {"preprocessing": RESIZED, **CUBES},
        {"preprocessing": Preprocessing(orientation=None), **CUBES},
    ],
    ids=["slices-window", "cubes-resized", "cubes-stored-axes"],
)
def test_a_bundle_gives_in_monais_own_workflow_our_labels(
    tmp_path, model_folder, write_scan, changes
):
    pytest.importorskip("ignite")
    from monai.bundle import ConfigWorkflow

    model = model_folder(**changes)
    bundle = tmp_path / "bundle"
    export(model, "monai-bundle", bundle)
    scan = write_scan(directions=(-1, 1, -1))
    (bundle / "data").mkdir()
    shutil.copy(scan, bundle / "data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        workflow = ConfigWorkflow(
            workflow_type="infer",
            config_file=str(bundle / "configs" / "inference.json"),
            meta_file=str(bundle / "configs" / "metadata.json"),
            logging_file=False,
            bundle_root=str(bundle),
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    (written,) = (bundle / "eval").iterdir()
    found, grid = read_labels(written)
    wanted = ours(scan, model)
    assert grid.shape == wanted.shape
    assert len(np.unique(wanted)) > 1
    # Grey values are scaled in float32 there: a voxel in ten thousand may be torn.
    assert (found == wanted).mean() > 0.9999


def test_a_bundle_of_ours_comes_back_as_the_same_model(tmp_path, model_folder):
    model = model_folder(preprocessing=WINDOW)
    export(model, "monai-bundle", tmp_path / "bundle")
    back = import_from(tmp_path / "bundle", tmp_path / "organs", ImportOptions())
    assert back.fingerprint == model.fingerprint


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"preprocessing": Preprocessing(spacing_mm=(1, 1, 1))},
            "works at a voxel size",
        ),
        (
            {"preprocessing": Preprocessing(intensity=(Intensity(kind="percentile"),))},
            "percentiles",
        ),
        (
            {"postprocessing": Postprocessing(fill_holes=("liver",))},
            "cleans its labels",
        ),
        (
            {"tiling": Tiling(tile_vox=(16, 16), mirror=(0,))},
            "mirrors its tiles",
        ),
    ],
)
def test_what_monai_does_otherwise_is_refused(tmp_path, model_folder, changes, what):
    model = model_folder(**changes)
    with pytest.raises(ModelError, match=what):
        export(model, "monai-bundle", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


# ---- bioimage.io ----


def test_bioimage_io_describes_a_tile_that_its_own_runner_reproduces(
    tmp_path, model_folder
):
    core = pytest.importorskip("bioimageio.core")
    model = model_folder(preprocessing=WINDOW, licence="CC0-1.0")
    export(model, "bioimageio", tmp_path / "described")
    summary = core.test_description(tmp_path / "described" / "rdf.yaml")
    assert summary.status == "passed", summary.format()


def test_bioimage_io_has_test_arrays_that_the_weights_reproduce(tmp_path, model_folder):
    import torch
    import yaml

    model = model_folder(preprocessing=WINDOW, licence="CC0-1.0")
    export(model, "bioimageio", tmp_path / "described")
    described = yaml.safe_load((tmp_path / "described" / "rdf.yaml").read_text())
    (image,) = described["inputs"]
    clip, scale = (step["kwargs"] for step in image["preprocessing"][1:])
    raw = np.load(tmp_path / "described" / "test_input.npy")
    seen = raw.clip(clip["min"], clip["max"]) * scale["gain"] + scale["offset"]
    weights = torch.jit.load(tmp_path / "described" / "weights.pt")
    with torch.inference_mode():
        found = weights(torch.from_numpy(seen.astype(np.float32))).numpy()
    wanted = np.load(tmp_path / "described" / "test_output.npy")
    assert np.abs(found - wanted).max() < 1e-4


def test_a_model_without_a_licence_of_spdx_is_refused_for_bioimage_io(
    tmp_path, model_folder
):
    with pytest.raises(ModelError, match=r"'not stated'; bioimage\.io asks for one"):
        export(model_folder(), "bioimageio", tmp_path / "described")
    assert not (tmp_path / "described").exists()


# ---- all forms ----


def test_an_unknown_form_is_refused_with_those_there_are(tmp_path, model_folder):
    with pytest.raises(UsageError, match="'tflite' to export to; choose one of onnx"):
        export(model_folder(), "tflite", tmp_path / "out")


def test_a_composite_is_exported_part_by_part(tmp_path, model_folder):
    pair = save_composite(
        tmp_path / "pair", model_folder("coarse"), model_folder("fine")
    )
    with pytest.raises(ModelError, match="is a composite of two networks; export its"):
        export(pair, "onnx", tmp_path / "net.onnx")


def test_what_is_there_is_not_replaced(tmp_path, model_folder):
    (tmp_path / "net.onnx").write_text("mine")
    with pytest.raises(ModelError, match="exists already"):
        export(model_folder(), "onnx", tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_text() == "mine"


def test_the_command_writes_onnx_with_the_card_inside(tmp_path, model_folder, call):
    onnx = pytest.importorskip("onnx")
    model = model_folder()
    out = tmp_path / "net.onnx"
    status, _, said = call("export", model.folder, "--to", "onnx", "--out", out)
    assert (status, said) == (0, f"{out} is ready.\n")
    (entry,) = onnx.load(out).metadata_props
    assert json.loads(entry.value)["classes"]["classes"][0]["name"] == "liver"
