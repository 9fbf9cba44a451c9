"""Scans on their way into a list, a step at a time, so that the viewer stays alive."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from napari_kdseg.errors import GridError, KdsegError
from napari_kdseg.volumes.scan import NewScan, Scan

Begin = Callable[[NewScan], Generator[float, None, Scan]]


@dataclass(frozen=True)
class Status:
    """What is under way, or what came of it."""

    text: str = ""
    fraction: float = 0.0
    busy: bool = False


class Adding:
    """Adds one scan after the other; one that is refused does not hold up the rest.

    Parameters
    ----------
    scans
        What to add.
    begin
        Begins to add a scan; see `Project.adding`.

    Attributes
    ----------
    added
        Scans that are in the list now.
    problems
        Why others are not, a sentence each.
    off_grid
        Those refused since their files do not share a grid.
    """

    def __init__(self, scans: Sequence[NewScan], begin: Begin) -> None:
        self._scans = list(scans)
        self._begin = begin
        self._at = 0
        self._steps: Generator[float, None, Scan] | None = None
        self._share = 0.0
        self._cancelled = False
        self.added: list[Scan] = []
        self.problems: list[str] = []
        self.off_grid: list[NewScan] = []

    @property
    def fraction(self) -> float:
        """How much is done, 0 to 1."""
        return (self._at + self._share) / max(1, len(self._scans))

    @property
    def text(self) -> str:
        """What is under way."""
        return (
            f"Adding scan {min(self._at + 1, len(self._scans))} of {len(self._scans)}"
        )

    @property
    def result(self) -> str:
        """What came of it, in a sentence or two; empty where all went well."""
        if self._cancelled:
            return "Cancelled; what was added stays."
        if not self.problems:
            return ""
        more = len(self.problems) - 1
        others = f" ({more} more could not be added.)" if more else ""
        return self.problems[0] + others

    def step(self) -> bool:
        """Go on; gives whether there is more to do."""
        if self._at >= len(self._scans):
            return False
        scan = self._scans[self._at]
        try:
            self._steps = self._steps or self._begin(scan)
            self._share = next(self._steps)
            return True
        except StopIteration as stop:
            self.added.append(stop.value)
        except GridError as error:
            self.off_grid.append(scan)
            self.problems.append(str(error))
        except (KdsegError, OSError) as error:
            self.problems.append(str(error))
        self._steps, self._share = None, 0.0
        self._at += 1
        return self._at < len(self._scans)

    def cancel(self) -> None:
        """Leave the rest; nothing of the scan at hand stays."""
        if self._steps is not None:
            self._steps.close()
        self._at = len(self._scans)
        self._cancelled = True
