"""Keeping a trained network as a model folder, whichever process trained it."""

import time
from pathlib import Path

from torch import nn

from napari_kdseg.errors import RunError
from napari_kdseg.models.model import Model, ModelCard, save_model
from napari_kdseg.runs.run import Run

SEEN_WITHIN_S = 120.0


def keep_model(run: Run, folder: Path, card: ModelCard, network: nn.Module) -> Model:
    """Keep a network as a model; of several processes, one does, the others see it.

    Raises
    ------
    RunError
        Where the folder stays hidden from a process that did not write it.
    """
    if run.leads:
        return save_model(folder, card, network)
    patience = time.monotonic() + SEEN_WITHIN_S
    while not folder.exists():  # a network drive may show it late
        if time.monotonic() > patience:
            raise RunError(
                f"{folder} is written and cannot be seen here; the run folder must be "
                "on a drive that all machines of the training share."
            )
        time.sleep(0.1)
    return Model.open(folder)
