"""The run folder: a config goes in, events come out, a file `stop` asks for the end.

::

    RUN/config.yaml        complete settings; begins with version and command
        events.jsonl       one JSON object a line: v, time, event and its fields
        environment.json   interpreter, machine, package versions
        partial/           unfinished results, readable while they grow
        checkpoints/       what a training continues from
        model/             the model a training made
        stop               present: somebody asks for an orderly end
        requeue            present: likewise, to be started again
        lock               present: a process is executing the run, or died doing so

Events: ``started``, ``resumed``, ``progress``, ``metric``, ``warning``, ``error``,
``stopped``, ``finished``, and those of single commands. ``time`` is seconds since 1970,
UTC. The file only grows; readers keep the byte they have read to.
"""

import contextlib
import copy
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import RequeueRequested, RunError, StopRequested
from napari_kdseg.runs import as_yaml, requests
from napari_kdseg.runs.environment import environment
from napari_kdseg.runs.lock import Lock, is_held
from napari_kdseg.runs.plain import are_alike, as_finite, as_plain, given

EVENT_VERSION = 1
CONFIG_VERSION = 1
"""The newest form of config.yaml that is understood."""

State = Literal["prepared", "running", "finished", "stopped", "failed", "interrupted"]
_FINAL: dict[str, State] = {
    "finished": "finished",
    "stopped": "stopped",
    "error": "failed",
}
_TAIL_BYTES = 1 << 16


class Run:
    """One job's folder, for the process that executes it and for all who look on.

    Examples
    --------
    >>> run = Run.create(folder, {"version": 1, "command": "predict"})
    >>> with run.executing():
    ...     for step in range(total):
    ...         run.check_stop()
    ...         run.progress(step + 1, total)
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self._folder = folder
        self._config = config

    # ---- Opening ----

    @classmethod
    def create(cls, folder: Path, config: dict[str, Any]) -> Self:
        """Prepare a run; an existing one is returned where its config is the same.

        A setting that is None is the same as one that is missing: an older version
        prepared the run.

        Raises
        ------
        RunError
            Where the folder holds another run or other files, or the config does not
            say its version and command.
        """
        folder = Path(folder).absolute()
        text = as_yaml.dump(_ordered(config))
        plain = as_yaml.load(text)  # as whoever opens the run will find it
        if (folder / "config.yaml").exists():
            run = cls.open(folder)
            if not are_alike(run.config, plain):
                raise RunError(_other_config(run, plain))
            return run.going_on_with(plain)
        others = (
            path
            for path in folder.glob("*")
            if not path.name.startswith("config.yaml.partial-")  # of a killed process
        )
        if any(others):
            raise RunError(
                f"{folder} holds files and no run (config.yaml); choose a new folder."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder} cannot be made: {error.strerror}.") from error
        write_text_atomic(folder / "config.yaml", text)
        return cls(folder, plain)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a prepared, running or ended run.

        Raises
        ------
        RunError
            Where there is no readable config.yaml with a version and a command.
        """
        folder = Path(folder).absolute()
        path = folder / "config.yaml"
        try:
            config = as_yaml.load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RunError(
                f"{folder} is no run folder: config.yaml cannot be read "
                f"({error.strerror}). Choose the folder that was given as --out, or "
                "train anew."
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(f"{path} is no YAML file ({reason}).") from error
        if not isinstance(config, dict):
            raise RunError(f"{path} holds no settings; a run begins with version: 1.")
        _refuse_newer(config.get("version"), path)
        return cls(folder, _ordered(config, str(path)))

    def going_on_with(self, config: dict[str, Any]) -> Self:
        """Give the run settings that do not matter to what it has done already.

        One that is being executed, or is finished, keeps its own.
        """
        keeps = self.state() in ("running", "finished")
        if keeps or as_plain(config) == self._config:
            return self
        text = as_yaml.dump(_ordered(config))
        write_text_atomic(self._folder / "config.yaml", text)
        return type(self).open(self._folder)

    # ---- What and where ----

    @property
    def folder(self) -> Path:
        """The run folder, absolute."""
        return self._folder

    @property
    def leads(self) -> bool:
        """Whether this process writes what the run makes; of several, one does."""
        return True

    @property
    def config(self) -> dict[str, Any]:
        """A copy of the settings, as YAML has them (lists and strings, no paths)."""
        return copy.deepcopy(self._config)

    @property
    def partial(self) -> Path:
        """Unfinished results; exists while and after the run is executed."""
        return self._folder / "partial"

    @property
    def checkpoints(self) -> Path:
        """What a killed training continues from."""
        return self._folder / "checkpoints"

    @property
    def model_folder(self) -> Path:
        """The model this run makes; missing until it is complete."""
        return self._folder / "model"

    @property
    def events_path(self) -> Path:
        """The file of events; missing before the run is executed."""
        return self._folder / "events.jsonl"

    @property
    def has_work(self) -> bool:
        """Whether there is something unfinished that an execution would go on with."""
        folders = (self.partial, self.checkpoints)
        return any(folder.is_dir() and any(folder.iterdir()) for folder in folders)

    def state(self) -> State:
        """How far the run is; ``interrupted`` where its process died without a word."""
        if is_held(self._folder / "lock"):
            return "running"
        last = self._last_event()
        if last is None:
            return "prepared"
        return _FINAL.get(last, "interrupted")

    # ---- Events ----

    def event(self, kind: str, **fields: Any) -> None:
        """Append one line; readers see all of it or a torn line that they ignore.

        Numbers that are not finite become null, since JSON has no word for them.
        """
        record = {"v": EVENT_VERSION, "time": round(time.time(), 3), "event": kind}
        line = json.dumps(as_finite(as_plain(record | fields)), allow_nan=False) + "\n"
        with self.events_path.open("ab", buffering=0) as file:
            file.write(line.encode())
            if kind in _FINAL:
                os.fsync(file.fileno())

    def progress(self, step: int, total: int, stage: str = "", **extra: Any) -> None:
        """Say that `step` of `total` is done, in a stage where there are several."""
        self.event("progress", stage=stage, step=step, total=total, **extra)

    def metric(self, **values: Any) -> None:
        """Record measured values: losses, scores, rates, with step and stage."""
        self.event("metric", **values)

    def warning(self, text: str) -> None:
        """Tell whoever follows the run about something odd that does not end it."""
        self.event("warning", message=text)

    def error(self, text: str) -> None:
        """Tell whoever follows the run what went wrong."""
        self.event("error", message=text)

    def events(self, since_byte: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Events from a byte on, and the byte to go on from.

        A last line without its end is left for the next call; lines that are no JSON
        object (torn by a crash, then followed by others) are skipped.
        """
        try:
            with self.events_path.open("rb") as file:
                file.seek(since_byte)
                data = file.read()
        except FileNotFoundError:
            return [], since_byte
        complete = data[: data.rfind(b"\n") + 1]
        return _parse(complete), since_byte + len(complete)

    # ---- Stopping ----

    def request_stop(self) -> None:
        """Ask for an orderly end; who executes the run looks at every step."""
        (self._folder / requests.STOP).touch()

    def request_requeue(self) -> None:
        """Ask for an orderly end after which the run is to be started again."""
        (self._folder / requests.REQUEUE).touch()

    def stop_requested(self) -> bool:
        """Whether somebody asked for an orderly end."""
        return requests.is_asked(self._folder)

    def asked_to_stop(self) -> StopRequested | None:
        """What `check_stop` would raise."""
        return requests.as_error(self._folder)

    def check_stop(self) -> None:
        """Leave the work where somebody asked for it.

        Raises
        ------
        StopRequested
            Where the file `stop` or `requeue` exists; the latter's is a child of it.
        """
        if (request := self.asked_to_stop()) is not None:
            raise request

    # ---- Executing ----

    @contextlib.contextmanager
    def executing(self) -> Iterator[None]:
        """Hold the run while working on it, and write how it began and ended.

        Raises
        ------
        RunError
            Where another living process executes the run, or it is finished.
        RequeueRequested
            In the place of any other `StopRequested`, where it was asked to make way.
        """
        lock = Lock(self._folder / "lock")
        try:
            self._begin()
            with self._ending():
                self._describe_environment()
                yield
        finally:
            lock.release()

    def _begin(self) -> None:
        last = self._last_event()
        if last == "finished":
            raise RunError(
                f"{self._folder} is finished; its result stays as it is. Use another "
                "folder to run it again."
            )
        # Who makes way means the execution at hand, never one to come.
        requests.forget(self._folder, requests.REQUEUE)
        if last is not None and last not in _FINAL:
            # The request was meant for the execution that died.
            requests.forget(self._folder)
        resuming = self.has_work
        self.partial.mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        self._end_torn_line()
        self.event(
            "resumed" if resuming else "started",
            command=self._config["command"],
            host=socket.gethostname(),
            pid=os.getpid(),
        )

    def _describe_environment(self) -> None:
        described = json.dumps(environment(), indent=2)
        write_text_atomic(self._folder / "environment.json", described + "\n")

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except (StopRequested, KeyboardInterrupt) as stop:
            order = self._order(stop)
            said = str(stop) or "interrupted from the keyboard"
            again = isinstance(order, RequeueRequested)
            self._last_words("stopped", said, requeue=again)
            if order is stop:
                raise
            raise order from stop
        except BaseException as error:
            self._last_words("error", str(error) or type(error).__name__)
            raise
        self.event("finished")
        requests.forget(self._folder)

    def _order(self, stop: BaseException) -> BaseException:
        """What ended the execution, named by what was asked for.

        Work that only asks whether to stop, such as a prediction, cannot tell a request
        to stop from one to make way.
        """
        asked = self.asked_to_stop()
        if type(stop) is StopRequested and isinstance(asked, RequeueRequested):
            return RequeueRequested(str(stop))
        return stop

    def _last_words(self, kind: str, message: str, **fields: Any) -> None:
        # A full disk must not hide the error that came first.
        with contextlib.suppress(OSError):
            self.event(kind, message=message, **fields)
            requests.forget(self._folder)

    # ---- Reading the file of events ----

    def _last_event(self) -> str | None:
        """Kind of the newest event, from the end of the file alone."""
        try:
            size = self.events_path.stat().st_size
        except OSError:
            size = 0
        if size == 0:
            return None
        events, _ = self.events(max(0, size - _TAIL_BYTES))
        return str(events[-1]["event"]) if events else "torn"

    def _end_torn_line(self) -> None:
        with self.events_path.open("a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size == 0:
                return
            file.seek(size - 1)
            if file.read(1) != b"\n":
                file.write(b"\n")


def _refuse_newer(version: object, path: Path) -> None:
    if isinstance(version, int) and version > CONFIG_VERSION:
        raise RunError(
            f"{path} has version {version}, and this program knows versions up to "
            f"{CONFIG_VERSION}: a newer one wrote it. Update napari-kdseg to open it."
        )


def _ordered(config: dict[str, Any], where: str = "The config") -> dict[str, Any]:
    """The config in plain words, version and command first."""
    missing = [key for key in ("version", "command") if key not in config]
    if missing:
        raise RunError(
            f"{where} has no {' and no '.join(missing)}; a run begins with "
            "version: 1 and command: fit, predict or evaluate."
        )
    first = {"version": config["version"], "command": config["command"]}
    plain: dict[str, Any] = as_plain(first | config)
    return plain


def _other_config(run: Run, wanted: dict[str, Any]) -> str:
    found = run.config
    keys = [
        key for key in found | wanted if given(found.get(key)) != given(wanted.get(key))
    ]
    return (
        f"{run.folder} holds a run that is {run.state()} and has other settings "
        f"({', '.join(keys)}); choose a new folder, or the same settings, or remove "
        "it if nothing in it is wanted."
    )


def _parse(lines: bytes) -> list[dict[str, Any]]:
    rows = lines.splitlines()
    try:
        # At once, in a third of the time: a long run has a hundred thousand lines.
        records: list[Any] = json.loads(b"[" + b",".join(rows) + b"]")
    except ValueError:
        records = []
        for row in rows:
            with contextlib.suppress(ValueError):
                records.append(json.loads(row))
    return [one for one in records if isinstance(one, dict) and "event" in one]
