"""Where which teacher may teach, as a layer with a legend."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from napari_kdseg.state.layers import LayerData, labels_layer
from napari_kdseg.volumes.labels import distinct_color
from napari_kdseg.volumes.volume import Grid

TRUE_BACKGROUND = "true background"
CONFLICT = "conflict"
TRUE_BACKGROUND_COLOR = "#4c6a92"
CONFLICT_COLOR = "#ff2d95"

# Beyond this many claimants not every combination gets a name of its own.
_MOST_COMBINED = 8


@dataclass(frozen=True)
class Region:
    """A row of the legend."""

    name: str
    color: str
    share: float | None
    """Part of the scan's voxels, 0 to 1; None before the whole is computed."""


@dataclass(frozen=True)
class Claim:
    """One bit of the mask: a teacher, and the class it claims voxels for."""

    bit: int
    teacher: str
    name: str
    value: int


@dataclass(frozen=True)
class Regions:
    """What ``regions.json`` says."""

    claims: tuple[Claim, ...]
    rule: str
    shares: Mapping[str, float]
    colors: Mapping[str, str]
    """Colours by class; those that are missing are chosen by value."""

    @classmethod
    def read(cls, case_folder: Path, colors: Mapping[str, str]) -> "Regions | None":
        """What the bits of a case mean; None where it has no regions."""
        try:
            text = (case_folder / "regions.json").read_text("utf-8")
            noted = json.loads(text)
            claims = tuple(
                Claim(
                    int(one["bit"]),
                    str(one["teacher"]),
                    str(one["class"]),
                    int(one["value"]),
                )
                for one in noted["claimants"]
            )
            return cls(claims, noted["overlap_rule"], noted.get("shares", {}), colors)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def values(self) -> tuple[int, ...]:
        """The class value of each bit."""
        return tuple(claim.value for claim in self.claims)

    @property
    def legend(self) -> tuple[Region, ...]:
        """True background, each class once, and conflict."""
        names = dict.fromkeys(claim.name for claim in self.claims)
        rows = [(TRUE_BACKGROUND, TRUE_BACKGROUND_COLOR)]
        rows += [(name, self._color(name)) for name in names]
        rows.append((CONFLICT, CONFLICT_COLOR))
        return tuple(Region(name, color, self.shares.get(name)) for name, color in rows)

    def layer(
        self, bits: Any, grid: Grid, *, name: str, record: Mapping[str, Any]
    ) -> LayerData:
        """The layer of the bits: a voxel in the colour of its one class, or conflict.

        While a job fills the array true background is clear, since what is not
        computed reads the same.
        """
        noted = {"kind": "regions", **record}
        data, arguments, kind = labels_layer(bits, grid, None, name=name, record=noted)
        named = self._combinations()
        colors: dict[int | None, str] = {
            code: self._color_of(code) for code in named if code
        }
        background = "transparent" if record.get("live") else TRUE_BACKGROUND_COLOR
        arguments["features"] = {
            "index": list(named),
            "region": list(named.values()),
        }
        arguments["colormap"] = {None: CONFLICT_COLOR, 0: background, **colors}
        return data, arguments, kind

    def _combinations(self) -> dict[int, str]:
        """Names of the codes that can be named one by one."""
        named = {0: TRUE_BACKGROUND}
        most = len(self.claims) if len(self.claims) <= _MOST_COMBINED else 1
        for size in range(1, most + 1):
            for chosen in combinations(self.claims, size):
                code = sum(1 << claim.bit for claim in chosen)
                names = list(dict.fromkeys(claim.name for claim in chosen))
                text = " + ".join(names)
                named[code] = text if len(names) == 1 else f"{CONFLICT}: {text}"
        return named

    def _color_of(self, code: int) -> str:
        names = {claim.name for claim in self.claims if code >> claim.bit & 1}
        return self._color(names.pop()) if len(names) == 1 else CONFLICT_COLOR

    def _color(self, name: str) -> str:
        value = next(claim.value for claim in self.claims if claim.name == name)
        return self.colors.get(name) or distinct_color(value)
