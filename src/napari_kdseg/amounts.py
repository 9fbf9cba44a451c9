"""Bytes, seconds and numbers of things as people say them."""

_BYTES = (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6))


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit, least in _BYTES:
        if count >= 0.9995 * least:  # three digits of less would be 1000
            return f"{count / least:.3g} {unit}"
    return f"{count / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """Seconds as people say them, not more exact than they are known."""
    if seconds < 1:
        return "< 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"


def counted(number: int, what: str) -> str:
    """How many there are of something that gets an s where they are several."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
