"""What networks say about cases that nobody has labelled."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor

from kdseg_train.config import Recipe
from kdseg_train.prepared import StoredCase
from napari_kdseg.models.networks.network import SegmentationNetwork
from napari_kdseg.runs.run import Run


def mark_foreground(
    run: Run,
    recipe: Recipe,
    stored: list[StoredCase],
    teachers: Sequence[SegmentationNetwork],
    device: torch.device,
) -> None:
    """Let the teachers say where organs are, since the student may not see labels."""
    for number, case in enumerate(stored, start=1):
        run.check_stop()
        marker = case.folder / "marked-by-teachers"
        if not marker.exists():
            case.set_places(_seen_by_any(recipe, case, teachers, device))
            marker.touch()
        run.progress(number, len(stored), stage="foreground")


@torch.inference_mode()
def _seen_by_any(
    recipe: Recipe,
    case: StoredCase,
    teachers: Sequence[SegmentationNetwork],
    device: torch.device,
) -> np.ndarray:
    image = torch.from_numpy(np.asarray(case.image, dtype=np.float32)).to(device)
    # slices become the batch of a 2D network
    flat = len(recipe.patch_vox) == 2
    patches_in = image.movedim(1, 0) if flat else image[None]
    seen = np.zeros(image.shape[1:], np.uint8)
    for organ, teacher in enumerate(teachers, start=1):
        logits = sliding_window_inference(
            patches_in,
            recipe.patch_vox,
            sw_batch_size=4,
            predictor=teacher,
            overlap=0.25,
            cval=recipe.preprocessing.pad_value,
        )
        mask = cast(Tensor, logits).argmax(dim=1).bool()
        seen[(mask if flat else mask[0]).cpu().numpy()] = organ
    return seen
