"""What a piece of code takes of memory at its height, whatever ran before it in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def less_than(megabytes: int) -> Iterator[None]:
    """At no moment in the block has this process so many MB more than at its beginning."""
    Path("/proc/self/clear_refs").write_text("5")       # the highest mark falls to what is there now
    before = status("VmRSS")
    yield
    most = (status("VmHWM") - before) / 1024
    assert most < megabytes, f"{most:.0f} MB more at its height"


def status(name: str) -> int:
    """kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
