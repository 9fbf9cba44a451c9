"""Values in the words that YAML and JSON share."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any


def as_plain(value: Any) -> Any:
    """The value in the words YAML and JSON share: no tuples, paths, numpy scalars."""
    if isinstance(value, dict):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return as_plain(value.tolist())
    return value


def as_finite(value: Any) -> Any:
    """The plain value with null where a number is not finite."""
    if isinstance(value, dict):
        return {key: as_finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def are_alike(one: Any, other: Any, but: Collection[str] = ()) -> bool:
    """Whether two configs ask for the same, apart from some settings."""
    first, second = (
        {key: value for key, value in as_plain(config).items() if key not in but}
        for config in (one, other)
    )
    return bool(given(first) == given(second))


def given(settings: Any) -> Any:
    """Settings without those that are None: older versions did not know them all."""
    if isinstance(settings, dict):
        known = settings.items()
        return {key: given(value) for key, value in known if value is not None}
    if isinstance(settings, list):
        return [given(value) for value in settings]
    return settings
