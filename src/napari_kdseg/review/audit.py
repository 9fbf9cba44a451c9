"""Checking the machine: a random sample of what it accepts, judged by a person.

The sample is drawn so that every slice has the same chance and every scan its share,
within one slice; so the share of bad ones in it is the error rate of all. Wilson's
interval (1927) says how sure that is; it treats the sample as if it were drawn without
regard to scans, which makes it a little wider than need be.

Slices that people have judged are not drawn: the classifier has learnt from them, and
what people said of them counts, whatever it says.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_kdseg.atomic import write_text_atomic
from napari_kdseg.errors import ReviewError
from napari_kdseg.review.opinions import votes
from napari_kdseg.review.verdicts import Place, Verdict

VERSION = 1
NORMAL_95 = 1.959963984540054
"""Of a normal distribution 95 % lie within so many standard deviations."""
_NAME = re.compile(r"audit-(\d+)\.json")


@dataclass(frozen=True)
class Audit:
    """A sample that was drawn, and what it was drawn from."""

    number: int
    classifier: str
    """Fingerprint of the classifier."""
    model: str
    """Name of the model whose predictions were accepted."""
    threshold: float
    """P(good) from which on slices were accepted."""
    accepted: int
    """Slices that could be drawn: accepted, and judged by nobody."""
    seed: int
    places: tuple[Place, ...]
    """In a random order, so that a part of them is a fair sample, too."""
    labels: Mapping[str, str]
    """Case -> hash of the labels that are to be judged."""
    created_utc: str = ""


@dataclass(frozen=True)
class Findings:
    """What people said of a sample."""

    drawn: int
    good: int
    bad: int
    unsure: int
    """Unsure, or as many for as against; they say nothing of the error rate."""
    low: float
    """Lower end of the 95 % interval of the error rate."""
    high: float

    @property
    def left(self) -> int:
        """Slices of the sample that nobody has judged yet."""
        return self.drawn - self.good - self.bad - self.unsure

    @property
    def error_rate(self) -> float:
        """Share of bad slices among the accepted ones; NaN before any is judged."""
        judged = self.good + self.bad
        return self.bad / judged if judged else math.nan

    @property
    def words(self) -> str:
        """The result in a sentence."""
        judged = self.good + self.bad
        if not judged:
            return f"0 of {self.drawn} slices of the sample are judged."
        unsure = f", {self.unsure} unsure" if self.unsure else ""
        return (
            f"{self.bad} of {judged} accepted slices are bad{unsure}: an error rate of "
            f"{_percent(self.error_rate)}, between {_percent(self.low)} and "
            f"{_percent(self.high)} with 95 % confidence."
        )


def wilson(bad: int, judged: int) -> tuple[float, float]:
    """Give Wilson's 95 % interval of a share; 0 to 1 where nothing is judged.

    Examples
    --------
    >>> low, high = wilson(5, 50)
    >>> round(low, 3), round(high, 3)
    (0.043, 0.214)
    """
    if judged == 0:
        return 0.0, 1.0
    z2 = NORMAL_95**2
    share = bad / judged
    middle = (share + z2 / (2 * judged)) / (1 + z2 / judged)
    spread = math.sqrt(share * (1 - share) / judged + z2 / (4 * judged**2))
    half = NORMAL_95 * spread / (1 + z2 / judged)
    # at the ends of the scale the formula gives 0 and 1 but for rounding
    low = 0.0 if bad == 0 else middle - half
    return low, 1.0 if bad == judged else middle + half


def sample(places: Iterable[Place], count: int, seed: int) -> tuple[Place, ...]:
    """Draw slices so that each has the same chance and every scan its share.

    Systematic sampling: the slices of one scan, shuffled, follow those of another, and
    every so manyth is taken from a random start on. A scan with a tenth of the slices
    gets a tenth of the sample, rounded up or down.

    Parameters
    ----------
    places
        Case, axis and index of the slices to draw from.
    count
        How many; all where there are not more.
    seed
        The same seed and slices give the same sample.

    Returns
    -------
    tuple
        In a random order.
    """
    rng = np.random.default_rng(seed)
    scans: dict[str, list[Place]] = {}
    for place in sorted(places):
        scans.setdefault(place[0], []).append(place)
    names = list(scans)
    order: list[Place] = []
    for name in (names[number] for number in rng.permutation(len(names))):
        order += _shuffled(scans[name], rng)
    if count < len(order):
        start = rng.random()
        step = len(order) / count
        order = [order[int((start + number) * step)] for number in range(count)]
    return tuple(_shuffled(order, rng))


def findings(audit: Audit, verdicts: Iterable[Verdict]) -> Findings:
    """Say what people found in a sample.

    Parameters
    ----------
    audit
        The sample.
    verdicts
        Those that count; others than on the sample's labels are left out.
    """
    wanted = set(audit.places)
    said = votes(
        one
        for one in verdicts
        if one.place in wanted
        and one.labels_hash == audit.labels.get(one.case, one.labels_hash)
    )
    good = sum(vote > 0 for vote in said.values())
    bad = sum(vote < 0 for vote in said.values())
    low, high = wilson(bad, good + bad)
    return Findings(len(audit.places), good, bad, len(said) - good - bad, low, high)


# ---- in files ----


def next_number(home: Path) -> int:
    """Number of the audit that comes next in a folder."""
    return 1 + max((number for number, _ in _files(home)), default=0)


def keep(audit: Audit, home: Path) -> Path:
    """Write an audit down as ``audit-NUMBER.json``.

    Raises
    ------
    ReviewError
        Where that cannot be.
    """
    path = home / f"audit-{audit.number}.json"
    text = json.dumps({"version": VERSION, **asdict(audit)}, indent=1)
    try:
        home.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, text + "\n")
    except OSError as error:
        raise ReviewError(
            f"{path} could not be written ({error.strerror}), so no sample was drawn. "
            "Make room, or ask for the right to write."
        ) from error
    return path


def audits_in(home: Path) -> tuple[Audit, ...]:
    """Read all audits of a folder, the newest last.

    Raises
    ------
    ReviewError
        Where one is damaged, or of a newer version; names it.
    """
    return tuple(_read(path) for _, path in sorted(_files(home)))


def _files(home: Path) -> list[tuple[int, Path]]:
    found = ((_NAME.fullmatch(path.name), path) for path in home.glob("audit-*.json"))
    return [(int(match[1]), path) for match, path in found if match]


def _read(path: Path) -> Audit:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = values.pop("version")
        if version > VERSION:
            raise ReviewError(
                f"{path} has version {version}, and this program knows {VERSION}; a "
                "newer one wrote it. Update napari-kdseg."
            )
        places = tuple((str(c), int(a), int(i)) for c, a, i in values.pop("places"))
        return Audit(places=places, **values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ReviewError(
            f"{path} is no record of an audit ({type(error).__name__}: {error}). Move "
            "it away, and draw a new sample."
        ) from error


def _shuffled(places: Sequence[Place], rng: np.random.Generator) -> list[Place]:
    return [places[number] for number in rng.permutation(len(places))]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
