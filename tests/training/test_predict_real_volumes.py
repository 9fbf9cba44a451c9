"""Every NIfTI of a folder of real volumes goes through predict, or is refused.

Needs ``pytest --real-data=DIR``. The reference is nibabel.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from kdseg_train.execute import execute
from napari_kdseg.errors import VolumeError
from napari_kdseg.models.model import Model, Tiling
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.formats import case_id, inspect_volume, suffix_of

# Ends of paths that must be refused; the reading tests say for which reason each.
REFUSED = (
    "nifti_tricky/niftirs_complex32.nii",
    "nifti_tricky/niftirs_minimal_extended_hdr.nii",
    "nifti_tricky/niftirs_rgb_3D.nii",
    "nifti_tricky/niftirs_crash-1.nii",
)


@pytest.mark.slow
def test_every_file_is_predicted_on_its_own_grid_or_refused(
    real_data: Path, tmp_path: Path, model_folder: Callable[..., Model]
) -> None:
    paths = sorted([*real_data.rglob("*.nii"), *real_data.rglob("*.nii.gz")])
    together: dict[tuple[Path, int], list[Path]] = defaultdict(list)
    for path in paths:
        if path.as_posix().endswith(REFUSED):
            with pytest.raises(VolumeError):
                inspect_volume(path)
        else:
            together[path.parent, len(inspect_volume(path).channels)].append(path)
    models = {
        count: model_folder(
            f"of{count}",
            channels=tuple(f"channel {i}" for i in range(count)),
            tiling=Tiling(tile_vox=(64, 64), overlap=0.0, batch=16),
        )
        for count in {count for _, count in together}
    }
    for number, ((_, count), scans) in enumerate(together.items()):
        out = tmp_path / f"out{number}"
        predict(scans, models[count], out)
        for scan in scans:
            check_lies_on(scan, labels_of(scan, out, models[count]))


def predict(scans: list[Path], model: Model, out: Path) -> None:
    config = {
        "version": 1,
        "command": "predict",
        "inputs": scans,
        "models": [model.folder],
        "out": out,
        "device": "cpu",
    }
    execute(Run.create(out / ".run", config))


def labels_of(scan: Path, out: Path, model: Model) -> Path:
    return out / case_id(scan) / model.card.name / f"labels{suffix_of(scan)}"


def check_lies_on(scan: Path, labels: Path) -> None:
    source, result = nibabel.load(scan), nibabel.load(labels)
    assert result.shape == source.shape[:3], scan
    assert np.allclose(result.affine, source.affine, rtol=0, atol=1e-4), scan
    values = np.unique(np.asarray(result.dataobj))
    assert set(values.tolist()) <= {0, 1, 2}, scan
