"""A scan in a list: a row of a few words, and what more there is to say of it."""

from dataclasses import dataclass

from napari_kdseg.amounts import size
from napari_kdseg.volumes.scan import Scan
from napari_kdseg.volumes.scan_files import ScanState
from napari_kdseg.volumes.volume import default_channels

_MISSING = "is missing: press Locate and choose the folder it lies in now."
_CHANGED = "changed since it was added: press Accept where that is meant."


@dataclass(frozen=True)
class Row:
    """A scan as the table shows it."""

    case: str
    badge: str
    channels: str
    state: ScanState


def row_of(scan: Scan, state: ScanState) -> Row:
    """Give the row of a scan."""
    count = len(scan.channels)
    unnamed = scan.channels == default_channels(count)
    channels = str(count) if unnamed else ", ".join(scan.channels)
    return Row(scan.case, scan.grid.grid.describe_briefly(), channels, state)


def details_of(scan: Scan, state: ScanState) -> str:
    """Say what a person should know of a scan, a sentence a line."""
    depth, height, width = scan.grid.shape
    lines = [f"{scan.badge} · {width} x {height} x {depth} voxels · {size(scan.bytes)}"]
    lines += [f"{name} {_MISSING}" for name in state.missing]
    lines += [state.damage] if state.damage else []
    lines += [f"{name} {_CHANGED}" for name in state.changed if not state.damage]
    if scan.annotated:
        drawn = ", ".join(scan.annotated)
        lines.append(f"Drawn: {drawn}. Other organs are unknown here, not absent.")
    return "\n".join([*lines, *scan.history, *scan.notes])
