"""Peak memory of a block of code, independent of what ran before it in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def less_than(megabytes: int) -> Iterator[None]:
    """Assert that the process never needs so many MB more in the block than before it."""
    Path("/proc/self/clear_refs").write_text("5")       # sets VmHWM, the peak, to the present use
    before = status("VmRSS")
    yield
    most = (status("VmHWM") - before) / 1024
    assert most < megabytes, f"{most:.0f} MB more at the peak, expected less than {megabytes}"


def status(name: str) -> int:
    """A line of /proc/self/status in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
