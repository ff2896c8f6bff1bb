"""What the benchmarks share: a process of its own for a measurement, and the memory that one holds."""

import multiprocessing
import os
import re
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path


def in_a_process(function, *arguments):
    """What function(*arguments) answers in a new process; None where it ended without an answer, for want of memory.

    Its loader workers are forked, as a training's: spawned ones, the rule in a spawned process, take a second to start.
    """
    forked = dict(initializer=multiprocessing.set_start_method, initargs=("fork", True))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), **forked) as pool, suppress(BrokenProcessPool):
        return pool.submit(function, *arguments).result()


def own_bytes() -> int:
    """Anonymous memory of this process: mapped files and what its children hold are not in it (Linux)."""
    return 1024 * int(re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


def family_bytes() -> int:
    """Anonymous memory of this process and its children, each page counted once; slow, and stops them meanwhile."""
    total = 0
    for process in ("self", *Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()):
        with suppress(OSError):                     # a child that just ended
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += 1024 * int(re.search(r"^Pss_Anon: +(\d+) kB", rollup, re.MULTILINE)[1])
    return total


class Peak(threading.Thread):
    """``with Peak() as peak``: peak.bytes is the largest own_bytes() since, looked at fifty times a second."""

    def __enter__(self):
        self.bytes, self.over = own_bytes(), threading.Event()
        self.start()
        return self

    def run(self) -> None:
        while not self.over.wait(0.02):
            self.bytes = max(self.bytes, own_bytes())

    def __exit__(self, *_):
        self.over.set()
        self.join()
