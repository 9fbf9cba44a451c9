"""What was measured once, kept so that it need not be measured again.

A measurement belongs to the voxels it was made of: its key is the hash of the labels,
what else it depends on, and the version of the definitions. It is a convenience: where
nothing can be kept, everything is measured anew.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from napari_kdseg.atomic import write_text_atomic

DEFINITIONS_VERSION = 1
"""To be raised whenever the same voxels would give other numbers."""


class Memory:
    """Measurements by key, a file each.

    Parameters
    ----------
    folder
        Where they lie; by default the user's cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or user_cache_path("napari-kdseg") / "measured"

    def recall(self, key: str) -> Any:
        """What was kept under a key; None where nothing was, or it is damaged."""
        try:
            return json.loads(self._file(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def keep(self, key: str, found: Any) -> None:
        """Keep a measurement; numbers that are not finite stay what they are."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_text_atomic(self._file(key), json.dumps(found))

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def key_of(kind: str, **depends_on: Any) -> str:
    """Name a measurement by all it depends on: hashes, settings."""
    facts = {"kind": kind, "version": DEFINITIONS_VERSION, **depends_on}
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
