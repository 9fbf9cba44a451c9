"""How the Quality Classifier is made: size, steps, and which scans measure it."""

from typing import Literal

from pydantic import Field, field_validator

from kdseg_train.by_scan import FOLDS, SCANS_TO_DIVIDE
from kdseg_train.calibration import Rule
from kdseg_train.config import Augmentation, Settings, Training


class ClassifierTraining(Training):
    """Steps of the Quality Classifier; the paper gives none of these numbers."""

    epochs: int = Field(20, ge=1)
    iterations_per_epoch: int = Field(50, ge=1)
    batch: int = Field(16, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    amsgrad: bool = Field(default=False, description="of adam")
    schedule: Literal["plateau", "poly", "constant"] = "poly"


class ClassifierAugmentation(Augmentation):
    """Stronger than for a segmentation: a thousand slices are soon known by heart."""

    probability: float = Field(0.7, ge=0, le=1, description="of each kind of change")
    rotation_degrees: float = Field(30.0, ge=0, le=180, description="in the slice")
    scale: float = Field(0.3, ge=0, lt=1, description="largest zoom, 0.3 = 30 %")
    noise: float = Field(0.1, ge=0, description="largest standard deviation of noise")
    contrast: float = Field(0.3, ge=0, lt=1, description="largest change of contrast")
    brightness: float = Field(0.3, ge=0, description="largest shift of brightness")


class ClassifierSettings(Settings):
    """The Quality Classifier; the paper names its input and nothing else."""

    size_vox: int = Field(
        128, ge=32, description="slices are stretched to this many pixels, y and x"
    )
    width: int = Field(
        64, ge=1, description="channels of the first stage; 64: ResNet-18"
    )
    validation: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="share of the scans, at least one, for calibration and threshold",
    )
    test: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of the scans, at least one, that nothing is fitted to; 0: "
        "none are kept for that",
    )
    cross_fitting: int | None = Field(
        None,
        ge=0,
        description="0: scans are divided once; 2 or more: cross-fitting with so many "
        "parts, each network for half of the steps; none: "
        f"{FOLDS} where there are fewer scans than {SCANS_TO_DIVIDE}, else 0",
    )
    passes: float | None = Field(
        None,
        gt=0,
        description="training ends earlier where each slice was drawn so often, on "
        "average; none: never",
    )
    threshold_rule: Rule = Field(
        "youden",
        description="youden: most good accepted less bad accepted; precision: lowest "
        "threshold from which on so many accepted slices are good",
    )
    precision: float = Field(
        0.95, gt=0, le=1, description="share of good slices that the rule asks for"
    )
    augmentation: Augmentation = ClassifierAugmentation()
    training: ClassifierTraining = ClassifierTraining()

    @field_validator("size_vox")
    @classmethod
    def _halved_five_times(cls, size: int) -> int:
        if size % 32:
            raise ValueError("size_vox is a multiple of 32, as 96, 128 or 160")
        return size

    @field_validator("cross_fitting")
    @classmethod
    def _more_than_one(cls, parts: int | None) -> int | None:
        if parts == 1:
            raise ValueError("cross_fitting is 0 for one division, or 2 or more")
        return parts

    def steps_for(self, slices: int, share: float = 1.0) -> ClassifierTraining:
        """Training for so many slices.

        Parameters
        ----------
        slices
            That are learnt from.
        share
            Of the steps: a fold that learns from fewer slices takes fewer.
        """
        each = self.training.iterations_per_epoch * self.training.batch
        epochs = self.training.epochs * share
        if self.passes is not None:
            epochs = min(epochs, self.passes * slices / each)
        return self.training.model_copy(update={"epochs": max(1, round(epochs))})
