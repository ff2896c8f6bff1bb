"""Images per second of a training step: a plain one with one change after the other, and this project's.

Share of peak: operations of products and convolutions per second, divided by those of a large product in the same precision.
Share of copy speed: bytes that the operations read and write (benchmarks/steps.py), divided by those of a copy in that time.
"""

import math
import traceback
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.gpu_parts.job import Cases, Job
from benchmarks.measure import seconds
from benchmarks.method_costs import PLAIN, Shape, make_trainers, random_batch, whole_step
from benchmarks.steps import CHANNELS_LAST, FOREACH, FUSED, HALF, Work, plain_step
from utils.precision import half_type

BASE = "half precision, contiguous, eager"
STEPS: dict[str, tuple[str, ...]] = {BASE: (HALF, FOREACH), "+ channels_last": (HALF, FOREACH, CHANNELS_LAST),
                                     "+ fused optimiser": (HALF, CHANNELS_LAST, FUSED)}
OURS: dict[str, bool | torch.dtype] = {"this project": True, "this project, bfloat16": torch.bfloat16}


def cases(job: Job) -> Cases:
    speeds: dict[tuple, float] = {}
    job.measure_speeds()
    for batch in job.sizes.batches:
        for network in job.sizes.networks:
            for way in (*STEPS, *OURS):
                yield {"network": network, "batch": batch, "step": way}, partial(measure, job, network, batch, way, speeds)


def measure(job: Job, network: str, batch: int, way: str, speeds: dict[tuple, float]) -> dict:
    """speeds: images/s of the steps measured before, by (network, batch, way)."""
    sizes = job.sizes
    if way in STEPS:
        step = plain_step(network, sizes.image, batch, STEPS[way], job.device, sizes.dim, sizes.classes)
    else:
        step = our_step(job, network, batch, OURS[way])
    row = timed(job, step, batch)
    speeds[network, batch, way] = row["images/s"]
    row["ratio"] = row["images/s"] / speeds.get((network, batch, BASE), math.nan)
    operations, moved = work_of(step)
    each = batch / row["images/s"]
    dtype = half_type(job.device, OURS.get(way, True)) or torch.float32
    return row | {"share of peak": operations / each / job.operations_per_second(dtype),
                  "share of copy speed": moved / each / job.copied_per_second}


def our_step(job: Job, network: str, batch: int, fp16: bool | torch.dtype = True,
             change: Callable = lambda trainer: None) -> Callable[[], None]:
    """A step of this project without a method; ``change`` is called with its trainer."""
    shape = Shape(network, job.sizes.image, job.sizes.dim, job.sizes.classes, batch, fp16)
    trainer = make_trainers(shape, job.ranks, job.folder, (PLAIN,))[PLAIN]
    change(trainer)
    return partial(whole_step, trainer, 0, *random_batch(shape, 0))


def timed(job: Job, step: Callable[[], None], images: int) -> dict:
    first = seconds(step, job.device)
    each = job.seconds_per_call(step)
    return {"images/s": images / each, "ms": 1e3 * each, "first step, s": first}


def work_of(step: Callable[[], None]) -> tuple[float, float]:
    """(operations, bytes) of a step; NaN if they cannot be counted: the speed has been measured already."""
    try:
        with Work() as work:
            step()
        return work.operations, work.bytes
    except Exception:
        traceback.print_exc()
        return math.nan, math.nan
