"""Shared by the benchmarks: a new process for a measurement, and the memory of a process."""

import multiprocessing
import os
import re
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch


def fork_from_here() -> None:
    multiprocessing.set_start_method("fork", force=True)


def in_a_process(function, *arguments):
    """Result of function(*arguments) in a new process; BrokenProcessPool if that was killed, for example for lack of memory.

    Its loader workers are forked, as a training's are: spawned ones, the default in a spawned process, need a second to start.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=fork_from_here) as pool:
        return pool.submit(function, *arguments).result()


def seconds(work, device: torch.device) -> float:
    """Seconds of work(), until the device has finished it."""
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def product_speed(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations per second of a product of two 8192 x 8192 matrices (4096 on a CPU)."""
    n = 8192 if device.type == "cuda" else 4096
    a = torch.randn(n, n, device=device, dtype=dtype)
    return 2 * n**3 / min(seconds(lambda: torch.mm(a, a), device) for _ in range(5))


def copy_speed(device: torch.device) -> float:
    """Bytes per second, read and written, of a copy of 0.5 GB."""
    source, target = (torch.ones(1 << 27, device=device) for _ in range(2))
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source), device) for _ in range(5))


def own_bytes() -> int:
    """Anonymous memory of this process, without mapped files and without its children (Linux)."""
    return 1024 * int(re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


def family_bytes() -> int:
    """Anonymous memory of this process and its children, each page counted once (Linux); slow, and stops them meanwhile."""
    total = 0
    for process in ("self", *Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()):
        with suppress(OSError):                     # the child has just ended
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += 1024 * int(re.search(r"^Pss_Anon: +(\d+) kB", rollup, re.MULTILINE)[1])
    return total


class Peak(threading.Thread):
    """``with Peak() as peak``: peak.bytes is the largest own_bytes() in the block, sampled fifty times a second."""

    def __enter__(self):
        self.bytes, self.over = own_bytes(), threading.Event()
        self.start()
        return self

    def run(self) -> None:
        while not self.over.wait(0.02):
            self.bytes = max(self.bytes, own_bytes())

    def __exit__(self, *_):
        self.bytes = max(self.bytes, own_bytes())
        self.over.set()
        self.join()
