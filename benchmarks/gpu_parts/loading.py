"""How many loader workers feed one card: the loader alone, and a training step on its batches, against the step alone."""

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from benchmarks.feeding import fed_speed
from benchmarks.gpu_parts.job import Cases, Job
from benchmarks.inputs import draw_records
from benchmarks.method_costs import LEARNING_RATE, PLAIN, Shape, make_trainers, random_batch
from engine.method import Clock
from records.faces import FaceRecords


def cases(job: Job) -> Cases:
    sizes, network, batch = job.sizes, job.sizes.networks[0], job.sizes.batches[0]
    draw_records(job.folder / "train", sizes.record_images)
    faces = FaceRecords(job.folder, sizes.image)
    use = cache(partial(user, job, network, batch))         # made by the first measurement that needs it
    known: dict[str, float] = {}

    def alone() -> dict:
        images, _, labels, index = random_batch(shape_of(job, network, batch), 0)
        each = job.seconds_per_call(lambda: use()(images, labels, index))
        known["alone"] = batch / each
        return {"images/s": known["alone"]}

    def with_step(workers: int) -> dict:
        speed = fed_speed(faces, batch, workers, sizes.loader_seconds, job.device, use())
        return {"images/s": speed, "ratio to the step alone": speed / known["alone"]}

    def loader_alone(workers: int) -> dict:
        return {"images/s": fed_speed(faces, batch, workers, sizes.loader_seconds, job.device)}

    yield {"what": f"step alone, {network}, batch {batch}", "workers": 0}, alone
    for workers in sizes.workers:
        yield {"what": "loader and step", "workers": workers}, partial(with_step, workers)
    for workers in sizes.workers:
        yield {"what": "loader alone", "workers": workers}, partial(loader_alone, workers)


def shape_of(job: Job, network: str, batch: int) -> Shape:
    return Shape(network, job.sizes.image, job.sizes.dim, job.sizes.classes, batch)


def user(job: Job, network: str, batch: int) -> Callable[[Tensor, Tensor, Tensor], object]:
    """A training step as a function of a batch of the loader."""
    trainer = make_trainers(shape_of(job, network, batch), job.ranks, job.folder, (PLAIN,))[PLAIN]
    flip = torch.arange(batch) % 2 == 0
    return lambda images, labels, index: trainer.step(images, labels, index, flip, Clock(0, 0, 0.0), LEARNING_RATE)
