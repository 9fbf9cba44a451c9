"""The predictions that were found in a folder, by model and by what verdicts say."""

from collections.abc import Mapping, Sequence

from napari_kdseg.errors import ProjectError
from napari_kdseg.review.predictions import Prediction
from napari_kdseg.review.verdicts import About, Verdict


class Found:
    """Predictions, to be looked up.

    Parameters
    ----------
    predictions
        In the order in which they are shown.
    """

    def __init__(self, predictions: Sequence[Prediction] = ()) -> None:
        self.predictions = tuple(predictions)
        self.models: Mapping[str, tuple[Prediction, ...]] = _by_model(self.predictions)
        """The model's name; where two models share one it says which is which."""
        self._by_labels = {
            (one.case, one.labels_hash): one for one in reversed(self.predictions)
        }
        self._by_uuid = {(one.case, one.uuid): one for one in self.predictions}

    def knows(self, verdict: Verdict) -> bool:
        """Whether the labels that a verdict is about are here."""
        return self.has(verdict.case, verdict.labels_hash)

    def has(self, case: str, labels_hash: str) -> bool:
        """Whether there are such labels of a scan."""
        return (case, labels_hash) in self._by_labels

    def prediction_of(self, about: About) -> Prediction:
        """Find the prediction that a slice belongs to.

        Raises
        ------
        ProjectError
            Where there is none.
        """
        found = self._by_uuid.get((about.case, about.prediction))
        if found is None or found.labels_hash != about.labels_hash:
            # Rows of a table may lack the prediction's name.
            found = self._by_labels.get((about.case, about.labels_hash))
        if found is None:
            raise ProjectError(
                f"There is no prediction of {about.case!r} that slice {about.index} "
                "could be of; it was changed or removed. Open the folder again."
            )
        return found

    def model_of(self, prediction: Prediction) -> str:
        """Name the model of a prediction as `models` does.

        Raises
        ------
        ProjectError
            Where it is not reviewed, as there is another one like it.
        """
        for name, some in self.models.items():
            if any(one is prediction for one in some):
                return name
        raise ProjectError(
            f"{prediction.folder} predicts {prediction.case!r} a second time with one "
            "model; only the first is reviewed. Take one of the two away."
        )


def _by_model(
    predictions: Sequence[Prediction],
) -> dict[str, tuple[Prediction, ...]]:
    prints: dict[str, dict[str, dict[str, Prediction]]] = {}
    for one in predictions:
        by_print = prints.setdefault(one.model, {})
        by_print.setdefault(one.fingerprint, {}).setdefault(one.case, one)
    named: dict[str, tuple[Prediction, ...]] = {}
    for name, by_print in prints.items():
        for fingerprint, some in by_print.items():
            full = name if len(by_print) == 1 else f"{name} {fingerprint[:8]}"
            named[full] = tuple(some.values())
    return named
