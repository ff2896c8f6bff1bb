"""What the C library does with freed memory, for networks on a CPU."""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8          # parameters of glibc's mallopt


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks instead of giving them back to the kernel and asking for them again.

    Without this, a network on a CPU spends a fifth (training r18) to a half (embedding with mbf) of its time on page faults
    of its activations.  All threads share one heap, because the heap of a single thread cannot hold large blocks.
    """
    with suppress(OSError, AttributeError):                     # a C library other than glibc
        libc = ctypes.CDLL(None)
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1)):
            libc.mallopt(parameter, value)


def give_back_freed_memory() -> None:
    """Give freed memory to the kernel before a fork: each child would keep a copy of it once this process writes to it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
