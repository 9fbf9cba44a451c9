"""Lengths and resolutions as TIFF files and pictures give them, to millimetres."""

from dataclasses import dataclass
from math import isfinite

_UNITS_MM = {
    **dict.fromkeys(("m", "meter", "metre", "meters"), 1e3),
    **dict.fromkeys(("dm", "decimeter"), 100.0),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 10.0),
    **dict.fromkeys(("mm", "millimeter", "millimetre", "millimeters"), 1.0),
    **dict.fromkeys(("um", "µm", "\u03bcm", "\\u00b5m", "\\u03bcm"), 1e-3),
    **dict.fromkeys(("micron", "microns", "micrometer", "micrometre"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-6),
    **dict.fromkeys(("å", "\u212b", "angstrom"), 1e-7),
    **dict.fromkeys(("pm", "picometer"), 1e-9),
    **dict.fromkeys(("inch", "inches", "in"), 25.4),
}
INCH_MM = 25.4
_RESOLUTION_UNITS_MM = {2: INCH_MM, 3: 10.0}
_FOR_PRINT_PER_INCH = (72, 96, 150, 300, 600)

Spacing = tuple[float | None, float | None, float | None]
"""Voxel size along z, y, x in millimetres, where it is known."""


@dataclass(frozen=True)
class Resolution:
    """The resolution tags of a page, or what stands for them in a picture."""

    x: float
    """Voxels per unit; 0 where there is none."""
    y: float
    unit: int
    """2 inch, 3 centimetre, all else none."""

    def size_mm(self) -> tuple[float, float] | None:
        """Give y, x in millimetres; None where there is no unit or no number."""
        mm = _RESOLUTION_UNITS_MM.get(self.unit)
        if mm is None or not (self.x > 0 and self.y > 0):
            return None
        return mm / self.y, mm / self.x

    def for_print(self) -> str:
        """Name the resolution if programs write it where they know none, or empty."""
        size = self.size_mm()
        if size is None:
            return ""
        per_inch = (25.4 / size[0], 25.4 / size[1])
        for usual in _FOR_PRINT_PER_INCH:
            # Some formats round it to whole voxels per metre.
            if all(abs(found - usual) < 0.02 for found in per_inch):
                return f"{usual} per inch"
        return ""

    def spacing(self, name: str) -> tuple[Spacing, list[str]]:
        """Give the sizes along y, x where they can be believed, and notes."""
        if usual := self.for_print():
            return (None, None, None), [
                f"{name} gives its resolution as {usual}, which programs write where "
                "they know none; it is not believed."
            ]
        size = self.size_mm()
        return (None, *size) if size else (None, None, None), []


def unit_mm(unit: str) -> float | None:
    """Give the millimetres of a unit of length; None for others, such as pixel."""
    text = unit.strip()
    if text in ("Mm", "Pm"):  # a million metres, and more
        return None
    return _UNITS_MM.get(text) or _UNITS_MM.get(text.lower())


def length_mm(value: object, mm: float | None) -> float | None:
    """Read a length; None where it or its unit is not known, or it is not above 0."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    if mm is None or not isfinite(number) or number <= 0:
        return None
    return number * mm


def settled_spacing(
    spacing: Spacing, name: str
) -> tuple[tuple[float, float, float], list[str]]:
    """Fill in the sizes along z, y, x that a file does not give, and say so."""
    known = [size for size in spacing if size is not None]
    if not known:
        return (1.0, 1.0, 1.0), [
            f"{name} stores no voxel size; 1 x 1 x 1 mm is taken. Give it with "
            "--spacing Z,Y,X."
        ]
    if len(known) == 3:
        return (known[0], known[1], known[2]), []
    z, y, x = spacing
    x = x or y or known[0]
    y = y or x
    z = z or x
    missing = ", ".join(
        axis for axis, size in zip("zyx", spacing, strict=True) if size is None
    )
    return (z, y, x), [
        f"{name} stores no voxel size along {missing}; it is taken from the others, as "
        f"{z:g} x {y:g} x {x:g} mm (z, y, x). Give it with --spacing Z,Y,X."
    ]
