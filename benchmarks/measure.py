"""Shared by the benchmarks: a new process for a measurement, its seconds, the speeds of a device, and the memory of a process."""

import multiprocessing
import os
import platform
import re
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch


def processor() -> str:
    """The processor's name as the kernel has it."""
    found = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def fork_from_here() -> None:
    multiprocessing.set_start_method("fork", force=True)


def in_a_process(function, *arguments):
    """Result of function(*arguments) in a new process; BrokenProcessPool if that was killed, for example for lack of memory.

    Its loader workers are forked, as a training's are: spawned ones, the default in a spawned process, need a second to start.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=fork_from_here) as pool:
        return pool.submit(function, *arguments).result()


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of work(), from an idle device until the device has finished it."""
    wait_for(device)
    begin = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - begin


def seconds_per_call(work: Callable[[], object], device: torch.device, block_seconds: float, blocks: int, warm: int = 3) -> float:
    """Median over ``blocks`` of the seconds of a call, after ``warm`` calls that warm up.

    A block has as many calls as fit into ``block_seconds``, at least one and at most 200.  The host waits for the device only at
    the end of a block: as in a training, it prepares the next call while the device works.
    """
    for _ in range(warm):
        work()
    calls = 1
    if block_seconds > 0:
        calls = min(max(int(block_seconds / max(seconds(work, device), 1e-6)), 1), 200)

    def block() -> None:
        for _ in range(calls):
            work()
    return statistics.median(seconds(block, device) for _ in range(blocks)) / calls


def product_speed(dtype: torch.dtype, device: torch.device, rows: int | None = None) -> float:
    """Floating-point operations per second of a product of two matrices of ``rows`` x rows (8192; 4096 on a CPU)."""
    n = rows or (8192 if device.type == "cuda" else 4096)
    a = torch.randn(n, n, device=device, dtype=dtype)
    return 2 * n**3 / best_seconds(lambda: torch.mm(a, a), device)


def copy_speed(device: torch.device, count: int = 1 << 27) -> float:
    """Bytes per second, read and written, of a copy of ``count`` float32 (0.5 GB)."""
    source, target = (torch.ones(count, device=device) for _ in range(2))
    return 2 * source.nbytes / best_seconds(lambda: target.copy_(source), device)


def best_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call in the fastest of five blocks: of ten calls on a GPU, whose start takes as long as a short kernel."""
    calls = 10 if device.type == "cuda" else 1

    def block() -> None:
        for _ in range(calls):
            work()
    return min(seconds(block, device) for _ in range(5)) / calls


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


class DevicePeak:
    """``with DevicePeak(device) as peak``: peak.bytes is the largest memory of tensors on a GPU in the block.

    On a CPU it is that of :class:`Peak`.
    """

    def __init__(self, device: torch.device):
        self.device = device

    def __enter__(self):
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self.sampler = Peak().__enter__()
        return self

    def __exit__(self, *_):
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
        else:
            self.sampler.__exit__()
            self.bytes = self.sampler.bytes
