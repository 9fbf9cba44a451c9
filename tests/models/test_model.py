"""Model folders: written, read back, fingerprinted, refused."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from napari_kdseg.errors import ModelError
from napari_kdseg.models.model import (
    Model,
    ModelCard,
    NetworkSpec,
    Postprocessing,
    Provenance,
    Tiling,
    save_model,
)
from napari_kdseg.models.networks import build
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.preprocessing import Preprocessing

SMALL = {"width": 2, "stages": 2}
SPEC = NetworkSpec(name="unet", parameters=SMALL)


def card(**changes: Any) -> ModelCard:
    values: dict[str, Any] = {
        "name": "tiny",
        "network": SPEC,
        "channels": ("CT",),
        "classes": LabelSet.from_names(["spleen", "kidney"]),
        "tiling": Tiling(tile_vox=(8, 8)),
    }
    return ModelCard(**{**values, **changes})


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build(SPEC, 1, 3)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return save_model(tmp_path / "tiny", card(), network())


def change_card(model: Model, **changes: Any) -> None:
    path = model.folder / "model.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**values, **changes}), encoding="utf-8")


def test_a_saved_model_comes_back_bit_for_bit(model: Model):
    restored = Model.open(model.folder).network()
    wanted, found = network().state_dict(), restored.state_dict()
    assert list(wanted) == list(found)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_a_restored_network_gives_the_same_logits(model: Model):
    image = torch.rand(2, 1, 8, 12)
    assert torch.equal(model.network()(image), network().eval()(image))


def test_a_restored_network_is_ready_to_predict_and_to_train(model: Model):
    restored = model.network()
    assert not restored.training
    assert all(parameter.requires_grad for parameter in restored.parameters())


def test_batch_norm_statistics_are_kept(tmp_path: Path):
    spec = NetworkSpec(
        name="resnet18-unet", parameters={"decoder_widths": [4, 4, 4, 4, 4]}
    )
    trained = build(spec, 1, 3).train()
    trained(torch.rand(2, 1, 32, 64))
    chart = card(network=spec, tiling=Tiling(tile_vox=(32, 32)))
    restored = save_model(tmp_path / "resnet", chart, trained).network()
    image = torch.rand(1, 1, 32, 64)
    assert torch.equal(restored(image), trained.eval()(image))


def test_the_card_comes_back_as_it_was(tmp_path: Path):
    provenance = Provenance(
        method="ms-kd",
        recipe={"training": {"learning_rate": 3e-4, "plateau": None}, "seeds": [0, 1]},
        teachers=("a" * 64,),
        versions={"torch": "2.13.0"},
        metrics={"dice": {"spleen": 0.91}},
        created_utc="2025-01-02T03:04:05+00:00",
    )
    written = card(
        provenance=provenance,
        description="Größe: 3 µm, no, yes, on",
        spacing_range_mm=(0.5, 5.0),
        preprocessing=Preprocessing(spacing_mm=(None, 1.0, 1.0), pad_value=1e-5),
        postprocessing=Postprocessing(keep_largest={"spleen": 1}, minimum_mm3=2.5),
    )
    save_model(tmp_path / "tiny", written, network())
    assert Model.open(tmp_path / "tiny").card == written


def test_a_card_that_was_changed_is_read_anew(model: Model):
    assert Model.open(model.folder).card.licence != "CC0-1.0"
    change_card(model, licence="CC0-1.0")
    assert Model.open(model.folder).card.licence == "CC0-1.0"


def test_a_model_folder_has_its_four_files(model: Model):
    assert sorted(path.name for path in model.folder.iterdir()) == [
        "README.md",
        "measurements.json",
        "model.yaml",
        "weights.safetensors",
    ]
    assert json.loads((model.folder / "measurements.json").read_text()) == {}
    assert model.fingerprint in (model.folder / "README.md").read_text("utf-8")


def test_a_model_opens_by_its_card_too(model: Model):
    assert Model.open(model.folder / "model.yaml").folder == model.folder


def test_the_fingerprint_is_the_same_wherever_the_model_lies(
    model: Model, tmp_path: Path
):
    other = save_model(tmp_path / "elsewhere", card(), network())
    assert (
        other.fingerprint == model.fingerprint == Model.open(other.folder).fingerprint
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"description": "better words"},
        {"licence": "CC0"},
        {"provenance": Provenance(method="ms-kd")},
    ],
)
def test_the_fingerprint_ignores_what_changes_no_label(
    model: Model, tmp_path: Path, changes: dict[str, Any]
):
    other = save_model(tmp_path / "other", card(**changes), network())
    assert other.fingerprint == model.fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": ("MR",)},
        {"classes": LabelSet.from_names(["kidney", "spleen"])},
        {"preprocessing": Preprocessing(pad_value=-1.0)},
        {"tiling": Tiling(tile_vox=(8, 8), overlap=0.25)},
        {"postprocessing": Postprocessing(fill_holes=("spleen",))},
        {"network": NetworkSpec(name="unet", parameters={**SMALL, "max_width": 4})},
    ],
)
def test_the_fingerprint_follows_what_changes_labels(
    model: Model, tmp_path: Path, changes: dict[str, Any]
):
    other = save_model(tmp_path / "other", card(**changes), network())
    assert other.fingerprint != model.fingerprint


def test_the_fingerprint_follows_the_weights(model: Model, tmp_path: Path):
    changed = network()
    with torch.no_grad():
        changed.head.bias[0] += 1e-6
    other = save_model(tmp_path / "other", card(), changed)
    assert other.fingerprint != model.fingerprint


def test_weights_stored_in_half_precision_compute_in_single(tmp_path: Path):
    small = save_model(tmp_path / "tiny", card(), network(), precision="float16")
    stored = load_file(small.folder / "weights.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    restored = small.network().head.weight
    assert restored.dtype == torch.float32
    assert torch.equal(restored, network().head.weight.half().float())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_network_is_built_on_the_device_it_is_asked_for(model: Model):
    restored = model.network("cuda")
    assert {parameter.device.type for parameter in restored.parameters()} == {"cuda"}
    image = torch.rand(1, 1, 8, 8)
    wanted, found = model.network()(image), restored(image.cuda()).cpu()
    assert torch.allclose(wanted, found, atol=1e-2)


def test_a_card_is_read_where_torch_cannot_be(model: Model):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from napari_kdseg.models.model import Model\n"
        "model = Model.open(Path(sys.argv[1]))\n"
        "heavy = {'monai', 'safetensors', 'SimpleITK', 'zarr'} & set(sys.modules)\n"
        "print(model.card.name, model.fingerprint, sorted(heavy))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, str(model.folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split(maxsplit=2) == ["tiny", model.fingerprint, "[]\n"]


def test_a_published_model_is_never_overwritten(model: Model):
    with pytest.raises(ModelError, match="exists already"):
        save_model(model.folder, card(description="new"), network())
    assert Model.open(model.folder).card.description == ""


def test_a_network_that_is_not_on_the_card_is_not_saved(tmp_path: Path):
    wrong = build(SPEC, 1, 2)
    with pytest.raises(ModelError, match=r"head.bias of \[2\] .* head.bias of \[3\]"):
        save_model(tmp_path / "tiny", card(), wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="does not exist; a model is a folder"):
        Model.open(tmp_path / "nothing")


def test_a_file_is_no_model(tmp_path: Path):
    file = tmp_path / "weights.pt"
    file.write_bytes(pickle.dumps({}))
    with pytest.raises(ModelError, match="is a file; a model is a folder"):
        Model.open(file)


def test_a_folder_without_a_card_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"has no model\.yaml"):
        Model.open(tmp_path)


def test_missing_weights_are_refused(model: Model):
    (model.folder / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights\.safetensors"):
        Model.open(model.folder)


def test_a_pickle_beside_the_card_is_not_taken_for_weights(model: Model):
    (model.folder / "weights.safetensors").rename(model.folder / "weights.pth")
    with pytest.raises(ModelError, match=r"weights\.pth in place of.*can run any code"):
        Model.open(model.folder)


@pytest.mark.parametrize("packing", ["pickle", "zip", "legacy"])
def test_a_pickle_under_the_name_of_weights_is_refused(model: Model, packing: str):
    path = model.folder / "weights.safetensors"
    if packing == "pickle":
        path.write_bytes(pickle.dumps({"weight": [1.0]}))
    else:
        zipped = packing == "zip"
        torch.save(network().state_dict(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="is a pickle, whatever its name says"):
        Model.open(model.folder)


def test_weights_cut_short_are_refused(model: Model):
    path = model.folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelError, match="header promises"):
        Model.open(model.folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"x" * 100,
        (4).to_bytes(8, "little") + b"{no}",
        (4).to_bytes(8, "little") + b"[[]]",
        (9).to_bytes(8, "little") + b'{"a": {}}',
        (36).to_bytes(8, "little") + b'{"a": {"data_offsets":[0,Infinity]}}',
        (90_006).to_bytes(8, "little") + b'{"a": ' + b"[" * 90_000,
    ],
)
def test_weights_that_are_something_else_are_refused(model: Model, content: bytes):
    (model.folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"weights\.safetensors .*safetensors file"):
        Model.open(model.folder)


def test_weights_of_another_network_are_refused(model: Model):
    path = model.folder / "weights.safetensors"
    weights = load_file(path)
    weights["head.weight"] = torch.zeros(5, 2, 1, 1)
    save_file(weights, path)
    with pytest.raises(ModelError, match=r"\[5, 2, 1, 1\] where .* \[3, 2, 1, 1\]"):
        Model.open(model.folder).network()


def test_missing_tensors_are_refused(model: Model):
    path = model.folder / "weights.safetensors"
    weights = load_file(path)
    del weights["head.bias"]
    save_file(weights, path)
    with pytest.raises(ModelError, match=r"no head\.bias where"):
        model.network()


def test_tensors_too_many_are_refused(model: Model):
    path = model.folder / "weights.safetensors"
    save_file({**load_file(path), "extra": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"extra of \[1\] where .* no extra"):
        model.network()


def test_a_newer_version_says_what_to_update(model: Model):
    change_card(model, version=2, something_new=True)
    with pytest.raises(ModelError, match=r"version 2; .* up to 1. Update napari-kdseg"):
        Model.open(model.folder)


@pytest.mark.parametrize("version", ["1", None, True, 0])
def test_a_version_that_is_none_is_refused(model: Model, version: object):
    change_card(model, version=version)
    with pytest.raises(ModelError, match="a card begins with version: 1"):
        Model.open(model.folder)


def test_an_unknown_key_is_refused_by_name(model: Model):
    change_card(model, tilling={})
    with pytest.raises(ModelError, match=r"model\.yaml: the key 'tilling' is unknown"):
        Model.open(model.folder)


@pytest.mark.parametrize("name", ["../../etc", "/tmp/x", "a/b"])
def test_a_name_that_climbs_out_of_its_folder_is_refused(model: Model, name: str):
    change_card(model, name=name)
    with pytest.raises(ModelError, match="becomes a folder"):
        Model.open(model.folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version: [1", "no plain YAML"),
        ("- 1\n- 2", "holds list"),
        ("", "holds NoneType"),
        ("version: !!python/object/apply:os.getcwd []", "no plain YAML"),
        ("a: &a [1, 2]\nb: *a", "alias"),
        ("version: 1\nday: 2025-99-99", "no plain YAML"),
        ("[" * 100_000, "no plain YAML"),
        ("version: 1\nname: x", "is missing"),
    ],
)
def test_a_card_that_is_no_plain_mapping_is_refused(
    model: Model, text: str, reason: str
):
    (model.folder / "model.yaml").write_text(text)
    with pytest.raises(ModelError, match=reason):
        Model.open(model.folder)


def test_a_card_that_is_no_text_is_refused(model: Model):
    (model.folder / "model.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="no plain YAML"):
        Model.open(model.folder)


def test_a_card_of_absurd_size_is_refused_unread(model: Model):
    with (model.folder / "model.yaml").open("ab") as file:
        file.truncate(5_000_000)
    with pytest.raises(ModelError, match="a card has at most"):
        Model.open(model.folder)
