"""A method's settings as a form: groups of fields, made from the JSON schema.

The form holds every value, whether a person changed it or not. What goes into a recipe
is what differs from the method's own values, by whole groups: inside a group of a
recipe, what is left out has the default of the group, not of the method.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from napari_kdseg.errors import RecipeError

Schema = dict[str, Any]
Path = tuple[str, ...]
Kind = Literal["flag", "whole", "number", "choice", "text", "free"]

NOT_IN_FORM = frozenset(
    {
        *("version", "command", "method", "name", "frozen"),
        *("data", "unlabelled", "test"),
    }
)
FIRST: dict[Path, str] = {
    ("training", "epochs"): "Epochs",
    ("training", "iterations_per_epoch"): "Steps of an epoch",
    ("teacher_training", "epochs"): "Epochs of the teacher",
    ("training", "batch"): "Patches of a step",
    ("training", "learning_rate"): "Learning rate",
    ("patch_vox",): "Patch (voxels)",
    ("preprocessing", "intensity"): "Grey values",
    ("split", "validation"): "Validation share",
    ("split", "test"): "Test share",
    ("device",): "Device",
}
"""What people change most; the rest is folded away."""
_UNITS = {"vox": "voxels", "mm": "mm", "degrees": "degrees", "minutes": "minutes"}
_NOTHING = ("", "none", "null")


@dataclass(frozen=True)
class Field:
    """One setting."""

    path: Path
    kind: Kind
    default: Any
    description: str = ""
    choices: tuple[str, ...] = ()
    optional: bool = False
    """Whether it may be left empty: nothing is given."""
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False

    @property
    def title(self) -> str:
        """Its name for people, with the unit."""
        if self.path in FIRST:
            return FIRST[self.path]
        words = self.path[-1].split("_")
        unit = _UNITS.get(words[-1]) if len(words) > 1 else None
        name = " ".join(words[:-1] if unit else words)
        return name[:1].upper() + name[1:] + (f" ({unit})" if unit else "")

    @property
    def tip(self) -> str:
        """What it means, what is allowed, the method's own value."""
        words = self.description
        parts = [words[:1].upper() + words[1:]] if words else []
        if self.limits:
            parts.append(f"Allowed: {self.limits}.")
        parts.append(f"The method's own value: {self.shown(self.default) or 'none'}")
        return "\n".join(parts)

    @property
    def limits(self) -> str:
        """Which numbers are allowed, in words."""
        words = []
        if self.low is not None:
            words.append(f"{'above' if self.low_open else 'at least'} {self.low:g}")
        if self.high is not None:
            words.append(f"{'below' if self.high_open else 'at most'} {self.high:g}")
        return " and ".join(words)

    def shown(self, value: Any) -> str:
        """Text of a value in one line."""
        if value is None:
            return ""
        if isinstance(value, float):
            return f"{value:g}"
        if self.kind == "free":
            text = yaml.safe_dump(
                value, default_flow_style=True, width=10**6, allow_unicode=True
            )
            return text.removesuffix("\n").removesuffix("\n...")
        return str(value)

    def parse(self, text: str) -> Any:
        """Value of a text that a person wrote.

        Raises
        ------
        RecipeError
            Where it is none that is allowed.
        """
        text = text.strip()
        if self.optional and text.lower() in _NOTHING:
            return None
        if self.kind in ("whole", "number"):
            return self._number(text)
        if self.kind == "free":
            try:
                return yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise RecipeError(
                    f"{self.title} is {text!r}, which is no list or group; write it "
                    f"as {self.shown(self.default) or '[1, 2]'}."
                ) from error
        return text

    def _number(self, text: str) -> int | float:
        kind = "a whole number" if self.kind == "whole" else "a number"
        try:
            value = int(text) if self.kind == "whole" else float(text)
        except ValueError as error:
            raise RecipeError(
                f"{self.title} is {text!r}; write {kind}, such as "
                f"{self.shown(self.default) or 1}."
            ) from error
        low = self.low is not None and (
            value < self.low or (self.low_open and value == self.low)
        )
        high = self.high is not None and (
            value > self.high or (self.high_open and value == self.high)
        )
        if low or high or value != value:
            raise RecipeError(f"{self.title} is {text}; it must be {self.limits}.")
        return value


@dataclass(frozen=True)
class Group:
    """Settings that belong together."""

    title: str
    description: str
    fields: tuple[Field, ...]


class Form:
    """All settings of a method and their values.

    Parameters
    ----------
    schema
        JSON schema of the method's settings.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._defaults: dict[str, Any] = _filled(schema, schema, {})
        self._values = copy.deepcopy(self._defaults)
        self._fields = {field.path: field for field in self._walk(schema, ())}

    # ---- What is shown ----

    @property
    def first(self) -> tuple[Field, ...]:
        """What people change most."""
        return tuple(self._fields[path] for path in FIRST if path in self._fields)

    @property
    def groups(self) -> tuple[Group, ...]:
        """All other settings, by group; those of no group come first."""
        shown = [f for f in self._fields.values() if f.path not in FIRST]
        found: dict[Path, list[Field]] = {}
        for field in sorted(shown, key=lambda field: len(field.path) > 1):
            found.setdefault(field.path[:-1], []).append(field)
        return tuple(
            Group(_title_of(path), self._about(path), tuple(fields))
            for path, fields in found.items()
        )

    def value(self, path: Path) -> Any:
        """Value of a setting."""
        values: Any = self._values
        for part in path:
            values = values[part]
        return values

    # ---- What is changed ----

    def set(self, path: Path, value: Any) -> None:
        """Give a setting another value."""
        values = self._values
        for part in path[:-1]:
            values = values[part]
        values[path[-1]] = value

    def reset(self) -> None:
        """Give every setting the method's own value."""
        self._values = copy.deepcopy(self._defaults)

    def take(self, recipe: Mapping[str, Any]) -> None:
        """Take a recipe's settings; all others get the method's own values."""
        own = {key: value for key, value in recipe.items() if key not in NOT_IN_FORM}
        self._values = _filled(self._schema, self._schema, own)

    # ---- What becomes of it ----

    @property
    def recipe(self) -> dict[str, Any]:
        """What differs from the method's own values, by whole groups."""
        return {
            key: copy.deepcopy(value)
            for key, value in self._values.items()
            if key not in NOT_IN_FORM and value != self._defaults.get(key)
        }

    # ---- Private ----

    def _about(self, path: Path) -> str:
        node = self._schema
        for part in path:
            node = _meant(self._schema, node["properties"][part])
        return str(node.get("description", "")) if path else ""

    def _walk(self, node: Schema, path: Path) -> Iterator[Field]:
        for name, given in node.get("properties", {}).items():
            if not path and name in NOT_IN_FORM:
                continue
            place = (*path, name)
            inner = _meant(self._schema, given)
            if "properties" in inner:
                yield from self._walk(inner, place)
                continue
            default: Any = self._defaults
            for part in place:
                default = default[part]
            yield _field(place, inner, given, default)


def _field(path: Path, node: Schema, given: Schema, default: Any) -> Field:
    options = [one for one in node.get("anyOf", [node]) if one.get("type") != "null"]
    optional = len(options) < len(node.get("anyOf", [node]))
    one = options[0] if len(options) == 1 else {}
    low, high = one.get("minimum"), one.get("maximum")
    low_open, high_open = "exclusiveMinimum" in one, "exclusiveMaximum" in one
    return Field(
        path,
        _kind(one),
        default,
        str(given.get("description", "")),
        tuple(map(str, one.get("enum", ()))),
        optional,
        one["exclusiveMinimum"] if low_open else low,
        one["exclusiveMaximum"] if high_open else high,
        low_open,
        high_open,
    )


def _kind(node: Schema) -> Kind:
    if "enum" in node:
        return "choice"
    kinds: dict[str, Kind] = {
        "boolean": "flag",
        "integer": "whole",
        "number": "number",
        "string": "text",
    }
    return kinds.get(str(node.get("type")), "free")


def _meant(schema: Schema, node: Schema) -> Schema:
    """The schema that a reference stands for, or the node itself."""
    reference = node.get("$ref")
    if reference is None:
        return node
    found: Schema = schema["$defs"][reference.rsplit("/", 1)[-1]]
    return found


def _filled(schema: Schema, node: Schema, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every value of a group: those given, and the group's defaults for the rest."""
    values: dict[str, Any] = {}
    for name, inner in node.get("properties", {}).items():
        meant = _meant(schema, inner)
        if name in given or "default" in inner:
            # A default that is a group need not say all of its values either.
            value = given[name] if name in given else inner["default"]
            deeper = "properties" in meant and isinstance(value, Mapping)
            values[name] = (
                _filled(schema, meant, value) if deeper else copy.deepcopy(value)
            )
        elif "properties" in meant:
            values[name] = _filled(schema, meant, {})
        else:
            values[name] = {} if meant.get("type") == "object" else None
    return values


def _title_of(path: Path) -> str:
    if not path:
        return "General"
    words = [part.replace("_", " ") for part in path]
    return ": ".join(word[:1].upper() + word[1:] for word in words)
