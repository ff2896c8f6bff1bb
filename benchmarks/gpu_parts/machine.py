"""Speeds of the card that the other parts are compared with."""

from functools import partial

import torch

from benchmarks.gpu_parts.job import Cases, Job
from benchmarks.measure import best_seconds


def cases(job: Job) -> Cases:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        yield {"what": f"product of two {job.sizes.product_rows} x {job.sizes.product_rows} matrices, {name(dtype)}",
               "unit": "TFLOP/s"}, partial(product, job, dtype)
    yield {"what": "product, float32 rounded to TF32", "unit": "TFLOP/s"}, partial(rounded_product, job)
    yield {"what": "copy on the device, read and written", "unit": "GB/s"}, lambda: {"speed": job.copied_per_second / 1e9}
    for where, to_device in (("pinned memory to the device", True), ("the device to pinned memory", False)):
        yield {"what": f"copy from {where}", "unit": "GB/s"}, partial(host_copy, job, to_device)


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def product(job: Job, dtype: torch.dtype) -> dict:
    return {"speed": job.operations_per_second(dtype) / 1e12}


def rounded_product(job: Job) -> dict:
    """The speed of float32 with torch's setting that no script of this project uses."""
    torch.set_float32_matmul_precision("high")
    try:
        job.peaks.pop(torch.float32, None)
        return product(job, torch.float32)
    finally:
        job.peaks.pop(torch.float32, None)
        torch.set_float32_matmul_precision("highest")


def host_copy(job: Job, to_device: bool) -> dict:
    host = torch.ones(job.sizes.copied)
    host = host.pin_memory() if job.device.type == "cuda" else host
    there = torch.ones(job.sizes.copied, device=job.device)
    source, target = (host, there) if to_device else (there, host)
    return {"speed": host.nbytes / best_seconds(lambda: target.copy_(source, non_blocking=True), job.device) / 1e9}
