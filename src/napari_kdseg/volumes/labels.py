"""Labels: which value means which organ, what it is called and how it is painted."""

import colorsys
import hashlib
from collections.abc import Iterable
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from napari_kdseg.errors import LabelError
from napari_kdseg.volumes.volume import VoxelArray

# Okabe and Ito (2008), without black, then five of Paul Tol's "muted" set: colours
# that people with each common kind of colour blindness can tell apart.
_COLORS = (
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#f0e442",
    "#0072b2",
    "#d55e00",
    "#cc79a7",
    "#882255",
    "#88ccee",
    "#999933",
    "#aa4499",
    "#332288",
)
_GOLDEN_ANGLE_TURNS = 0.381966  # hues this far apart never come close again soon
_LARGEST_VALUE = 65535


class LabelClass(BaseModel):
    """One class of a label volume."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: int = Field(
        ge=1, le=_LARGEST_VALUE, description="its value in label volumes"
    )
    name: str = Field(min_length=1, description="what people call it, such as spleen")
    color: Annotated[
        str, StringConstraints(to_lower=True, pattern="^#[0-9a-fA-F]{6}$")
    ] = Field(description="how it is painted, as #rrggbb")


class LabelSet(BaseModel):
    """The classes a label volume may hold. Background is 0 and is never listed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[LabelClass, ...] = Field(description="in the order of a network")

    @model_validator(mode="after")
    def _refuse_doubles(self) -> "LabelSet":
        for kind, found in (("value", self.values), ("name", self.names)):
            doubles = sorted({str(item) for item in found if found.count(item) > 1})
            if doubles:
                raise ValueError(
                    f"The {kind} {', '.join(doubles)} is given to more than one class; "
                    f"each class needs a {kind} of its own."
                )
        return self

    @classmethod
    def from_names(cls, names: Iterable[str]) -> "LabelSet":
        """Number the names 1, 2, ... in their order and give each a distinct colour."""
        classes = tuple(
            LabelClass(value=number, name=name, color=distinct_color(number))
            for number, name in enumerate(names, start=1)
        )
        return cls(classes=classes)

    @classmethod
    def from_values(cls, values: Iterable[int]) -> "LabelSet":
        """Call each value, ascending, after itself: nobody said what it means."""
        return cls(classes=()).with_values(values)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, background left out."""
        return tuple(item.name for item in self.classes)

    @property
    def values(self) -> tuple[int, ...]:
        """The values of the classes, background left out."""
        return tuple(item.value for item in self.classes)

    @property
    def count(self) -> int:
        """How many classes a network tells apart: these and background."""
        return len(self.classes) + 1

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The smallest type that holds all values: uint8, uint16 only where needed."""
        return smallest_dtype(max(self.values, default=0))

    def by_name(self, name: str) -> LabelClass:
        """Find a class by its name.

        Raises
        ------
        LabelError
            When no class has that name.
        """
        for item in self.classes:
            if item.name == name:
                return item
        raise LabelError(
            f"There is no class {name!r}; the classes are {', '.join(self.names)}. "
            "Choose one of these."
        )

    def subset(self, names: Iterable[str]) -> "LabelSet":
        """Keep the named classes, in the order of the names, with their values."""
        return LabelSet(classes=tuple(self.by_name(name) for name in names))

    def with_values(self, values: Iterable[int]) -> "LabelSet":
        """Add a class, called after its value, for each value that has none."""
        names, more = set(self.names), []
        for value in sorted({*values} - {0, *self.values}):
            name = _called_after(value)
            while name in names:  # somebody gave it to another value
                name += "*"
            color = distinct_color(value)
            more.append(LabelClass(value=value, name=name, color=color))
        return LabelSet(classes=(*self.classes, *more))

    def check(self, array: np.ndarray, name: str) -> None:
        """Refuse labels that are not integral or not in this set.

        Parameters
        ----------
        array
            Labels of any number type.
        name
            What to call them in the message, such as the file.

        Raises
        ------
        LabelError
            Naming the first offending values and the values that are allowed.
        """
        strangers = sorted(set(values_in(array, name)) - {0, *self.values})
        if strangers:
            shown = ", ".join(str(value) for value in strangers[:5])
            more = ", ..." if len(strangers) > 5 else ""
            allowed = ", ".join(f"{item.value} {item.name}" for item in self.classes)
            raise LabelError(
                f"{name} holds the label values {shown}{more}; the set knows 0 "
                f"background, {allowed}. Map or remove the others first."
            )


def unnamed(classes: LabelSet) -> bool:
    """Whether nobody gave any class a name: all are called after their values."""
    return all(item.name == _called_after(item.value) for item in classes.classes)


def values_in(array: np.ndarray, name: str) -> tuple[int, ...]:
    """List the label values that occur, ascending.

    Raises
    ------
    LabelError
        When a value is not a whole number from 0 to 65535.
    """
    present = np.zeros(_LARGEST_VALUE + 1, dtype=bool)
    for plane in array.reshape(-1, *array.shape[-2:]):  # keeps the copies small
        if plane.dtype == bool:
            plane = plane.view(np.uint8)
        if plane.size:
            _refuse_no_labels(plane, name)
            present[_news(plane.reshape(-1)).astype(np.intp)] = True
    return tuple(int(value) for value in np.flatnonzero(present))


def labels_hash(labels: VoxelArray) -> str:
    """SHA-256 of the voxels z, y, x, little-endian, whatever file they lie in."""
    digest = hashlib.sha256()
    chunks = getattr(labels, "chunks", None)
    depth = chunks[0] if chunks else 32
    for start in range(0, labels.shape[0], depth):
        slab = np.asarray(labels[start : start + depth])
        ordered = slab.astype(slab.dtype.newbyteorder("<"), copy=False)
        digest.update(np.ascontiguousarray(ordered).data)
    return digest.hexdigest()


def smallest_dtype(largest: int) -> np.dtype[np.unsignedinteger]:
    """Give uint8 where `largest` fits it, else uint16."""
    return np.dtype(np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16)


def distinct_color(number: int) -> str:
    """Give class `number` (from 1) a colour unlike those of its neighbours, #rrggbb."""
    if number <= len(_COLORS):
        return _COLORS[number - 1]
    hue = (number * _GOLDEN_ANGLE_TURNS) % 1.0
    lightness = (0.45, 0.65, 0.3)[number % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.75)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _called_after(value: int) -> str:
    return f"class {value}"


def _news(flat: np.ndarray) -> np.ndarray:
    """Leave out labels equal to the one before: labels lie in runs."""
    return np.concatenate((flat[:1], flat[1:][flat[1:] != flat[:-1]]))


def _refuse_no_labels(plane: np.ndarray, name: str) -> None:
    if plane.dtype in (np.uint8, np.uint16):
        return  # every value is a label
    if plane.dtype.kind not in "uif":
        raise LabelError(
            f"{name} holds {plane.dtype} values; labels are whole numbers. "
            "Convert it first."
        )
    wrong = (plane < 0) | (plane > _LARGEST_VALUE)
    if plane.dtype.kind == "f":
        wrong |= ~(plane == np.rint(plane))  # true for NaN as well
    if wrong.any():
        raise LabelError(
            f"{name} holds the label value {plane[wrong][0]:g}; labels are whole "
            f"numbers from 0 to {_LARGEST_VALUE}. Round or map it first."
        )
