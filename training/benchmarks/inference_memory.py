"""Peak memory of predicting a volume, beside MONAI's ``sliding_window_inference``.

Every contender runs in a process of its own, with the same network, window, overlap
and blending. Counted is the highest resident memory less what importing took, the
volume itself included: 16 bits a voxel for us, float32 for MONAI, which takes nothing
else. The network is a single convolution, so that time and memory are those of tiling,
blending and taking labels, not of a network.

    python training/benchmarks/inference_memory.py
    python training/benchmarks/inference_memory.py --size 192 --classes 5

A second table compares labels on a smaller volume with a real U-Net.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

OVERLAP = 0.5


def main() -> None:
    """Run the contenders one after the other and print the table."""
    arguments = _parser().parse_args()
    if arguments.contender:
        print(json.dumps(_measured(arguments)))
        return
    rows = [(name, _in_own_process(name, arguments)) for name in CONTENDERS]
    reference = dict(rows)["monai"]["peak_bytes"]
    size, tile = arguments.size, arguments.tile
    print(
        f"{size} x {size} x {size} voxels, {arguments.classes} classes, windows of "
        f"{tile} x {tile} x {tile}, overlap {OVERLAP}, Gaussian, float32"
    )
    print(
        f"{date.today().isoformat()}, {_processor()}, torch {version('torch')}, ",
        end="",
    )
    print(f"MONAI {version('monai')}, {arguments.threads} thread(s)\n")
    print("| | peak memory beyond imports | of MONAI's | seconds |")
    print("| --- | ---: | ---: | ---: |")
    for name, row in rows:
        peak = row["peak_bytes"]
        print(
            f"| {LABELS[name]} | {peak / 1e6:.0f} MB | {peak / reference:.2f} "
            f"| {row['seconds']:.0f} |"
        )
    agreement = _in_own_process("agreement", arguments)
    print(
        f"\nLabels of a U-Net on {agreement['voxels']} voxels: equal in "
        f"{agreement['equal']}. In {agreement['clear']} the best two mean logits "
        f"differ by more than 1e-5; all of these equal: {agreement['all_clear_equal']}."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=384, help="voxels a side")
    parser.add_argument("--classes", type=int, default=14, help="background included")
    parser.add_argument(
        "--tile", type=int, default=96, help="voxels a side of a window"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contender", default="", help=argparse.SUPPRESS)
    return parser


def _in_own_process(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    options = [
        f"--{key}={getattr(arguments, key)}"
        for key in ("size", "classes", "tile", "threads")
    ]
    finished = subprocess.run(
        [sys.executable, __file__, f"--contender={name}", *options],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


def _measured(arguments: argparse.Namespace) -> dict[str, Any]:
    import psutil
    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.contender == "agreement":
        return _agreement()
    work = CONTENDERS[arguments.contender](arguments)
    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    return {"peak_bytes": peak - before, "seconds": seconds}


def _ours(arguments: argparse.Namespace) -> Callable[[], None]:
    return _predicting(arguments, None)


def _ours_with_uncertainty(arguments: argparse.Namespace) -> Callable[[], None]:
    return _predicting(arguments, "entropy")


def _predicting(
    arguments: argparse.Namespace, uncertainty: str | None
) -> Callable[[], None]:
    """Labels of the whole volume; uncertainty goes tile by tile, as to the disk."""
    import numpy as np

    from napari_kdseg.inference.predict import Settings, predict_tiles
    from napari_kdseg.models.model import ModelCard, NetworkSpec, Tiling
    from napari_kdseg.volumes.labels import LabelSet
    from napari_kdseg.volumes.preprocessing import Intensity, Preprocessing
    from napari_kdseg.volumes.volume import Grid, Volume

    names = [f"class {number}" for number in range(1, arguments.classes)]
    spec = NetworkSpec(name="unet", parameters={"dimensions": 3, "stages": 4})
    window = Intensity(kind="window", low=-1000, high=1000)
    card = ModelCard(
        name="one-convolution",
        network=spec,
        channels=("image",),
        classes=LabelSet.from_names(names),
        preprocessing=Preprocessing(intensity=(window,)),
        tiling=Tiling(tile_vox=(arguments.tile,) * 3, overlap=OVERLAP),
    )
    model = _in_hand(card, _convolution(arguments.classes))
    settings = Settings("cpu", uncertainty=uncertainty)

    def work() -> None:
        data = _volume(arguments.size)
        grid = Grid.from_affine(np.eye(4), data.shape[1:])
        labels = np.zeros(grid.shape, np.uint8)
        for tile in predict_tiles(Volume(data, grid, ("image",)), [model], settings):
            labels[tile.index] = tile.labels[0]

    return work


def _monai(arguments: argparse.Namespace) -> Callable[[], None]:
    import numpy as np
    import torch
    from monai.inferers.utils import sliding_window_inference

    network = _convolution(arguments.classes)

    def work() -> None:
        data = _volume(arguments.size)
        image = torch.from_numpy(np.empty((1, *data.shape), np.float32))
        for plane in range(arguments.size):
            image[0, :, plane] = torch.from_numpy(data[:, plane] / np.float32(1000))
        del data
        image.clamp_(-1, 1)
        with torch.inference_mode():
            logits = sliding_window_inference(
                image, (arguments.tile,) * 3, 1, network, OVERLAP, mode="gaussian"
            )
            assert isinstance(logits, torch.Tensor)
            logits.argmax(dim=1).to(torch.uint8)

    return work


def _agreement() -> dict[str, Any]:
    """Labels of both on a volume that is no multiple of the window, with a U-Net."""
    import numpy as np
    import torch
    from monai.inferers.utils import sliding_window_inference

    from napari_kdseg.inference.predict import Settings, predict_volume
    from napari_kdseg.models.model import ModelCard, NetworkSpec, Tiling
    from napari_kdseg.models.networks import build
    from napari_kdseg.volumes.labels import LabelSet
    from napari_kdseg.volumes.preprocessing import Preprocessing, prepare
    from napari_kdseg.volumes.volume import Grid, Volume

    torch.manual_seed(0)
    spec = NetworkSpec(
        name="unet", parameters={"dimensions": 3, "stages": 4, "width": 8}
    )
    card = ModelCard(
        name="unet",
        network=spec,
        channels=("image",),
        classes=LabelSet.from_names([f"class {k}" for k in range(1, 14)]),
        preprocessing=Preprocessing(),
        tiling=Tiling(tile_vox=(48, 48, 48), overlap=OVERLAP),
    )
    network = build(spec, 1, 14).eval()
    data = np.ascontiguousarray(_volume(128)[:, :101, :90, :115])
    volume = Volume(data, Grid.from_affine(np.eye(4), data.shape[1:]), ("image",))
    settings = Settings("cpu", uncertainty=None)
    labels = predict_volume(volume, [_in_hand(card, network)], settings).labels[0]
    image = torch.from_numpy(prepare(volume, card.preprocessing).data[None])
    with torch.inference_mode():
        logits = sliding_window_inference(
            image, (48,) * 3, 1, network, OVERLAP, mode="gaussian"
        )
    assert isinstance(logits, torch.Tensor)
    best = logits[0].topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-5).numpy()
    equal = labels == logits[0].argmax(dim=0).numpy()
    return {
        "voxels": int(equal.size),
        "equal": int(equal.sum()),
        "clear": int(clear.sum()),
        "all_clear_equal": bool(equal[clear].all()),
    }


def _in_hand(card: Any, network: Any) -> Any:
    """A model whose network is not on the disk."""
    from napari_kdseg.models.model import Model

    class InHand(Model):
        def network(self, device: str = "cpu") -> Any:
            return network.to(device)

    return InHand(card, Path("in-hand"))


def _convolution(classes: int) -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Conv3d(1, classes, 3, padding=1).eval()


def _volume(size: int) -> Any:
    """A made 16-bit scan, channel first."""
    import numpy as np

    generator = np.random.default_rng(0)
    data = np.empty((1, size, size, size), np.int16)
    for plane in range(size):
        data[0, plane] = generator.normal(0, 400, (size, size))
    return data


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if not listing.is_file():
        return platform.processor() or platform.machine()
    lines = listing.read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


CONTENDERS: dict[str, Callable[[argparse.Namespace], Callable[[], None]]] = {
    "monai": _monai,
    "ours": _ours,
    "ours-uncertainty": _ours_with_uncertainty,
}
LABELS = {
    "monai": "MONAI sliding_window_inference + argmax",
    "ours": "napari-kdseg, labels",
    "ours-uncertainty": "napari-kdseg, labels and entropy",
}

if __name__ == "__main__":
    main()
