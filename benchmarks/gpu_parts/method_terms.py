"""What a method adds to a training step: whole steps with it and without it, in turn, and its terms alone."""

import statistics
from functools import partial

from benchmarks.gpu_parts.job import Cases, Job
from benchmarks.measure import seconds
from benchmarks.method_costs import (
    METHODS,
    PLAIN,
    Shape,
    held_bytes,
    make_trainers,
    random_batch,
    terms_alone,
    whole_step,
    write_old_side,
)


def cases(job: Job) -> Cases:
    sizes = job.sizes
    write_old_side(job.folder, sizes.classes, sizes.dim)
    for name in ("MixBCT", "BCT", "L2", *(name for name in METHODS if name not in ("MixBCT", "BCT", "L2", PLAIN)), PLAIN):
        yield {"method": name, "network": sizes.networks[0], "batch": sizes.batches[0]}, partial(measure, job, name)


def measure(job: Job, name: str) -> dict:
    """Medians of pairs of blocks of steps; the same two trainings, with one backbone and one head, take turns."""
    sizes = job.sizes
    shape = Shape(sizes.networks[0], sizes.image, sizes.dim, sizes.classes, sizes.batches[0])
    trainers = make_trainers(shape, job.ranks, job.folder, (PLAIN, name))
    plain, ours = trainers[PLAIN], trainers[name]
    given = 0, *random_batch(shape, 0)
    steps = [partial(whole_step, trainer, *given) for trainer in (plain, ours)]
    warm = [job.seconds_per_call(step, 1) for step in steps]
    calls = max(1, int(sizes.block_seconds / warm[0]))

    def block(step) -> None:
        for _ in range(calls):
            step()
    pairs = [[seconds(partial(block, step), job.device) / calls for step in steps] for _ in range(sizes.blocks)]
    alone, more = statistics.median(first for first, _ in pairs), statistics.median(second - first for first, second in pairs)
    terms = job.seconds_per_call(partial(terms_alone, ours, *given))
    return {"plain step, ms": 1e3 * alone, "more, ms": 1e3 * more, "share of the plain step": more / alone,
            "terms alone, ms": 1e3 * terms, "held, MB": held_bytes(ours) / 1e6}
