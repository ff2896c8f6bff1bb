"""A training step whose backbone torch.compile compiled, and a plain step that a CUDA graph repeats: both are not used here."""

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.gpu_parts.job import Cases, Job
from benchmarks.gpu_parts.training_steps import our_step, timed
from benchmarks.steps import CHANNELS_LAST, FUSED, HALF, RESIDENT, plain_step
from engine.trainer import Trainer
from utils.precision import half_type

WARM_STEPS = 3


def cases(job: Job) -> Cases:
    batch = job.sizes.batches[0]
    for network in job.sizes.networks:
        for name, way in (("this project", our_step), ("this project, backbone compiled", compiled_step),
                          ("plain, fused, images on the device", resident_step), ("the same as a CUDA graph", graph_step)):
            yield {"network": network, "batch": batch, "step": name}, partial(measure, job, way, network, batch)


def measure(job: Job, way: Callable, network: str, batch: int) -> dict:
    return timed(job, way(job, network, batch), batch)


def compiled_step(job: Job, network: str, batch: int) -> Callable[[], None]:
    def change(trainer: Trainer) -> None:
        half_type(job.device, True)             # asks the CPU for its instructions, once: not inside the compiled network
        trainer.backbone = torch.compile(trainer.plain_backbone, backend=job.sizes.compiler)
    return our_step(job, network, batch, change=change)


def resident_step(job: Job, network: str, batch: int) -> Callable[[], None]:
    tricks = (HALF, CHANNELS_LAST, FUSED, RESIDENT)
    return plain_step(network, job.sizes.image, batch, tricks, job.device, job.sizes.dim, job.sizes.classes)


def graph_step(job: Job, network: str, batch: int) -> Callable[[], None]:
    """The step of :func:`resident_step` as one CUDA graph; on a CPU, which has none, the step itself.

    A graph repeats kernels on the same memory: the images must be on the device already, and the host decides nothing.  The
    steps before it, on a stream of their own, make the optimiser's state and choose cuDNN's algorithms.
    """
    step = resident_step(job, network, batch)
    if job.device.type != "cuda":
        return step
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_STEPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return partial(replay, graph, step)


def replay(graph: "torch.cuda.CUDAGraph", step: Callable[[], None]) -> None:
    """step: whose weights the graph updates; they must not be freed before the graph."""
    graph.replay()
