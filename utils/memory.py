"""How the C library handles freed memory, for networks on a CPU."""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8          # of glibc's mallopt


def keep_freed_memory() -> None:
    """Let glibc keep large blocks that were freed, instead of giving them back to the kernel and asking again.

    Else a network on a CPU spends a fifth (training r18) to a half (embedding with mbf) of its time on the page faults of
    its activations.  One arena: those of other threads cannot hold large blocks.
    """
    with suppress(OSError, AttributeError):                     # another C library
        libc = ctypes.CDLL(None)
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1)):
            libc.mallopt(parameter, value)
