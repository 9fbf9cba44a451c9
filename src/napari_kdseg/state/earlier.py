"""Results that lie where those of a run would go, and how they make way.

What is published never changes. So results that were made with other settings are put
aside, where Review opens them still, before new ones come in their place::

    PROJECT/trash/predictions-2026-11-30-154210/CASE/MODEL/
    OUT/.earlier-2026-11-30-154210/CASE/MODEL/              of other folders
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from napari_kdseg.errors import KdsegError
from napari_kdseg.models.model import Model
from napari_kdseg.project_folder import LOCK, is_project
from napari_kdseg.review.corrections import LOCKS, read_record, records_in
from napari_kdseg.review.predictions import RECORD
from napari_kdseg.review.verdicts import current, read_verdicts
from napari_kdseg.runs.lock import Holder, is_held, read_holder
from napari_kdseg.state.prediction import Wish, case_wanted, config_of
from napari_kdseg.volumes.formats import is_volume
from napari_kdseg.volumes.naming import unique_name

UNASKED: dict[str, Any] = {
    "preset": "exact",
    "backend": "torch",
    "roi": "all",
    "precision": "auto",
    "tile": None,
    "overlap": None,
    "probabilities": False,
    "coarse_to_fine": False,
    "fill_nonfinite": None,
}
"""Settings that labels depend on, as the dock has them where it does not ask."""
_NO_MATTER = {"version", "command", "inputs", "case", "channels", "models", "out"}
_NO_MATTER |= {"preview", "device", "batch", "threads", "regions", "overlap_rule"}


@dataclass(frozen=True)
class Earlier:
    """Results of a scan that a run cannot go beside."""

    out: Path
    case: str
    models: tuple[str, ...]
    """Names of those whose results make way."""
    files: tuple[Path, ...]
    """What there is of several models together."""
    changed: bool
    """Whether other settings are the reason; else it is a teacher that joins."""

    @property
    def words(self) -> str:
        """What there is, and what becomes of it when Run is pressed."""
        named = f" of {', '.join(self.models)}" if self.models else ""
        if self.changed:
            told = f"{self.case} has results{named} of other settings."
        else:
            told = (
                f"{self.case} has results{named}, and regions are made of all teachers "
                "at once."
            )
        told += (
            f" Run makes them anew; what is there{self._joint} goes to {self._trash}, "
            "where nothing is deleted and Review can open it."
        )
        return " ".join(filter(None, (told, self._judged, self._corrected)))

    def put_aside(self) -> Path:
        """Move it away.

        Returns
        -------
        Path
            The folder of results that it lies in now, ``CASE/MODEL`` as before.

        Raises
        ------
        KdsegError
            Where it cannot be moved, is being corrected, or is of a project that
            another process may change.
        """
        self._check_is_ours()
        self._check_uncorrected()
        try:
            aside = self._made_aside()
            self._move(aside)
        except OSError as error:
            raise KdsegError(
                f"The results of {self.case} could not be put aside to {self._trash} "
                f"({error.strerror}), so nothing was computed. Make room or ask for "
                "the right to write, or choose another folder for the results."
            ) from error
        return aside.parent

    def _made_aside(self) -> Path:
        self._trash.mkdir(exist_ok=True)
        stamp = f"{datetime.now():%Y-%m-%d-%H%M%S}"
        kind = "predictions" if self._in_project else ".earlier"
        taken = [path.name for path in self._trash.iterdir()]
        aside = self._trash / unique_name(f"{kind}-{stamp}", taken) / self.case
        aside.mkdir(parents=True)
        return aside

    def _move(self, aside: Path) -> None:
        """Move all of it, or nothing."""
        folder, moved = self.out / self.case, list[Path]()
        try:
            for path in (*(folder / name for name in self.models), *self.files):
                path.rename(aside / path.name)
                moved.append(path)
        except OSError:
            self._put_back(moved, aside)
            raise

    def _put_back(self, moved: list[Path], aside: Path) -> None:
        try:
            for path in reversed(moved):
                (aside / path.name).rename(path)
        except OSError as error:
            raise KdsegError(
                f"Only some of the results of {self.case} could be put aside "
                f"({error.strerror}), so nothing was computed. Move what is in {aside} "
                f"back to {self.out / self.case}."
            ) from error
        with suppress(OSError):
            aside.rmdir()
            aside.parent.rmdir()

    @property
    def _joint(self) -> str:
        """What is moved with it that is of several models together."""
        kinds = dict.fromkeys(path.name.split(".")[0] for path in self.files)
        return f", with {' and '.join(kinds)} of several models," if kinds else ""

    @property
    def _in_project(self) -> bool:
        return self.out.name == "predictions" and is_project(self.out.parent)

    @property
    def _trash(self) -> Path:
        return self.out.parent / "trash" if self._in_project else self.out

    @property
    def _home(self) -> Path:
        """The folder that has what people said of results."""
        return self.out.parent if self._in_project else self.out

    def _check_is_ours(self) -> None:
        """Refuse where another process has the project: here it is looked at only."""
        lock = self.out.parent / LOCK
        if not self._in_project or not is_held(lock):
            return
        holder, this = read_holder(lock), Holder.this_process()
        if holder is None or (holder.host, holder.pid) != (this.host, this.pid):
            who = f"process {holder.pid} on {holder.host}" if holder else "another one"
            raise KdsegError(
                f"{self.out.parent} is open in {who}, so its results stay and nothing "
                "was computed. Close it there and open it here again, or choose "
                "another folder for the results."
            )

    def _check_uncorrected(self) -> None:
        """Refuse while a correction reads what was not painted from these labels."""
        place = self._home.joinpath(*LOCKS, self.case)
        for path in sorted(place.glob("*.lock")):
            if is_held(path):
                holder = read_holder(path)
                who = f" in process {holder.pid} on {holder.host}" if holder else ""
                raise KdsegError(
                    f"{self.case} is being corrected{who}, or its correction is "
                    "written, so its results stay and nothing was computed. Press "
                    "Done in Review there, then Replace and run."
                )

    @property
    def _corrected(self) -> str:
        """Whether it was corrected, and what that means."""
        hashes = self._hashes
        for path in records_in(self._home, self.case):
            try:
                if read_record(path).labels_hash not in hashes:
                    continue
            except KdsegError:  # it might be of these
                pass
            return "It was corrected: the correction stays, and is of these labels."
        return ""

    @property
    def _judged(self) -> str:
        """How many slices of it were judged, and what that means."""
        home = self._home / "review"
        if not home.is_dir():
            return ""
        count = _slices_judged(home, self._hashes)
        if count == 0:
            return ""
        many = "Slices may have been" if count is None else f"{_slices(count)}"
        return (
            f"{many} judged: the verdicts stay, and count for the labels that they "
            "were given to, here again once these are moved back."
        )

    @property
    def _hashes(self) -> set[str]:
        folder = self.out / self.case
        records = (_record(folder / name) for name in self.models)
        return {str(one.get("labels", {}).get("sha256")) for one in records}


def in_the_way(wish: Wish) -> Earlier | None:
    """Results that a run of a wish would have to change; None where there are none."""
    if wish.out is None:
        return None
    case = case_wanted(wish)
    folder = wish.out / case
    if not folder.is_dir():
        return None
    config = config_of(wish)
    there = [one for one in wish.models if (folder / one.card.name).exists()]
    changed = any(not _is_of(folder, one, config) for one in there)
    files, teach = tuple(_joint_files(folder)), _teachers(wish.models)
    # Nothing is as easily mistaken as regions of some teachers for those of all.
    joins = len(teach) > 1 and _is_incomplete(teach, there, files, config)
    if not (changed or joins):
        return None
    stale = joins or any(one in teach for one in there)
    names = tuple(one.card.name for one in there)
    return Earlier(wish.out, case, names, files if stale else (), changed)


def _is_incomplete(
    teachers: list[Model],
    there: list[Model],
    files: tuple[Path, ...],
    config: dict[str, Any],
) -> bool:
    """Whether some of what is made of all teachers together is there, and some not."""
    kinds = {path.name.split(".")[0] for path in files}
    wanted = {"regions"} | ({"uncertainty"} if config["uncertainty"] else set())
    done = [one for one in teachers if one in there]
    complete = len(done) == len(teachers) and wanted <= kinds
    return bool(done or wanted & kinds) and not complete


def _teachers(models: Any) -> list[Model]:
    """Those that regions are made of: teachers, or all where there is none."""
    return [one for one in models if one.card.role == "teacher"] or list(models)


def _joint_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        named = path.name.startswith(("regions.", "uncertainty."))
        if named and (is_volume(path) or path.name == "regions.json"):
            yield path


def _is_of(folder: Path, model: Model, config: dict[str, Any]) -> bool:
    """Whether results are of this very model and of these settings."""
    record = _record(folder / model.card.name)
    settings = record.get("settings")
    if not isinstance(settings, dict):
        return False
    if record.get("model", {}).get("fingerprint") != model.fingerprint:
        return False
    asked = UNASKED | config
    return all(
        _plain(settings.get(key, UNASKED.get(key))) == _plain(asked.get(key))
        for key in (settings.keys() | asked.keys()) - _NO_MATTER
    )


def _plain(value: Any) -> Any:
    """Parts of files count in any order: channels are paired by their names."""
    return sorted(map(str, value)) if isinstance(value, (list, tuple)) else value


def _record(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _slices_judged(home: Path, hashes: set[str]) -> int | None:
    """Slices with a verdict on these labels; None where a lab's database has them."""
    # Loading what stores need takes a while.
    from napari_kdseg.review.shared import store_of

    try:
        store = store_of(home)
        if isinstance(store, str):
            return None
        if not store.is_file():
            return 0
        return _count(store, _stamp(store), frozenset(hashes))
    except (KdsegError, OSError):
        return None


@lru_cache(maxsize=8)
def _count(store: Path, stamp: tuple[int, ...], hashes: frozenset[str]) -> int:
    """Count them; remembered, as it is asked for with every setting that is touched."""
    del stamp
    verdicts = current(read_verdicts(store))
    return len({(v.place, v.labels_hash) for v in verdicts if v.labels_hash in hashes})


def _stamp(store: Path) -> tuple[int, ...]:
    """What changes with each verdict: the newest ones lie beside the store."""
    files = (store, store.with_name(f"{store.name}-wal"))
    found = [file.stat() for file in files if file.is_file()]
    there = [one for one in found if one.st_size]  # to read it may make an empty one
    return tuple(part for one in there for part in (one.st_mtime_ns, one.st_size))


def _slices(count: int) -> str:
    return "1 slice of it was" if count == 1 else f"{count} slices of it were"
