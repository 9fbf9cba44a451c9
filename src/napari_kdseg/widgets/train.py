"""The Train dock: set a training up, start it, look on, use what it made."""

from pathlib import Path
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QDockWidget, QTabBar, QWidget

from napari_kdseg.errors import KdsegError
from napari_kdseg.state.training import Training
from napari_kdseg.state.training_setup import Setup
from napari_kdseg.widgets._drop import DropDock
from napari_kdseg.widgets._open_project import open_project
from napari_kdseg.widgets._train_run import RunPage
from napari_kdseg.widgets._train_setup import SetupPage
from napari_kdseg.widgets.segment import SegmentDock

POLL_MS = 200
_PAGES = ("New training", "Runs")


class TrainDock(DropDock):
    """Trains networks in processes that go on when the viewer is closed.

    Parameters
    ----------
    napari_viewer
        The viewer the dock belongs to.
    setup
        What is set up.
    training
        What is followed.
    parent
        Qt's owner.
    """

    def __init__(
        self,
        napari_viewer: Any,
        setup: Setup | None = None,
        training: Training | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.setup = setup or Setup()
        self.training = training or Training()
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._build()
        self._connect()
        self.training.look_for()
        job = self.training.job
        self.tabs.setCurrentIndex(int(job is not None and not job.ended))
        self._timer.start()

    def close_dock(self) -> None:
        """Let go of the states; trainings go on."""
        self._timer.stop()
        self.setup.ready.disconnect(self._on_ready)
        for page in (self.setup_page, self.run_page):
            page.disconnect_state()
        self.setup.close()
        self.training.close()

    # ---- Building ----

    def _build(self) -> None:
        self.setup_page = SetupPage(self.setup)
        self.run_page = RunPage(self.training)
        self.tabs = QTabBar()
        self.tabs.setExpanding(True)
        self.tabs.setDrawBase(False)
        self.rows.addWidget(self.tabs)
        for name, page in zip(_PAGES, (self.setup_page, self.run_page), strict=True):
            self.tabs.addTab(name)
            self.rows.addWidget(page)
        self.rows.addStretch(1)
        self._show_page(0)

    def _connect(self) -> None:
        self._timer.timeout.connect(self._on_tick)
        self.tabs.currentChanged.connect(self._show_page)
        self.dropped.connect(self._on_dropped)
        self.run_page.segmentWanted.connect(self._on_segment_wanted)
        self.setup.ready.connect(self._on_ready)
        # With the viewer's window the dock dies unasked.
        for state in (self.setup, self.training):
            self.destroyed.connect(state.close)

    def show_run(self, folder: Path) -> None:
        """Look at a run, in front of what shares its place with this dock."""
        self.tabs.setCurrentIndex(1)
        self.training.open(folder)
        _raise(self)

    # ---- What happens ----

    def _on_tick(self) -> None:
        self.setup_page.offer_project(open_project(self.viewer))
        self.setup.poll()
        self.training.poll()

    def _on_dropped(self, paths: list[Path]) -> None:
        for path in paths:
            folder = path if path.is_dir() else path.parent
            if (folder / "events.jsonl").is_file():
                self.tabs.setCurrentIndex(1)
                self.training.open(folder)
            else:
                self.tabs.setCurrentIndex(0)
                self.setup.add(folder)

    def _on_ready(self, recipe: Path, folder: Path) -> None:
        self.training.begin(recipe, folder)
        self.tabs.setCurrentIndex(1)

    def _on_segment_wanted(self, folder: Path) -> None:
        dock = self._segment_dock()
        try:
            model = dock.state.add_model(folder)
        except KdsegError as error:
            self.run_page.message.setText(str(error))
            self.run_page.message.show()
            return
        if not dock.state.misfit(model):
            dock.state.choose(model)
        _raise(dock)

    def _show_page(self, number: int) -> None:
        for place, page in enumerate((self.setup_page, self.run_page)):
            page.setVisible(place == number)

    # ---- What is around ----

    def _segment_dock(self) -> SegmentDock:
        """The Segment dock of this viewer; it is opened where it is not."""
        for widget in self.viewer.window.dock_widgets.values():
            if isinstance(widget, SegmentDock):
                return widget
        window = self.viewer.window
        _, dock = window.add_plugin_dock_widget("napari-kdseg", "Segment", tabify=True)
        assert isinstance(dock, SegmentDock)
        return dock


def _raise(widget: QWidget) -> None:
    """Bring a dock in front of those it shares its place with."""
    shell = widget.parentWidget()
    while shell is not None and not isinstance(shell, QDockWidget):
        shell = shell.parentWidget()
    if shell is not None:
        shell.show()
        shell.raise_()
