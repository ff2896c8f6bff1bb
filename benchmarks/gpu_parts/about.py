"""The machine and the versions: the heading of the results."""

import os
import platform
import shutil
import subprocess

import numpy as np
import torch

from benchmarks.gpu_parts.job import Cases, Job
from benchmarks.measure import processor
from utils.opencv import cv2
from utils.paths import ROOT


def cases(job: Job) -> Cases:
    yield {}, lambda: [card(job.device) | versions() | {"commit": commit()}]


def card(device: torch.device) -> dict:
    """Card, driver and processor."""
    host = {"processor": f"{processor()}, {len(os.sched_getaffinity(0))} cores, {memory() / 1e9:.0f} GB",
            "shared memory for loaders, GB": shutil.disk_usage("/dev/shm").total / 1e9}
    if device.type != "cuda":
        return {"card": "none"} | host
    properties = torch.cuda.get_device_properties(device)
    fields = "driver_version,power.limit,clocks.max.sm"
    more = output(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "-i", "0"])
    return {"card": f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, {properties.multi_processor_count} "
                    f"multiprocessors", "driver, power limit, largest clock": more} | host


def versions() -> dict:
    return {"python": platform.python_version(), "torch": torch.__version__, "CUDA": torch.version.cuda or "none",
            "cuDNN": torch.backends.cudnn.version() or "none", "numpy": np.__version__, "OpenCV": cv2.__version__}


def commit() -> str:
    """The commit of this checkout and whether files differ from it; a copy without .git may have it in the variable COMMIT."""
    if not (ROOT / ".git").exists():
        return os.environ.get("COMMIT", "unknown")
    changed = output(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"])
    return output(["git", "-C", str(ROOT), "rev-parse", "HEAD"]) + (", with changes" if changed else "")


def memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def output(command: list[str]) -> str:
    """What a command prints, or "unknown" if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
