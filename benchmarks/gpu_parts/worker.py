"""One part of benchmarks/gpu.py in a process of its own: its measurements one by one, each written when it is done."""

import gc
import importlib
import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TextIO

import torch

from benchmarks.gpu_parts.job import Cases, Job, Sizes
from benchmarks.measure import DevicePeak
from engine.distributed import Ranks, start_ranks
from utils.errors import UserError

# Parts of messages of libraries that have no memory, in small letters.
NO_MEMORY = ("out of memory", "alloc_failed", "can't allocate memory", "cannot allocate memory", "not enough memory")


def start(module: str, sizes: Sizes, device: str, folders: dict[str, Path | None], deadline: float, lines: Path,
          log: Path) -> NoReturn:
    """Do the part ``module`` and end this process, which has just been forked.

    What happens is written line by line as JSON to ``lines``: {"row": ...}, {"left out": ...}, {"error": ...}, {"end": seconds}.
    folders: of :class:`Job`.  All output goes to ``log``.
    """
    os.setsid()                                         # the parent ends this process with all that it started
    signal.signal(signal.SIGTERM, signal.SIG_DFL)       # not the parent's
    begin = time.monotonic()
    number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(number, 1), os.dup2(number, 2)
    with open(lines, "a", buffering=1) as file:
        try:
            part = importlib.import_module(f"benchmarks.gpu_parts.{module}")
            do_cases(part.cases(Job(ranks_on(device, sizes.threads), sizes, deadline=deadline, **folders)), deadline, file)
        except Exception as error:
            traceback.print_exc()
            write(file, error=in_one_line(error))
        write(file, end=time.monotonic() - begin)
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(0)                                         # at once: a thread of a library could wait for ever


def ranks_on(device: str, threads: int | None) -> Ranks:
    """The process group of this process alone; UserError if torch sees no such device."""
    if device == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"torch {torch.__version__} sees no GPU; expected one, or --device cpu --dry")
        torch.zeros(1, device="cuda")                   # the allocator counts from its first tensor on
    torch.backends.cudnn.benchmark = True               # as in a training without config.deterministic
    torch.manual_seed(666)
    if threads is not None:
        torch.set_num_threads(threads)
    return start_ranks()


def do_cases(cases: Cases, deadline: float, file: TextIO) -> None:
    """Do the measurements that begin before the deadline, and write their rows and the names of the others."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for names, measure in cases:
        if time.monotonic() > deadline:
            write(file, **{"left out": names})
            continue
        rows = attempt(measure, device)
        for row in rows if isinstance(rows, list) else [rows]:
            write(file, row=names | row)


def attempt(measure: Callable[[], dict | list[dict]], device: torch.device) -> dict | list[dict]:
    """What ``measure`` returns, and the peak of the device's memory; or why there is no result.

    Too little memory is a result.  Whatever happens, nothing of the measurement keeps memory of the device afterwards.
    """
    try:
        with DevicePeak(device) as peak:
            rows = measure()
        return rows | {"peak, GB": peak.bytes / 1e9} if isinstance(rows, dict) else rows
    except Exception as error:
        traceback.print_exc()
        if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY):
            return {"result": "out of memory"}
        return {"error": in_one_line(error)}
    finally:
        release(device)


def release(device: torch.device) -> None:
    """Give the memory of tensors that nothing refers to back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def in_one_line(error: BaseException) -> str:
    """Type and beginning of the message of an error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def write(file: TextIO, **line) -> None:
    print(json.dumps(without_nan(line), default=str, allow_nan=False), file=file)


def without_nan(value):
    """The value with NaN and infinity as text: JSON has no such numbers."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
