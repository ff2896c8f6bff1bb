"""How the C library handles freed memory, for networks on a CPU."""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8          # of glibc's mallopt


def keep_freed_memory() -> None:
    """Let glibc keep large blocks that were freed, instead of giving them back to the kernel and asking again.

    Else a network on a CPU spends a fifth (training r18) to a half (embedding with mbf) of its time on the page faults of
    its activations.  All threads share one heap (arena): the own ones of threads cannot hold large blocks.
    """
    with suppress(OSError, AttributeError):                     # another C library
        libc = ctypes.CDLL(None)
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1)):
            libc.mallopt(parameter, value)


def give_back_freed_memory() -> None:
    """To the kernel, before processes are forked: they would hold its pages as soon as this process writes to them."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
