"""Where the time of one training step goes: the longest kernels, and how long the card is idle, from torch.profiler."""

import gzip
import json
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
    job.seconds_per_call(step, 1)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (job.device.type == "cuda")
    with profile(activities=activities) as profiler:
        for _ in range(STEPS):
            step()
        wait_for(job.device)
    file = job.kept / "trace.json.gz"
    profiler.export_chrome_trace(str(file))
    with gzip.open(file) as text:
        events = json.load(text)["traceEvents"]
    return kernel_rows([event for event in events if event.get("cat") in CATEGORIES[job.device.type]], STEPS)


def kernel_rows(events: Iterable[dict], steps: int) -> list[dict]:
    """Rows of the longest kernels and of all; events: name, ts and dur in microseconds, of ``steps`` steps."""
    spans = defaultdict(list)
    for event in events:
        spans[event["name"]].append((float(event["ts"]), float(event["ts"]) + float(event["dur"])))
    if not spans:
        raise ValueError("the profiler recorded no kernel")
    total = {name: sum(end - begin for begin, end in each) for name, each in spans.items()}
    everything = sorted(span for each in spans.values() for span in each)
    busy, last = 0.0, everything[0][0]
    for begin, end in everything:
        busy += max(0.0, end - max(begin, last))
        last = max(last, end)
    whole = last - everything[0][0]
    rows = [{"kernel": name[:100], "calls a step": len(spans[name]) / steps, "ms a step": total[name] / steps / 1e3,
             "share of the step": total[name] / whole} for name in sorted(total, key=total.__getitem__, reverse=True)[:LONGEST]]
    return [*rows, {"kernel": f"all {len(total)} kernels", "calls a step": len(everything) / steps,
                    "ms a step": busy / steps / 1e3, "share of the step": busy / whole, "idle": 1 - busy / whole}]
