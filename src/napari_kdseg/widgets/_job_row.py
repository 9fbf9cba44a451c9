"""A job in one line: how far it is, and a button that ends it."""

from collections.abc import Callable

from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QVBoxLayout, QWidget

from napari_kdseg.state.jobs import Job
from napari_kdseg.widgets._form import plain_button, wrapped_label


class JobRow(QWidget):
    """How far a job is, and a button that ends it.

    Parameters
    ----------
    cancel
        Asks a job to stop.
    tip
        What becomes of a job that is cancelled.
    parent
        Qt's owner.
    """

    def __init__(
        self,
        cancel: Callable[[Job], None],
        tip: str,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._cancel = cancel
        self._job: Job | None = None
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.cancel_button = plain_button("Cancel", tip)
        self.message = wrapped_label()
        line = QHBoxLayout()
        line.addWidget(self.bar, 1)
        line.addWidget(self.cancel_button)
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addLayout(line)
        rows.addWidget(self.message)
        self.cancel_button.clicked.connect(self._on_cancel)
        self.show_job(None)

    def show_job(self, job: Job | None, words: str = "") -> None:
        """Show a job, and what it is at in other words than its own; None hides it."""
        self._job = job
        self.setVisible(job is not None)
        if job is not None:
            self.bar.setValue(round(1000 * job.fraction))
            self.bar.setVisible(not job.ended)
            self.cancel_button.setVisible(not job.ended)
            self.message.setText(words or job.error or job.message)

    def _on_cancel(self) -> None:
        if self._job is not None:
            self._cancel(self._job)
