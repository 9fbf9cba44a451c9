"""Values in the words that YAML and JSON share."""

import math
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
