"""Rows on room on the disk and on the memory of a GPU."""

import os
from pathlib import Path

import torch

from engine.cost import disks, gpu_bytes, log_bytes, method_bytes, training_bytes
from engine.method import Method
from losses import PartialFC
from records.facts import Facts
from tools.check.report import OK, WARNING, WRONG
from utils.settings import Settings

FREE_PER_BYTE_WRITTEN = 1.2     # room that a disk should have for each byte that will be written
SHARED_MEMORY = Path("/dev/shm")
LEAST_SHARED_MEMORY = 10**9     # bytes: NVIDIA's documentation of NCCL recommends --shm-size=1g; a container has 64 MB
FULL_GPU = 0.9                  # share of a GPU's memory from which on there is a warning


def look_at_shared_memory(ranks: int) -> tuple[str, str]:
    """/dev/shm: NCCL exchanges the gradients of the GPUs of a machine there, if they have no direct connection."""
    if not SHARED_MEMORY.is_dir():
        return f"no {SHARED_MEMORY}; NCCL needs it on several GPUs: NCCL_SHM_DISABLE=1", WARNING if ranks > 1 else OK
    there = os.statvfs(SHARED_MEMORY)
    size = there.f_blocks * there.f_frsize
    text = f"{SHARED_MEMORY} has {1e-9 * size:.2f} GB"
    if ranks > 1 and size < LEAST_SHARED_MEMORY:
        return (f"{text}, perhaps too little for NCCL on several GPUs: start the container with --shm-size=1g or --ipc=host, or "
                f"set NCCL_SHM_DISABLE=1 (slower); the loaders need none of it"), WARNING
    return text, OK


def look_at_disk(cfg: Settings, data: Facts, ranks: int, method: Method | None) -> tuple[str, str]:
    """Room for all files of the training, at the time when the newest checkpoint is written and no older one removed."""
    _, files = training_bytes(cfg, data.classes, ranks, method_bytes(cfg, data.classes, ranks, method))
    need = files + log_bytes(cfg, data.images, ranks)
    written = sum(file.stat().st_size for file in Path(cfg.output).rglob("*") if file.is_file())     # by the run that resumes
    _, size, free = disks({Path(cfg.output): need - written})[0]
    text = f"{1e-9 * size:.2f} GB for the model, checkpoints and logs in {cfg.output}, {1e-9 * free:.2f} GB free"
    return (text, OK) if free >= FREE_PER_BYTE_WRITTEN * size else (f"{text}; free some, or choose another config.output", WRONG)


def look_at_gpu(cfg: Settings, data: Facts, ranks: int, head_class: type[PartialFC], method: Method | None) -> tuple[str, str]:
    """Memory that each GPU needs, as engine/cost.py counts it, against that of the GPU of this machine."""
    parts = gpu_bytes(cfg, data.classes, ranks, head_class, method)
    total = sum(parts.values())
    text = f"{1e-9 * total:.1f} GB on each of {ranks}: " + ", ".join(f"{part} {1e-9 * size:.2f}" for part, size in parts.items())
    if not torch.cuda.is_available():
        return f"{text}; no GPU here to compare with", OK
    memory = torch.cuda.mem_get_info()[1]
    text = f"{text}; the GPU here has {1e-9 * memory:.1f} GB"
    if total > memory:
        return f"{text}: lower config.batch_size", WRONG
    return text, WARNING if total > FULL_GPU * memory else OK
