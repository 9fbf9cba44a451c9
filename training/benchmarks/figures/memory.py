"""Figure 1: memory of predicting a volume, beside MONAI, nnU-Net and TorchIO.

The network is a single convolution, so that memory is that of tiling, blending and
taking labels. Each contender has a process of its own; counted is the highest resident
memory less what there was before, the volume included: 16 bits a voxel for us, float32
for the others, which take nothing else.
"""

from pathlib import Path

import numpy as np
import torch

from figures.made import by_monai, by_nnunet, noise, one_convolution, volume_of
from figures.rows import PeerError, Row, at_most, isolated, measured_peak, not_run

TILE = 96
CLASSES = 14
GOALS = {"monai": 0.30, "nnunet": 0.25, "torchio": 0.15}
NAMES = {
    "monai": "MONAI sliding_window_inference + argmax",
    "nnunet": "nnU-Net predictor + argmax",
    "torchio": "TorchIO GridAggregator (hann) + argmax",
}


def measure(*, quick: bool) -> list[Row]:
    """Memory of all contenders, and the equality of labels with MONAI's."""
    size = 256 if quick else 384
    ours = isolated(napari_kdseg, size=size)
    rows = [
        Row(
            "1",
            f"extra memory, {size}^3, {CLASSES} classes",
            f"{ours['bytes'] / 1e6:.0f} MB, {ours['seconds']:.0f} s",
        )
    ]
    peers = {"monai": monai, "nnunet": nnunet, "torchio": torchio}
    for name, work in peers.items():
        goal = f"at most {GOALS[name]:.2f}"
        try:
            theirs = isolated(work, size=size)
        except PeerError as error:
            rows.append(not_run("1", f"of {NAMES[name]}", goal, error))
            continue
        ratio = ours["bytes"] / theirs["bytes"]
        note = f"{theirs['bytes'] / 1e6:.0f} MB, {theirs['seconds']:.0f} s"
        verdict = at_most(ratio, GOALS[name])
        what = f"of {NAMES[name]}"
        rows.append(Row("1", what, f"{ratio:.3f}", goal, verdict, note))
    return [*rows, *_equality()]


def _equality() -> list[Row]:
    goal = "all where the best two differ by over 1e-5"
    what = "labels equal to MONAI's, U-Net"
    try:
        found = isolated(agreement)
    except PeerError as error:
        return [not_run("1", what, goal, error)]
    measured = f"{found['clear_equal']} of {found['clear']}"
    note = f"{found['equal']} of all {found['voxels']} voxels"
    verdict = at_most(found["clear"] - found["clear_equal"], 0)
    return [Row("1", what, measured, goal, verdict, note)]


# ---- Each in a process of its own ----


def napari_kdseg(size: int) -> dict[str, float]:
    """Ours: labels of the whole volume."""
    from kdseg_train.allocation import keep_freed_memory
    from napari_kdseg.inference.predict import Settings, predict_tiles

    keep_freed_memory()  # as every command does
    model = one_convolution(CLASSES, TILE)
    settings = Settings("cpu", uncertainty=None)

    def work() -> None:
        data = noise((size, size, size))
        labels = np.zeros(data.shape[1:], np.uint8)
        for tile in predict_tiles(volume_of(data), [model], settings):
            labels[tile.index] = tile.labels[0]

    return measured_peak(work)


def monai(size: int) -> dict[str, float]:
    """MONAI's sliding windows."""
    predict = by_monai(one_convolution(CLASSES, TILE).inner, (TILE,) * 3)
    return measured_peak(lambda: predict(_image(size)).argmax(0).to(torch.uint8))


def nnunet(size: int) -> dict[str, float]:
    """nnU-Net's predictor."""
    predict = by_nnunet(one_convolution(CLASSES, TILE).inner, CLASSES, (TILE,) * 3)
    return measured_peak(lambda: predict(_image(size)))


def torchio(size: int) -> dict[str, float]:
    """TorchIO's grid of patches."""
    import torchio as tio

    network = one_convolution(CLASSES, TILE).inner

    def work() -> None:
        subject = tio.Subject(image=tio.ScalarImage(tensor=_image(size)))
        sampler = tio.inference.GridSampler(subject, TILE, TILE // 2)
        joined = tio.inference.GridAggregator(sampler, overlap_mode="hann")
        for index in range(len(sampler)):
            patch = sampler[index]
            with torch.inference_mode():
                logits = network(patch["image"][tio.DATA][None])
            joined.add_batch(logits, torch.as_tensor(patch[tio.LOCATION])[None])
        joined.get_output_tensor().argmax(0).to(torch.uint8)

    return measured_peak(work)


def agreement() -> dict[str, int]:
    """Labels of both on a volume that is no multiple of the window, with a U-Net."""
    from figures.made import InHand, card
    from napari_kdseg.inference.predict import Settings, predict_volume
    from napari_kdseg.models.networks import build
    from napari_kdseg.volumes.preprocessing import Intensity

    torch.manual_seed(0)
    described = card(CLASSES, 48, Intensity(kind="none"))
    network = build(described.network, 1, CLASSES).eval()
    data = noise((101, 90, 115)).astype(np.float32) / 400
    settings = Settings("cpu", uncertainty=None)
    model = InHand(described, Path("in-hand"), inner=network)
    labels = predict_volume(volume_of(data), [model], settings).labels[0]
    logits = by_monai(network, (48, 48, 48))(torch.from_numpy(data))
    best = logits.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-5).numpy()
    equal = labels == logits.argmax(0).numpy()
    return {
        "voxels": int(equal.size),
        "equal": int(equal.sum()),
        "clear": int(clear.sum()),
        "clear_equal": int(equal[clear].sum()),
    }


def _image(size: int) -> torch.Tensor:
    """The same scan as float32 between -1 and 1, made without a second copy."""
    data = noise((size, size, size))
    image = torch.from_numpy(np.empty(data.shape, np.float32))
    for plane in range(size):
        image[0, plane] = torch.from_numpy(data[0, plane] / np.float32(1000))
    return image.clamp_(-1, 1)
