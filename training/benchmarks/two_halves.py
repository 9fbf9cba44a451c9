"""Cut the one patient of ``mri_brain_tumour_tcga_du_7294`` in two, as a data set.

    python training/benchmarks/two_halves.py DATA/mri_brain_tumour_tcga_du_7294 OUT

The tumour lies in both halves: ``posterior`` is for training, ``anterior`` for testing.
One patient is no result; the halves show that the whole path works on four modalities.
"""

import json
import sys
from pathlib import Path

import nibabel as nib

CHANNELS = ("t1", "t1c", "t2", "flair")
LABELS = "seg_fused_simple"
HALVES = {"posterior": slice(97, None), "anterior": slice(0, 97)}
ABOVE = 40  # slices below show no tumour


def main(source: Path, out: Path) -> None:
    """Write both halves in nnU-Net's layout."""
    files = {f"imagesTr/{{}}_{i:04d}": name for i, name in enumerate(CHANNELS)}
    for place, name in {**files, "labelsTr/{}": LABELS}.items():
        whole = nib.Nifti1Image.from_filename(source / f"{name}.nii.gz")
        for half, rows in HALVES.items():
            file = out / f"{place.format(half)}.nii.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            nib.save(whole.slicer[:, rows, ABOVE:], file)
    about = {
        "channel_names": {str(i): name for i, name in enumerate(CHANNELS)},
        "labels": {"background": 0, "necrotic core": 1, "oedema": 2},
        "numTraining": len(HALVES),
        "file_ending": ".nii.gz",
    }
    (out / "dataset.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
