"""Many predictions, one after the other: what the viewer asks for a whole project.

Each is a run of its own below ``RUN/each`` while it lasts. One that fails is told, and
holds up none of the others. Those that are done are not looked at again.
"""

import shutil
from typing import Any, Literal

from pydantic import Field

from kdseg_train.config import Settings, parse
from kdseg_train.plan import PredictConfig
from kdseg_train.predict import predict
from napari_kdseg.errors import StopRequested, VolumeError
from napari_kdseg.runs.run import Run

EACH = "each"


class EachConfig(Settings):
    """Predictions of one scan each."""

    version: Literal[1] = 1
    command: Literal["predict-each"] = "predict-each"
    predictions: tuple[PredictConfig, ...] = Field(
        min_length=1, description="settings of predict, each with its `case`"
    )


def predict_each(run: Run) -> None:
    """Do what a run's config lists; go on where it was stopped.

    Raises
    ------
    StopRequested
        Where somebody asked for it; finished tiles are kept.
    VolumeError
        In the end, where some could not be done.
    """
    config = parse(EachConfig, run.config, str(run.folder / "config.yaml"))
    done = {e["case"] for e in run.events()[0] if e["event"] == "prediction"}
    failures: list[str] = []
    for number, one in enumerate(config.predictions, start=1):
        run.check_stop()
        if one.case in done:
            continue
        try:
            _predict(run, one, number, len(config.predictions))
        except StopRequested:
            raise
        except Exception as error:  # noqa: BLE001 - the others can be done
            failures.append(f"{one.case}: {str(error) or type(error).__name__}")
            run.warning(failures[-1])
    if failures:
        raise VolumeError(
            f"{len(failures)} of {len(config.predictions)} scans could not be "
            f"predicted; the first is {failures[0]}"
        )


def _predict(run: Run, asked: PredictConfig, number: int, total: int) -> None:
    folder = run.folder / EACH / str(asked.case)
    settings = asked.model_dump(mode="json")
    if (folder / "config.yaml").exists() and Run.open(folder).config != settings:
        shutil.rmtree(folder)
    part = _Part.create(folder, settings)
    part.follow(run, number, total)
    if part.state() != "finished":
        with part.executing():
            try:
                predict(part)
            except FileExistsError:  # somebody else published it meanwhile
                predict(part)  # finds that it is there, or says what is
    run.event("prediction", case=asked.case, folder=asked.out / str(asked.case))
    shutil.rmtree(folder, ignore_errors=True)


class _Part(Run):
    """The run of one scan, which tells another run how far it is."""

    _whole: Run
    _case: str
    _number: int
    _total: int

    def follow(self, whole: Run, number: int, total: int) -> None:
        """Tell this run; stop when it is asked to."""
        self._whole, self._number, self._total = whole, number, total
        self._case = str(self.config["case"])

    def progress(self, step: int, total: int, stage: str = "", **fields: Any) -> None:
        super().progress(step, total, stage, **fields)
        converts = stage != self._case  # of the work on a scan the lesser part
        self._whole.progress(
            0 if converts else step,
            total,
            self._case,
            case=self._number,
            cases=self._total,
        )

    def stop_requested(self) -> bool:
        return self.asked_to_stop() is not None

    def asked_to_stop(self) -> StopRequested | None:
        return self._whole.asked_to_stop() or super().asked_to_stop()
