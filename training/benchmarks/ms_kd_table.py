"""Table of MS-KD runs: teachers beside student, and their paired differences.

``python training/benchmarks/ms_kd_table.py RUN...`` prints Markdown. Each run's
``metrics.csv`` has a row a test case, model and class; a teacher is compared on its own
organ. Differences are paired by run, case and organ, averaged over the organs of a case
and the runs it was tested in, and their 95 % interval is Student's t over cases.
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t as student_t

Key = tuple[str, str]


def main(folders: list[Path]) -> None:
    """Print the table of some runs."""
    print("| run | organ | teacher | student | cases |")
    print("| --- | --- | ---: | ---: | ---: |")
    paired: dict[str, list[float]] = defaultdict(list)
    overall: dict[str, list[float]] = {"teacher": [], "student": []}
    for folder in folders:
        teacher, student = dice_of(folder)
        for organ in sorted({organ for _, organ in teacher}):
            cases = [case for case, name in teacher if name == organ]
            of_teacher = mean(teacher[case, organ] for case in cases)
            of_student = mean(student[case, organ] for case in cases)
            overall["teacher"].append(of_teacher)
            overall["student"].append(of_student)
            row = f"{of_teacher:.4f} | {of_student:.4f} | {len(cases)}"
            print(f"| {folder.name} | {organ} | {row} |")
        for key, value in teacher.items():
            paired[key[0]].append(student[key] - value)
    means = f"{mean(overall['teacher']):.4f} | {mean(overall['student']):.4f}"
    print(f"| mean | | {means} | |")
    print(f"\nStudent minus teacher, paired: {interval(paired)}.")


def dice_of(folder: Path) -> tuple[dict[Key, float], dict[Key, float]]:
    """Dice by case and organ: of each organ's teacher, and of the student."""
    teacher: dict[Key, float] = {}
    student: dict[Key, float] = {}
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            of_teacher = row["model"].endswith(f"-{row['class']}")
            into = teacher if of_teacher else student
            into[row["case"], row["class"]] = float(row["dice"])
    return teacher, student


def interval(paired: dict[str, list[float]]) -> str:
    """Mean over cases with its 95 % interval, in words."""
    by_case = [mean(values) for values in paired.values()]
    count = len(by_case)
    if count < 2:
        return "one case has no interval"
    half = student_t.ppf(0.975, count - 1) * stdev(by_case) / count**0.5
    middle = mean(by_case)
    return (
        f"{middle:+.4f} Dice (95 % interval {middle - half:+.4f} to "
        f"{middle + half:+.4f}, {count} cases)"
    )


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
