"""OpenVINO in torch's place: the same labels, converted once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from napari_kdseg.errors import UsageError
from napari_kdseg.inference import backends, compiled
from napari_kdseg.inference.backends import windows_at_once
from napari_kdseg.inference.compiled import pick_backend
from napari_kdseg.inference.hooks import Hooks
from napari_kdseg.inference.plan import plan_passes
from napari_kdseg.inference.predict import Settings, predict_volume

Make = Callable[..., Any]
TORCH = Settings("cpu", uncertainty=None)
OPENVINO = replace(TORCH, backend="openvino")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compiled, "user_cache_path", lambda _: tmp_path / "cache")
    compiled._compiled.cache_clear()
    compiled._refused.clear()
    return tmp_path / "cache"


@pytest.mark.parametrize("tile", [(16, 16, 16), (16, 16)])
def test_labels_are_those_of_torch(
    make_model: Make, make_volume: Make, tile: tuple[int, ...]
) -> None:
    pytest.importorskip("openvino")
    # Three windows at once do not divide the windows there are.
    model, volume = make_model(tile), make_volume()
    own = predict_volume(volume, [model], replace(TORCH, batch=3)).labels[0]
    other = predict_volume(volume, [model], replace(OPENVINO, batch=3)).labels[0]
    assert (own == other).mean() >= 0.9995


def test_what_a_window_gives_does_not_depend_on_those_beside_it(
    make_model: Make, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    model = make_model((16, 16, 16))
    (sweep,) = plan_passes([model.card], OPENVINO, at_once=2)
    network = pick_backend(replace(OPENVINO, threads=2), "cpu")(model, sweep, "cpu")
    images = torch.randn(3, 1, 16, 16, 16)
    found = network(images)
    assert found.shape == (3, model.card.classes.count, 16, 16, 16)
    for image, logits in zip(images, found, strict=True):
        assert torch.equal(network(image[None])[0], logits)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (TORCH, 1),
        (OPENVINO, 2),
        (replace(OPENVINO, threads=1), 1),
        (replace(OPENVINO, batch=1), 1),
        (replace(OPENVINO, batch=5), 5),
    ],
)
def test_two_windows_keep_the_threads_of_openvino_busy(
    make_model: Make, settings: Settings, expected: int
) -> None:
    at_once = windows_at_once(settings, "cpu")
    (sweep,) = plan_passes([make_model().card], settings, at_once)
    assert sweep.batch == expected


def test_a_network_is_converted_once(
    make_model: Make,
    make_volume: Make,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("openvino")
    model, volume = make_model(), make_volume()
    predict_volume(volume, [model], OPENVINO)
    assert len(list(cache.rglob("network.xml"))) == 1
    assert not list(cache.rglob("*.partial-*"))

    def never(*_: object) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(compiled, "_convert", never)
    compiled._compiled.cache_clear()
    predict_volume(volume, [model], OPENVINO)


def test_auto_is_torch_where_openvino_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda _: None)
    assert pick_backend(replace(TORCH, backend="auto"), "cpu") is compiled._by_torch
    with pytest.raises(UsageError, match=r"needs openvino, .*napari-kdseg\[fast\]"):
        pick_backend(OPENVINO, "cpu")


def test_auto_is_torch_on_a_graphics_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda _: object())
    assert pick_backend(replace(TORCH, backend="auto"), "cuda:0") is compiled._by_torch
    with pytest.raises(UsageError, match="on the processor"):
        pick_backend(OPENVINO, "cuda:0")


def test_bfloat16_is_refused_where_the_processor_imitates_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("napari_kdseg.inference.forward.has_bfloat16", lambda: False)
    monkeypatch.setattr(backends, "find_spec", lambda _: object())
    with pytest.raises(UsageError, match="not known to multiply in bfloat16"):
        pick_backend(replace(OPENVINO, precision="bfloat16"), "cpu")


class ByHand(torch.nn.Module):
    """Decides in Python what it does, which no trace sees; logits of three classes."""

    def __init__(self, *, traceable: bool = True) -> None:
        super().__init__()
        self.traceable = traceable

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sign = 1.0 if x.abs().sum() > 0 else 0.0
        return torch.cat([0 * x, sign * x, -sign * x], dim=1)


@pytest.mark.parametrize(
    ("traceable", "reason"),
    [(True, "its logits differ by"), (False, "it has a runtime of its own")],
)
def test_a_network_that_openvino_would_get_wrong_is_left_to_torch(
    make_model: Make,
    make_simple: Make,
    make_volume: Make,
    monkeypatch: pytest.MonkeyPatch,
    traceable: bool,
    reason: str,
) -> None:
    pytest.importorskip("openvino")
    by_hand = make_simple((16, 16, 16), ("a", "b"), ByHand(traceable=traceable))
    model = replace(by_hand, folder=make_model().folder)
    volume, said = make_volume(), []
    own = predict_volume(volume, [model], TORCH).labels[0]
    found = predict_volume(
        volume, [model], replace(TORCH, backend="auto"), hooks=Hooks(log=said.append)
    ).labels[0]
    assert (found == own).all()
    assert {*own.ravel()} == {1, 2}
    assert reason in " ".join(said)
    with pytest.raises(UsageError, match=f"{reason}.*Take the backend torch"):
        predict_volume(volume, [model], OPENVINO)
    monkeypatch.setattr(compiled, "_convert", lambda *_: pytest.fail("tried again"))
    with pytest.raises(UsageError, match=reason):
        predict_volume(volume, [model], OPENVINO)
