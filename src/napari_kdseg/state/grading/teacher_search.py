"""Finding the model that made the predictions under review, and what it may teach."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from napari_kdseg.errors import ModelError
from napari_kdseg.models.model import Model
from napari_kdseg.review.known_models import model_folders, model_with
from napari_kdseg.state.grading.desk import GradingDesk
from napari_kdseg.state.grading.handing_over import refusal

_LOOK_AGAIN_S = 3.0


class TeacherSearch:
    """Looks for the model of a fingerprint; what was found is not looked for again.

    Parameters
    ----------
    clock
        Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._folders: list[Path] = []
        self._found: dict[str, Model | None] = {}
        self._refusal = ""
        self._refused_at: float | None = None

    def add(self, folders: Iterable[Path]) -> None:
        """Look in these folders, too."""
        new = [folder for folder in folders if folder not in self._folders]
        if new:
            self._folders += new
            self._found = {key: model for key, model in self._found.items() if model}
            self.forget()

    def forget(self) -> None:
        """Look anew what there is to learn from."""
        self._refused_at = None

    def known(self, desk: GradingDesk) -> Model | None:
        """Give the model, where it was found before."""
        return self._found.get(desk.fingerprint)

    def of(self, desk: GradingDesk) -> Model | None:
        """Find the model that made the predictions; None where it is nowhere."""
        if desk.fingerprint not in self._found:
            folders = [*self._folders, *model_folders(desk.folder)]
            self._found[desk.fingerprint] = model_with(desk.fingerprint, folders)
        return self._found[desk.fingerprint]

    def learn(self, folder: Path, desk: GradingDesk) -> None:
        """Take the model in a folder.

        Raises
        ------
        ModelError
            Where it is damaged, or another model.
        """
        model = Model.open(folder)
        if model.fingerprint != desk.fingerprint:
            raise ModelError(
                f"{folder} holds {model.card.name} ({model.fingerprint[:8]}), and the "
                f"predictions were made by {desk.model} ({desk.fingerprint[:8]}); only "
                "the very same model can go on from them. Choose its folder."
            )
        self._found[desk.fingerprint] = model
        self.forget()

    def refusal(self, desk: GradingDesk) -> str:
        """Say why accepted slices cannot be handed over; looked up now and then."""
        now = self._clock()
        if self._refused_at is None or now - self._refused_at > _LOOK_AGAIN_S:
            self._refused_at, self._refusal = now, self._why_not(desk)
        return self._refusal

    def _why_not(self, desk: GradingDesk) -> str:
        teacher, classifier = self.of(desk), desk.classifier
        if teacher is None or classifier is None:
            return (
                f"The model {desk.model} that made the predictions was not found "
                f"(fingerprint {desk.fingerprint[:8]}). Choose its folder."
            )
        own, seen = teacher.card.preprocessing, classifier.model.card.preprocessing
        if (own.orientation, own.intensity) != (seen.orientation, seen.intensity):
            return (
                f"The classifier was trained before {desk.model} was found, and sees "
                "scans turned or scaled in another way. Train the classifier again."
            )
        return refusal(desk.folder, teacher, desk.predictions, classifier.axes)
