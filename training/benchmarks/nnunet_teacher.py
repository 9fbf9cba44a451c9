"""A real nnU-Net teaches: trained by its own package, imported, compared, then used.

``python training/benchmarks/nnunet_teacher.py DATA OUT`` needs the packages of
``make bench-env``. DATA is the hippocampus set of the Medical
Segmentation Decathlon; OUT must be new, or is gone on with. Steps:

1. nnU-Net v2 fingerprints, plans (``3d_fullres``, at a voxel size that is not the
   scans', so that both ways of resampling count), preprocesses and trains 32 cases; the
   plan is made small for a processor, the trainer and all else are nnU-Net's own.
2. ``kdseg-train import`` turns the results folder into a model, with and without
   mirroring.
3. Both predict cases that nobody trained on; the share of equal labels is printed.
4. ``kdseg-train predict`` labels training cases with the imported model, and MS-KD
   trains a student from these predictions.
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

NUMBER, NAME = 904, "Dataset904_Hippocampus"
CONFIGURATION = "3d_fullres"
GOAL = 0.999


def main(data: Path, out: Path, cases: int, iterations: int) -> None:
    """Do all steps; those whose results lie in OUT are not done again."""
    raw, prepared, results = (out / part for part in ("raw", "prepared", "results"))
    # Set before nnU-Net is imported: it has no other way to be told.
    os.environ |= {  # noqa: TID251
        "nnUNet_raw": str(raw),
        "nnUNet_preprocessed": str(prepared),
        "nnUNet_results": str(results),
        "nnUNet_n_proc_DA": "1",
        "nnUNet_compile": "false",
    }
    listed = json.loads((data / "dataset.json").read_text())["training"]
    names = [Path(pair["image"]).name for pair in listed]
    copy_raw(data, raw / NAME, names[:cases])
    folder = train(prepared, iterations)
    unseen = names[cases : cases + 8]
    for mirrored in (True, False):
        compare(data, folder, out, unseen, mirrored=mirrored)
    teach(data, out, cases)


def copy_raw(data: Path, raw: Path, names: list[str]) -> None:
    """Lay cases out as nnU-Net wants them."""
    if (raw / "dataset.json").exists():
        return
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    for name in names:
        case = name.removesuffix(".nii.gz")
        shutil.copy(data / "imagesTr" / name, raw / "imagesTr" / f"{case}_0000.nii.gz")
        shutil.copy(data / "labelsTr" / name, raw / "labelsTr" / name)
    described = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
        "numTraining": len(names),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(described))


def train(prepared: Path, iterations: int) -> Path:
    """Plan, preprocess and train with nnU-Net; give its results folder."""
    import torch
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plans_file = prepared / NAME / "nnUNetPlans.json"
    if not plans_file.exists():
        api.extract_fingerprint_dataset(NUMBER, num_processes=1)
        api.plan_experiment_dataset(NUMBER, overwrite_target_spacing=(0.8, 0.9, 1.1))
        plans = json.loads(plans_file.read_text())
        own = plans["configurations"][CONFIGURATION]
        own["batch_size"] = 2
        shape = own["architecture"]["arch_kwargs"]
        shape["features_per_stage"] = [f // 4 for f in shape["features_per_stage"]]
        plans_file.write_text(json.dumps(plans))
        api.preprocess_dataset(
            NUMBER, configurations=(CONFIGURATION,), num_processes=(1,)
        )
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: TID251, SIM112 - its own name
    trainer = nnUNetTrainer(
        json.loads(plans_file.read_text()) | {"continue_training": False},
        CONFIGURATION,
        0,
        json.loads((prepared / NAME / "dataset.json").read_text()),
        device=torch.device("cpu"),
    )
    trainer.num_epochs = 2
    trainer.num_iterations_per_epoch = iterations // 2
    trainer.num_val_iterations_per_epoch = 2
    if not (Path(trainer.output_folder) / "checkpoint_final.pth").exists():
        begun = time.perf_counter()
        trainer.run_training()
        print(f"nnU-Net trained {iterations} steps in {_seconds(begun)}")
    return Path(trainer.output_folder_base)


def compare(
    data: Path, folder: Path, out: Path, names: list[str], *, mirrored: bool
) -> None:
    """Import, predict with both, print the share of equal labels."""
    import torch
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from napari_kdseg.inference.predict import Settings, predict_volume
    from napari_kdseg.models.model import Model
    from napari_kdseg.volumes.formats import read_volume

    said = "mirrored" if mirrored else "not-mirrored"
    model = out / "models" / said
    if not model.exists():
        mirror = "--mirror" if mirrored else "--no-mirror"
        kdseg("import", folder, "--out", model, "--folds", "0", mirror)
    predictor = nnUNetPredictor(
        use_mirroring=mirrored, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=(0,))
    own = Model.open(model)
    equal = voxels = foreground = agreed = 0
    for name in names:
        path = data / "imagesTr" / name
        image, facts = SimpleITKIO().read_images([str(path)])
        theirs = predictor.predict_single_npy_array(image, facts)
        settings = Settings(device="cpu", uncertainty=None)
        ours = predict_volume(read_volume(path), [own], settings).labels[0]
        same = np.asarray(ours) == np.asarray(theirs)
        organ = (np.asarray(ours) > 0) | (np.asarray(theirs) > 0)
        equal, voxels = equal + int(same.sum()), voxels + same.size
        agreed += int(same[organ].sum())
        foreground += int(organ.sum())
    share = equal / voxels
    verdict = "reached" if share >= GOAL else "MISSED"
    print(
        f"{said}: {share:.6f} of {voxels} labels in {len(names)} scans are equal "
        f"(goal {GOAL}, {verdict}); of {foreground} organ voxels "
        f"{agreed / max(foreground, 1):.6f}"
    )


def teach(data: Path, out: Path, cases: int) -> None:
    """Let the imported model teach a student by MS-KD."""
    predicted, student = out / "predicted", out / "student"
    scans = [str(path) for path in sorted((data / "imagesTr").iterdir())[:cases]]
    if not predicted.exists():
        kdseg("predict", *scans, "--model", out / "models" / "mirrored", "--out",
              predicted, "--probabilities")  # fmt: skip
    recipe = out / "student.yaml"
    recipe.write_text(json.dumps(_recipe(data, predicted, cases)))
    if not (student / "model").exists():
        kdseg("fit", recipe, "--out", student)
    print((student / "metrics-summary.md").read_text())


def _recipe(data: Path, predicted: Path, cases: int) -> dict[str, Any]:
    organs = ("Anterior", "Posterior")
    half = cases // 2
    return {
        "version": 1,
        "command": "fit",
        "method": "ms-kd",
        "name": "student",
        "data": [
            {"path": str(data), "annotated": [organs[0]], "cases": f"0:{half}"},
            {"path": str(data), "annotated": [organs[1]], "cases": f"{half}:{cases}"},
        ],
        "test": [{"path": str(data), "cases": f"{cases}:{cases + 8}"}],
        "preprocessing": {"orientation": "RAS", "intensity": [{"kind": "zscore"}]},
        "network": {"name": "unet", "parameters": {"width": 16, "stages": 4}},
        "patch_vox": [64, 48],
        "teachers": {organ: str(predicted) for organ in organs},
        "teachers_at": "cached",
        "distillation": {"feature_weight": 0},
        "training": {"epochs": 32, "iterations_per_epoch": 50, "batch": 16,
                     "learning_rate": 0.001, "schedule": "poly"},
    }  # fmt: skip


def kdseg(*words: object) -> None:
    """Run kdseg-train as a person would, in a process of its own."""
    import subprocess

    command = [sys.executable, "-m", "kdseg_train", *map(str, words)]
    subprocess.run(command, check=True)


def _seconds(begun: float) -> str:
    return f"{time.perf_counter() - begun:.0f} s"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=1000)
    given = parser.parse_args()
    main(given.data.absolute(), given.out.absolute(), given.cases, given.iterations)
