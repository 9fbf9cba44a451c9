"""The commands that a run folder can ask for."""

import contextlib
from collections.abc import Callable

from napari_kdseg.errors import KdsegError, RunError
from napari_kdseg.runs.run import Run


def execute(run: Run) -> None:
    """Do what a run's config says, holding the run meanwhile.

    Raises
    ------
    RunError
        Where the command is unknown, or another process executes the run.
    """
    command = run.config["command"]
    if command not in COMMANDS:
        raise RunError(
            f"{run.folder} asks for {command!r}; a run can {', '.join(COMMANDS)}."
        )
    try:
        with run.executing():
            COMMANDS[command](run)
    finally:
        if command == "fit":
            _report(run)


def _report(run: Run) -> None:
    """Write the report of a training that has ended, however it did."""
    from kdseg_train.report import write_report

    # A disk that is full must not hide how the training ended.
    with contextlib.suppress(KdsegError):
        write_report(run.folder)


# A function each, since what a command imports takes seconds.


def _fit(run: Run) -> None:
    from kdseg_train.methods import fit

    fit(run)


def _predict(run: Run) -> None:
    from kdseg_train.predict import predict

    predict(run)


def _predict_each(run: Run) -> None:
    from kdseg_train.predict_each import predict_each

    predict_each(run)


def _evaluate(run: Run) -> None:
    from kdseg_train.evaluate import evaluate

    evaluate(run)


def _convert(run: Run) -> None:
    from kdseg_train.convert import execute_conversion

    execute_conversion(run)


def _measure(run: Run) -> None:
    from kdseg_train.measure import execute_measurement

    execute_measurement(run)


def _atlas(run: Run) -> None:
    from kdseg_train.atlas import execute_atlas

    execute_atlas(run)


def _quality_fit(run: Run) -> None:
    from kdseg_train.quality import fit

    fit(run)


def _quality_score(run: Run) -> None:
    from kdseg_train.scores import score

    score(run)


def _bulk_predict(run: Run) -> None:
    from kdseg_train.bulk import bulk_predict

    bulk_predict(run)


def _bulk_score(run: Run) -> None:
    from kdseg_train.bulk_score import bulk_score

    bulk_score(run)


COMMANDS: dict[str, Callable[[Run], None]] = {
    "fit": _fit,
    "predict": _predict,
    "predict-each": _predict_each,
    "evaluate": _evaluate,
    "convert": _convert,
    "measure": _measure,
    "atlas": _atlas,
    "quality-fit": _quality_fit,
    "quality-score": _quality_score,
    "bulk-predict": _bulk_predict,
    "bulk-score": _bulk_score,
}
