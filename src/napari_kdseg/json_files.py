"""What a JSON file says, where it may be missing or spoiled and that is no mistake."""

import json
from pathlib import Path
from typing import Any


def object_in(path: Path) -> dict[str, Any]:
    """Read the object in a file; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
