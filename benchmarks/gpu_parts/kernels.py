"""Where the time of one training step goes: the longest kernels, and how long the card is idle, from torch.profiler."""

import gzip
import json
import math
from collections import defaultdict
from collections.abc import Iterable
from functools import partial

from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_parts.job import Cases, Job
from benchmarks.gpu_parts.training_steps import our_step
from benchmarks.measure import wait_for

STEPS = 3
LONGEST = 10
CATEGORIES = {"cuda": ("kernel", "gpu_memcpy", "gpu_memset"), "cpu": ("cpu_op",)}       # of events in the trace


def cases(job: Job) -> Cases:
    network, batch = job.sizes.networks[0], job.sizes.batches[0]
    yield {"step": f"this project, {network}, batch {batch}"}, partial(profiled, job, network, batch)


def profiled(job: Job, network: str, batch: int) -> list[dict]:
    """A row for each of the longest kernels and one for all; the trace is kept as trace.json.gz."""
    step = our_step(job, network, batch)
    each = job.seconds_per_call(step)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (job.device.type == "cuda")
    with profile(activities=activities) as profiler:
        for _ in range(STEPS):
            step()
        wait_for(job.device)
    file = job.kept / "trace.json.gz"
    profiler.export_chrome_trace(str(file))
    with gzip.open(file) as text:
        events = json.load(text, strict=False)["traceEvents"]
    return kernel_rows([event for event in events if event.get("cat") in CATEGORIES[job.device.type]], STEPS, each)


def kernel_rows(events: Iterable[dict], steps: int, step_seconds: float) -> list[dict]:
    """Rows of the longest kernels and of all.

    events: name, ts and dur in microseconds, of ``steps`` steps.  step_seconds: of a step without the profiler, which makes the
    host slower but not the kernels.  Idle: share of that time in which no kernel runs.
    """
    spans = defaultdict(list)
    for event in events:
        spans[event["name"]].append((float(event["ts"]), float(event["ts"]) + float(event["dur"])))
    if not spans:
        raise ValueError("the profiler recorded no kernel")
    unit = 1e3 * steps                                                      # from microseconds of all steps to ms of a step
    total = {name: sum(end - begin for begin, end in each) / unit for name, each in spans.items()}
    busy = covered(span for each in spans.values() for span in each) / unit
    step = 1e3 * step_seconds
    rows = [{"kernel": name[:100], "calls a step": len(spans[name]) / steps, "ms a step": total[name],
             "share of the step": total[name] / step} for name in sorted(total, key=total.__getitem__, reverse=True)[:LONGEST]]
    return [*rows, {"kernel": f"all {len(total)} kernels", "calls a step": sum(map(len, spans.values())) / steps,
                    "ms a step": busy, "share of the step": busy / step, "idle": 1 - busy / step}]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans (begin, end): kernels of several streams overlap."""
    length, last = 0.0, -math.inf
    for begin, end in sorted(spans):
        length += max(0.0, end - max(begin, last))
        last = max(last, end)
    return length
