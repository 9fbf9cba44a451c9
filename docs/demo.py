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
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import matplotlib as mpl
import numpy as np
from rich.console import Console
from rich.table import Table

from napari_kdseg.models.model import Model
from napari_kdseg.volumes.formats import read_labels, read_volume
from napari_kdseg.volumes.orientation import orient
from napari_kdseg.volumes.volume import Grid

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

ORGANS = ("liver", "spleen")
SHARPER_THAN = 0.1  # less uncertainty than this is left clear
CONSOLE = Console()


@dataclass(frozen=True)
class Paths:
    """Where everything lies."""

    folder: Path

    @property
    def samples(self) -> Path:
        """Made data sets."""
        return self.folder / "samples"

    @property
    def run(self) -> Path:
        """The training run."""
        return self.folder / "run"

    @property
    def out(self) -> Path:
        """Predictions."""
        return self.folder / "predicted"

    @property
    def unseen(self) -> Path:
        """A scan that no network has seen."""
        images = self.samples / "abdomen" / "test" / "imagesTr"
        return min(images.glob("*.nii.gz"))

    @property
    def case(self) -> Path:
        """Predictions of the unseen scan."""
        return self.out / self.unseen.name.removesuffix(".nii.gz")


def main(folder: Path) -> None:
    """Run every step and show the result."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    paths = Paths(folder)
    abdomen = paths.samples / "abdomen"
    kdseg("sample", "abdomen", "--out", abdomen, "--partial", "--cases", 24)
    kdseg("fit", "ms-kd/small", "--data", paths.samples, "--out", paths.run)
    models = [paths.run / "teachers" / organ for organ in ORGANS]
    models.append(paths.run / "model")
    chosen = [word for model in models for word in ("--model", model)]
    asked = ("--uncertainty", "entropy", "--regions")
    kdseg("predict", paths.unseen, *chosen, *asked, "--out", paths.out)
    show_table(paths.run / "metrics.csv")
    draw_panel(paths)
    CONSOLE.print(f"\nA picture of it is {folder / 'panel.png'}")
    open_viewer(paths)


def kdseg(*words: object) -> None:
    """Print a command of kdseg-train and run it."""
    text = [str(word) for word in words]
    CONSOLE.print(f"\n[bold]$ kdseg-train {shlex.join(text)}", soft_wrap=True)
    subprocess.run([sys.executable, "-m", "kdseg_train", *text], check=True)


def show_table(metrics: Path) -> None:
    """Print Dice of each organ on the test volumes: its teacher, and the student."""
    with metrics.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = Table(title="Dice on volumes none of them has seen (mean)")
    table.add_column("organ")
    table.add_column("its teacher", justify="right")
    table.add_column("the student", justify="right")
    teachers, students = [], []
    for organ in ORGANS:
        mine: dict[bool, list[float]] = {True: [], False: []}
        for row in rows:
            if row["class"] == organ:
                mine[row["model"].endswith(f"-{organ}")].append(float(row["dice"]))
        teachers.append(mean(mine[True]))
        students.append(mean(mine[False]))
        table.add_row(organ, f"{teachers[-1]:.3f}", f"{students[-1]:.3f}")
    table.add_section()
    table.add_row("mean", f"{mean(teachers):.3f}", f"{mean(students):.3f}")
    CONSOLE.print(table)


def draw_panel(paths: Paths) -> None:
    """Draw one slice: scan, truth, student, uncertainty of the teachers, regions."""
    student = Model.open(paths.run / "model").card
    scan = read_volume(paths.unseen)
    voxels = turned(np.asarray(scan.data[0]), scan.grid)
    truth = labels_of(paths.unseen.parents[1] / "labelsTr" / paths.unseen.name)
    found = labels_of(paths.case / student.name / "labels.nii.gz")
    regions = labels_of(paths.case / "regions.nii.gz")
    doubt = read_volume(paths.case / "uncertainty.nii.gz")
    unsure = turned(np.asarray(doubt.data[0]), doubt.grid)
    index = telling_slice(truth, student.classes.values)
    colors = [student.classes.by_name(organ).color for organ in ORGANS]
    values = [student.classes.by_name(organ).value for organ in ORGANS]
    figure, axes = plt.subplots(1, 5, figsize=(21, 4.4), layout="constrained")
    titles = (
        "unseen scan",
        "truth",
        "student, trained without a label",
        "where a teacher is unsure",
        "where each teacher may teach",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.imshow(voxels[index], "gray", vmin=-200, vmax=300, origin="lower")
        axis.set_title(title, fontsize=13)
        axis.set_axis_off()
    paint(axes[1], truth[index], values, colors)
    paint(axes[2], found[index], values, colors)
    hazy = np.ma.masked_less(unsure[index], SHARPER_THAN)
    shown = axes[3].imshow(hazy, "inferno", vmin=0, vmax=1, origin="lower")
    figure.colorbar(shown, ax=axes[3], label="entropy, 0 sure to 1", shrink=0.8)
    # a voxel's bits say which teachers claim it: 1 the first, 2 the second, 3 both
    paint(axes[4], regions[index], [1, 2, 3], [*colors, "#ffffff"])
    legend = [Patch(color=c, label=o) for c, o in zip(colors, ORGANS, strict=True)]
    legend.append(Patch(fc="white", ec="gray", label="conflict"))
    axes[4].legend(handles=legend, loc="lower right", fontsize=9)
    figure.savefig(paths.folder / "panel.png", dpi=80)
    plt.close(figure)


def turned(array: np.ndarray, grid: Grid) -> np.ndarray:
    """Turn an array to z, y, x with x to the patient's left, as radiologists look."""
    return np.asarray(orient(array, grid, "LAS")[0])


def labels_of(path: Path) -> np.ndarray:
    """Read labels, turned as the scan is."""
    return turned(*read_labels(path))


def telling_slice(labels: np.ndarray, values: tuple[int, ...]) -> int:
    """Find the slice in which the smaller organ is largest."""
    areas = [(labels == value).sum(axis=(1, 2)) for value in values]
    return int(np.argmax(np.minimum.reduce(areas)))


def paint(axis: Axes, labels: np.ndarray, values: list[int], colors: list[str]) -> None:
    """Lay labels over a slice, each value in its colour."""
    codes = np.zeros(labels.shape, int)
    for code, value in enumerate(values, start=1):
        codes[labels == value] = code
    scale = ListedColormap(["#00000000", *colors])
    axis.imshow(
        codes,
        scale,
        vmin=0,
        vmax=len(colors),
        alpha=0.6,
        origin="lower",
        interpolation="nearest",
    )


def open_viewer(paths: Paths) -> None:
    """Open all of it in napari where there is a screen; else say how."""
    layers = [paths.unseen, *sorted(paths.case.rglob("*.nii.gz"))]
    words = ["napari", "--plugin", "napari-kdseg", *map(str, layers)]
    if has_screen():
        subprocess.run([sys.executable, "-m", *words], check=False)
        return
    CONSOLE.print("There is no screen here. Where there is one, look at it with")
    CONSOLE.print(f"$ {shlex.join(words)}", soft_wrap=True)


def has_screen() -> bool:
    """Whether a window can be opened: Qt is asked, in a process that may die of it."""
    ask = (
        "from qtpy.QtWidgets import QApplication\n"
        "raise SystemExit(QApplication([]).platformName() == 'offscreen')"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", ask], capture_output=True, check=False, timeout=60
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
