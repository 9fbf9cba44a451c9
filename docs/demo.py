"""From nothing to a student's segmentation: ``python docs/demo.py DIR``.

Makes abdomens, trains two single-organ teachers and a student that sees no label, and
segments an unseen volume with all three. Each step is a command that anyone can type;
it is printed before it runs. The results, and ``panel.png``, lie in DIR.
"""

import csv
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from rich.console import Console
from rich.table import Table

from napari_kdseg.models.model import Model
from napari_kdseg.volumes.formats import read_labels, read_volume

ORGANS = ("liver", "spleen")
CONSOLE = Console()


def main(folder: Path) -> None:
    """Run every step and show the result."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    samples, run, out = folder / "samples", folder / "run", folder / "predicted"
    kdseg("sample", "abdomen", "--out", samples / "abdomen", "--partial")
    kdseg("fit", "ms-kd/small", "--data", samples, "--out", run)
    unseen = min((samples / "abdomen" / "test" / "imagesTr").glob("*.nii.gz"))
    teachers = [run / "teachers" / organ for organ in ORGANS]
    chosen = [flag for model in teachers for flag in ("--model", model)]
    kdseg("predict", unseen, *chosen, "--out", out, "--regions")
    kdseg("predict", unseen, "--model", run / "model", "--out", out, "--resume")
    show_table(run / "metrics.csv")
    truth = samples / "abdomen" / "test" / "labelsTr" / unseen.name
    draw_panel(folder / "panel.png", unseen, truth, out, run)
    CONSOLE.print(f"\nA picture of it: {folder / 'panel.png'}")
    open_viewer(unseen, out / unseen.name.removesuffix(".nii.gz"))


def kdseg(*words: object) -> None:
    """Print a command of kdseg-train and run it."""
    text = [str(word) for word in words]
    CONSOLE.print(f"\n[bold]$ kdseg-train {shlex.join(text)}")
    subprocess.run([sys.executable, "-m", "kdseg_train", *text], check=True)


def show_table(metrics: Path) -> None:
    """Dice of each organ on the test volumes: its teacher, and the student."""
    rows = list(csv.DictReader(metrics.open(encoding="utf-8")))
    table = Table(title="Dice on volumes none of them has seen (mean)")
    table.add_column("organ")
    table.add_column("its teacher", justify="right")
    table.add_column("the student", justify="right")
    means = []
    for organ in ORGANS:
        of_organ = [row for row in rows if row["class"] == organ]
        teacher = [
            float(r["dice"]) for r in of_organ if r["model"].endswith(f"-{organ}")
        ]
        student = [
            float(r["dice"]) for r in of_organ if not r["model"].endswith(f"-{organ}")
        ]
        means.append((np.mean(teacher), np.mean(student)))
        table.add_row(organ, *(f"{mean:.3f}" for mean in means[-1]))
    table.add_section()
    table.add_row("mean", *(f"{mean:.3f}" for mean in np.mean(means, axis=0)))
    CONSOLE.print(table)


def draw_panel(path: Path, image: Path, truth: Path, out: Path, run: Path) -> None:
    """One slice: scan and truth, student, teachers' uncertainty, regions."""
    mpl.use("Agg")
    case = out / image.name.removesuffix(".nii.gz")
    student = Model.open(run / "model").card
    voxels = read_volume(image).data[0]
    true, _ = read_labels(truth)
    found, _ = read_labels(case / student.name / "labels.nii.gz")
    regions, _ = read_labels(case / "regions.nii.gz")
    doubt = read_volume(case / "uncertainty.nii.gz").data[0]
    organs = np.isin(true, student.classes.values)
    index = int(
        np.argmax(
            sum(
                (true == value).any(axis=2).sum(axis=1) > 0
                for value in student.classes.values
            )
            * 10_000
            + organs.sum(axis=(1, 2))
        )
    )
    figure, axes = plt.subplots(1, 5, figsize=(20, 4.6), facecolor="white")
    spacing = read_volume(image).grid.spacing_mm
    for axis in axes:
        axis.imshow(
            voxels[index],
            cmap="gray",
            vmin=-200,
            vmax=300,
            aspect=spacing[1] / spacing[2],
        )
        axis.set_axis_off()
    colors = [student.classes.by_name(organ).color for organ in ORGANS]
    flat = ListedColormap(["#00000000", *colors])
    codes = np.zeros(int(regions.max()) + 1, int)
    for number, organ in enumerate(ORGANS, start=1):
        codes[min(student.classes.by_name(organ).value, len(codes) - 1)] = number
    axes[0].set_title("unseen scan")
    axes[1].set_title("truth")
    axes[2].set_title("student, trained without labels")
    axes[3].set_title("uncertainty of the teachers (largest)")
    axes[4].set_title("regions where each may teach")
    for axis, labels in ((axes[1], true), (axes[2], found)):
        shown = np.zeros(labels[index].shape, int)
        for number, organ in enumerate(ORGANS, start=1):
            shown[labels[index] == student.classes.by_name(organ).value] = number
        axis.imshow(
            shown,
            cmap=flat,
            vmin=0,
            vmax=len(ORGANS),
            alpha=0.6,
            interpolation="nearest",
            aspect=spacing[1] / spacing[2],
        )
    overlay = axes[3].imshow(
        np.ma.masked_less(doubt[index], 0.02),
        cmap="magma",
        vmin=0,
        vmax=1,
        aspect=spacing[1] / spacing[2],
    )
    figure.colorbar(overlay, ax=axes[3], fraction=0.035)
    several = ListedColormap(["#00000000", *colors, "#ffffff"])
    bits = regions[index].astype(int)
    axes[4].imshow(
        bits,
        cmap=several,
        vmin=0,
        vmax=3,
        alpha=0.65,
        interpolation="nearest",
        aspect=spacing[1] / spacing[2],
    )
    legend = [Patch(color=c, label=o) for c, o in zip(colors, ORGANS, strict=True)]
    legend.append(Patch(facecolor="white", edgecolor="gray", label="conflict"))
    axes[4].legend(handles=legend, loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def open_viewer(image: Path, case: Path) -> None:
    """Show all of it in napari, where there is a screen."""
    if sys.platform.startswith("linux") and shutil.which("xset") is None:
        CONSOLE.print("No screen was found; napari opens these layers on one that has:")
    command = [image, *sorted(case.rglob("*.nii.gz"))]
    CONSOLE.print(f"$ napari {shlex.join(str(path) for path in command)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
