"""Memory that is asked for again and again is not taken from the system each time."""

import ctypes
import subprocess
import sys
import textwrap

import pytest

IS_GLIBC = sys.platform == "linux" and hasattr(
    ctypes.CDLL(None), "gnu_get_libc_version"
)
BYTES = 30_000_000
ALIVE = 4  # as inputs, outputs and skip connections of a layer are
PAGES_A_ROUND = ALIVE * BYTES // 4096


def page_faults(first: str = "", **environment: str) -> int:
    """Of ten rounds that fill four blocks of 30 MB and let them go; after one more."""
    code = f"""
        import ctypes, resource
        {first}
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        def once():
            blocks = [ctypes.c_void_p(libc.malloc({BYTES})) for _ in range({ALIVE})]
            for block in blocks:
                ctypes.memset(block, 1, {BYTES})
            for block in blocks:
                libc.free(block)
        once()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            once()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment or None,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(not IS_GLIBC, reason="a matter of glibc")
@pytest.mark.parametrize("trim", ["", "65536"], ids=["as it is", "as Dask sets it"])
def test_a_block_is_there_when_it_is_asked_for_again(trim: str) -> None:
    keep = "from kdseg_train.allocation import keep_freed_memory as k; k()"
    given = {"MALLOC_TRIM_THRESHOLD_": trim} if trim else {}
    assert page_faults(**given) >= 9 * PAGES_A_ROUND
    assert page_faults(keep, **given) < PAGES_A_ROUND
