"""The Review dock: slices of predictions judged by key, or a page at a time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qtpy.QtCore import QSettings, QTimer
from qtpy.QtWidgets import (
    QFileDialog,
    QInputDialog,
    QMainWindow,
    QMenu,
    QTabBar,
    QWidget,
)

from napari_kdseg.state.grading.grading import Grading
from napari_kdseg.state.jobs import Worker
from napari_kdseg.state.review.review import Review
from napari_kdseg.widgets._form import Dock, form, one_line, wrapped_label
from napari_kdseg.widgets._open_project import open_project
from napari_kdseg.widgets.review.contact_sheet import ContactSheet
from napari_kdseg.widgets.review.correction_panel import CorrectionPanel
from napari_kdseg.widgets.review.grading_panel import GradingPanel
from napari_kdseg.widgets.review.judge_panel import JudgePanel
from napari_kdseg.widgets.review.judging import Judging
from napari_kdseg.widgets.review.parts import Who, button, row
from napari_kdseg.widgets.review.prefetch import Prefetch

POLL_MS = 40
_SETTINGS = ("napari-kdseg", "napari-kdseg")
_NO_FOLDER = "Open the folder of a project, or one that predictions were written to."
_WHERE = (
    "Address of a database that all reviewers reach, such as\n"
    "postgresql://HOST/DATABASE; empty: a file in the folder.\n"
    "The verdicts that are there are copied."
)
_TABLES = "Tables (*.csv)"
_NO_NAME = "Write your name first: it stands beside each of your verdicts."


class ReviewDock(Dock):
    """Has a person judge predictions slice by slice, and learns from the verdicts.

    Parameters
    ----------
    napari_viewer
        The viewer the dock belongs to.
    state
        What is judged.
    grading
        What learns from it; by default one with a worker of its own.
    settings
        Where names of reviewers are remembered; by default the user's.
    parent
        Qt's owner.
    """

    def __init__(
        self,
        napari_viewer: Any,
        state: Review | None = None,
        grading: Grading | None = None,
        settings: QSettings | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.state = state or Review()
        self._worker = Worker()
        self.grading = grading or Grading(self.state, self._worker)
        self.judging = Judging(napari_viewer, self.state, self)
        self.sheet = ContactSheet(self.state, self)
        self._prefetch = Prefetch(self.state.work)
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._build_folder(settings or QSettings(*_SETTINGS))
        self._build_pages()
        self.rows.addStretch(1)
        self._connect()
        self._show_scans()
        self._prefetch.start()
        self._timer.start()

    def close_dock(self) -> None:
        """Give canvas and keys back, and end the thread and the sitting."""
        self._timer.stop()
        self.sheet.close()
        self.correction.close_panel()
        self.judging.end()
        self._ending.end()

    @property
    def holds_canvas(self) -> bool:
        """Whether the canvas shows slices to be judged, or a scan to be corrected."""
        return self.judging.active or self.correction.active

    @property
    def reads_results(self) -> bool:
        """Whether slices of results are shown, in the canvas or on the sheet."""
        return self.holds_canvas or self.sheet.isVisible()

    # ---- Building ----

    def _build_folder(self, settings: QSettings) -> None:
        self.folder = one_line()
        self.open_button = button(
            "Open…", "The folder of a project, or one with predictions"
        )
        self.project_button = button("", "The project that is open in the Volumes dock")
        self.refresh_button = button("Refresh", "Looks for new predictions")
        self.store = one_line()
        self.store_button = button(
            "Change…", "Verdicts lie in the folder, or in a database of the lab"
        )
        self.table_button = button("Table", "How far reviewers agree; verdicts as CSV")
        self.table_menu = QMenu(self.table_button)
        self.table_button.setMenu(self.table_menu)
        self.who = Who(settings)
        place = row(self.folder, self.refresh_button, self.open_button)
        place.setStretch(0, 1)
        fields = form()
        fields.addRow("Folder", place)
        fields.addRow("", self.project_button)
        kept = row(self.store, self.table_button, self.store_button)
        kept.setStretch(0, 1)
        fields.addRow("Verdicts", kept)
        fields.addRow("Reviewer", self.who)
        self.fields = fields
        self.message = wrapped_label()
        self.notes = wrapped_label()
        self.rows.addLayout(fields)
        self.rows.addWidget(self.message)
        self.rows.addWidget(self.notes)

    def _build_pages(self) -> None:
        self.panel = JudgePanel(self.state, self.judging)
        self.grades = GradingPanel(self.grading)
        self.correction = CorrectionPanel(self.viewer, self.state)
        self.pages: dict[str, QWidget] = {
            "Judge": self.panel,
            "Classifier": self.grades,
            "Correct": self.correction,
        }
        self.tabs = QTabBar()
        self.tabs.setExpanding(True)
        self.tabs.setDrawBase(False)
        self.rows.addWidget(self.tabs)
        for name, page in self.pages.items():
            self.tabs.addTab(name)
            self.rows.addWidget(page)
        self._show_page(0)

    def _connect(self) -> None:
        self._timer.timeout.connect(self._on_tick)
        self.open_button.clicked.connect(self._on_open_clicked)
        self.project_button.clicked.connect(self._on_project_clicked)
        self.refresh_button.clicked.connect(self._on_refresh_clicked)
        self.store_button.clicked.connect(self._on_store_clicked)
        self.table_menu.addAction("Agreement of reviewers", self._on_agreement_chosen)
        self.table_menu.addAction("Save as CSV…", self._on_save_chosen)
        self.table_menu.addAction("Add from CSV…", self._on_add_chosen)
        self.who.named.connect(self._on_named)
        self.tabs.currentChanged.connect(self._show_page)
        self.panel.startClicked.connect(self._on_start_clicked)
        self.panel.sheetClicked.connect(self._on_sheet_clicked)
        self.panel.leftKeyboard.connect(self._leave_keyboard)
        self.panel.queue.chosen.connect(self._on_queue_chosen)
        self.correction.started.connect(self._on_correcting)
        self.correction.finished.connect(self._on_corrected)
        self.grades.judgeWanted.connect(self._on_judge_wanted)
        self.grades.trainingWanted.connect(self._on_training_wanted)
        self.judging.told.connect(self._show_message)
        self.sheet.closed.connect(self._on_sheet_closed)
        connections = (
            (self.state.current_changed, self._show_current),
            (self.state.plane_ready, self._show_read),
            (self.state.queue_changed, self._show_queue),
            (self.state.counts_changed, self._show_counts),
            (self.state.scans_changed, self._show_scans),
            (self.state.status_changed, self._show_message),
        )
        for signal, slot in connections:
            signal.connect(slot)
        closing = (self._prefetch.close, self.grading.close, self.state.close)
        # With the viewer's window the dock dies unasked; the thread must end then too.
        self._ending = _Ending(
            (*connections, *self.grades.connections()),
            (*closing, self._worker.close),
        )
        self.destroyed.connect(self._ending.end)

    # ---- What the person does ----

    def open_folder(self, folder: Path) -> None:
        """Look at the predictions of a project, or of another folder."""
        if not self.correction.end():
            return
        self.judging.end()
        self.state.open_folder(folder)
        self.who.setName(self.state.reviewer or self.who.name())
        self._prefetch.wake()

    def _on_open_clicked(self) -> None:
        known = self.state.folder or open_project(self.viewer)
        start = "" if known is None else str(known)
        name = QFileDialog.getExistingDirectory(self, "Project or predictions", start)
        if name:
            self.open_folder(Path(name))

    def _on_project_clicked(self) -> None:
        folder = open_project(self.viewer)
        if folder is not None:
            self.open_folder(folder)

    def _on_refresh_clicked(self) -> None:
        self.state.refresh()

    def _on_store_clicked(self) -> None:
        url, accepted = QInputDialog.getText(
            self, "Where verdicts are kept", _WHERE, text=self.state.database
        )
        if accepted and self.correction.end():
            self.judging.end()
            self.state.keep_verdicts_in(url.strip())

    def _on_agreement_chosen(self) -> None:
        self.state.say_agreement()

    def _on_save_chosen(self) -> None:
        name, _ = QFileDialog.getSaveFileName(
            self, "Save all verdicts", "verdicts.csv", _TABLES
        )
        if name:
            self.state.export_verdicts(Path(name))

    def _on_add_chosen(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Add verdicts", "", _TABLES)
        if name:
            self.state.import_verdicts(Path(name))

    def _on_named(self, name: str) -> None:
        if self.state.can_judge and not (name and self._sit()):
            self.who.setName(self.state.reviewer)

    def _on_start_clicked(self) -> None:
        if not self.correction.end():
            return
        if self.judging.active:
            self.judging.end()
        elif self._may_look():
            self.judging.begin()
            self._leave_keyboard()

    def _on_sheet_clicked(self) -> None:
        if self.correction.end() and self._may_look():
            self.judging.pause(paused=True)
            self.sheet.open_over(self._canvas(), self.judging.canvas.turned)

    def _on_queue_chosen(self) -> None:
        self.sheet.turn_page()

    def _on_correcting(self) -> None:
        self.judging.pause(paused=True)

    def _on_corrected(self) -> None:
        self.judging.pause(paused=False)

    def _on_judge_wanted(self) -> None:
        self.tabs.setCurrentIndex(0)
        self.sheet.turn_page()

    def _on_training_wanted(self, folder: Path) -> None:
        from napari_kdseg.widgets.train import TrainDock

        window = self.viewer.window
        docks = list(window.dock_widgets.values())
        dock = next((one for one in docks if isinstance(one, TrainDock)), None)
        if dock is None:
            _, dock = window.add_plugin_dock_widget(
                "napari-kdseg", "Train", tabify=True
            )
        assert isinstance(dock, TrainDock)
        dock.show_run(folder)

    def _on_sheet_closed(self) -> None:
        self.judging.pause(paused=False)

    def _may_look(self) -> bool:
        """Whether slices can be shown: somebody judges, or here nobody can."""
        return bool(self.state.closed) or self._sit()

    def _sit(self) -> bool:
        """Have somebody judge; gives whether that is settled."""
        name = self.who.name()
        if not name:
            self._show_message(_NO_NAME)
            self.who.setFocus()
            return False
        if self.state.can_judge and name == self.state.reviewer:
            return True
        begun = self.state.begin(name)
        if begun:
            self.who.remember(name)
        return begun

    def _leave_keyboard(self) -> None:
        """Have the next key go to the canvas."""
        window = self.window()
        assert window is not None
        window.setFocus()

    def _on_tick(self) -> None:
        self.state.poll()
        self.grading.poll()
        self._prefetch.wake()
        if self.state.folder is None:
            self._show_offer()

    # ---- What the state says ----

    def _show_message(self, text: str) -> None:
        self.message.setText(text)
        self.message.setVisible(bool(text))

    def _show_scans(self) -> None:
        folder = self.state.folder
        self.folder.setText("none" if folder is None else folder.name)
        self.folder.setToolTip(_NO_FOLDER if folder is None else str(folder))
        self.refresh_button.setVisible(folder is not None)
        self.store.setText(self.state.database or "in the folder")
        self.store_button.setEnabled(folder is not None)
        self.table_button.setEnabled(folder is not None)
        self.notes.setText("\n".join(self.state.notes))
        self.notes.setVisible(bool(self.state.notes))
        self._show_message(self.state.status if folder is not None else _NO_FOLDER)
        self._show_offer()
        self.panel.refresh()

    def _show_current(self) -> None:
        self._show_message(self.state.status)
        self.judging.show_current()
        if not self.judging.can_judge:  # else the next tick is soon enough
            self._prefetch.wake()
        self.sheet.show_page()

    def _show_read(self) -> None:
        self.judging.look_again()

    def _show_queue(self) -> None:
        self._prefetch.wake()
        self.sheet.show_page()

    def _show_counts(self) -> None:
        self.panel.show_soon()

    def _show_offer(self) -> None:
        """Offer the project that is open in the Volumes dock."""
        folder = open_project(self.viewer) if self.state.folder is None else None
        if folder is not None:
            self.project_button.setText(f"Review {folder.name}")
        self.fields.setRowVisible(self.project_button, folder is not None)

    def _show_page(self, number: int) -> None:
        for index, page in enumerate(self.pages.values()):
            page.setVisible(index == number)

    # ---- What is around ----

    def _canvas(self) -> QWidget:
        """What the contact sheet covers."""
        widget: QWidget | None = self
        while widget is not None and not isinstance(widget, QMainWindow):
            widget = widget.parentWidget()
        center = None if widget is None else widget.centralWidget()
        return center or self


class _Ending:
    """What has to be done when a dock goes, in whatever way it does.

    Parameters
    ----------
    connections
        Signals that are not to be heard any more, each with who hears it.
    closing
        What is called then, in this order.
    """

    def __init__(
        self,
        connections: Sequence[tuple[Any, Any]],
        closing: Sequence[Callable[[], None]],
    ) -> None:
        self._connections = tuple(connections)
        self._closing = tuple(closing)

    def end(self) -> None:
        """Do it, once."""
        connections, closing = self._connections, self._closing
        self._connections = self._closing = ()
        for signal, slot in connections:
            signal.disconnect(slot)
        for close in closing:
            close()
