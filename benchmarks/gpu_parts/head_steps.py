"""The head's part of a step (forward, backward, update) for several numbers of classes, against a lower bound.

The bound ("floor") is explained in benchmarks/head.py.  Memory: the largest memory of tensors on the device.
"""

from functools import partial

import torch

from benchmarks.gpu_parts.job import Cases, Job
from benchmarks.heads import floor, head_seconds, new_head
from utils.precision import half_type

RANKS = 8
HEADS: dict[str, tuple[str, bool | torch.dtype]] = {
    "PartialFC, half precision": ("whole", True), "PartialFC, bfloat16": ("whole", torch.bfloat16),
    "PartialFC, float32": ("whole", False), "PartialFC, sampled, half precision": ("sampled", True),
    "dense, float32": ("dense", False)}


def cases(job: Job) -> Cases:
    rows = job.sizes.batches[0]
    job.measure_speeds()
    for classes in job.sizes.head_classes:
        for name, (kind, fp16) in HEADS.items():
            yield {"classes": classes, "head": name, "rows": rows}, partial(measure, job, kind, fp16, classes, rows)
        yield ({"classes": classes, "head": f"PartialFC, half precision, one of {RANKS} ranks", "rows": RANKS * rows},
               partial(measure, job, "whole", True, max(classes // RANKS, 2), RANKS * rows))


def measure(job: Job, kind: str, fp16: bool | torch.dtype, classes: int, rows: int) -> dict:
    """classes: those that the head holds."""
    each = head_seconds(new_head(kind, job.sizes.dim, classes, fp16, job.device), kind, rows, job.device)
    dtype = half_type(job.device, fp16) or torch.float32
    least, held = floor(classes, job.sizes.dim, rows, job.operations_per_second(dtype), job.copied_per_second)
    ratio = {} if kind == "sampled" else {"ratio to the floor": each / least, "floor, GB": held / 1e9}
    return {"ms": 1e3 * each} | ratio
