"""The command bulk score: the slices of many predictions judged by many workers.

::

    OUT/scores.csv           as quality score writes it
    OUT/bulk-report.json     what became of every prediction; bulk-report.md to read
    OUT/.bulk-scores/        what is kept scan by scan
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from kdseg_train.bulk import (
    UNKNOWN_BYTES,
    job,
    reporting,
    team,
    tell,
    threads_of_each,
    worked,
)
from kdseg_train.config import Settings, parse
from kdseg_train.crew import Crew, Outcome
from kdseg_train.scores import ScoreConfig, read_scores, to_judge, write_scores
from napari_kdseg.runs.run import Run

_KEPT = ".bulk-scores"


class BulkScoreConfig(Settings):
    """Judging the slices of many predictions with several workers."""

    version: Literal[1] = 1
    command: Literal["bulk-score"] = "bulk-score"
    score: ScoreConfig = Field(description="as of the command quality score")
    out: Path = Field(description="gets scores.csv and the report")
    crew: Crew = Field(Crew(), description="who does the work")


def bulk_score(run: Run) -> None:
    """Judge the slices of every prediction that a run's config names.

    Raises
    ------
    KdsegError
        What is wrong with the command itself, before anything is computed.
    RunError
        Where predictions failed; the report says why, and the table has the others.
    StopRequested
        Where somebody asked for it; what is finished is kept.
    """
    config = parse(BulkScoreConfig, run.config, str(run.folder / "config.yaml"))
    asked = config.score.model_copy(update={"scores": config.out / _KEPT})
    subjects = to_judge(asked)
    count, gpus = team(config.crew, asked.device, lambda: UNKNOWN_BYTES)
    count = min(count, len(subjects))
    asked = asked.model_copy(
        update={"threads": asked.threads or threads_of_each(config.crew, count)}
    )
    jobs = [
        job(config.out, one.case, asked.model_copy(update={"cases": (one.case,)}), gpus)
        for one in subjects
        if not one.missing
    ]
    with reporting(run, config.out, len(subjects)) as report:
        for one in subjects:
            if one.missing:
                lost = Outcome(one.case, "failed", 0.0, "", one.missing)
                report.add(lost)
                tell(run, report, lost)
        for outcome in worked(run, jobs, config.crew, count, gpus):
            report.add(outcome)
            tell(run, report, outcome)
        tables = [job.folder / "scores.csv" for job in jobs if job.case in report.good]
        rows = [row for table in tables for row in read_scores(table)]
        write_scores(config.out / "scores.csv", rows)
