"""Process group and device: the same code for one process, torchrun, torch.distributed.launch and several nodes."""

import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from engine.launcher import watch_launcher
from utils.errors import UserError
from utils.locks import hold
from utils.memory import keep_freed_memory
from utils.precision import full_float32

LOST_RANK_WORDS = ("/gloo/", "Application timeout", "NCCL")     # parts of torch's messages when a collective lost another rank
SECONDS_FOR_LOCK = 5                    # that a run waits for another that is ending and still holds its lock
SECONDS_BEFORE_LOST_RANK_ENDS = 3       # so that the launcher sees the failure of the other rank first


@dataclass(frozen=True)
class Ranks:
    """This process among all of a training, and its device."""

    rank: int
    world_size: int
    device: torch.device


def start_ranks(timeout: float = 30) -> Ranks:
    """Join the process group that the launcher describes in the environment; without a launcher, a group of one.

    CUDA: one GPU per process (number LOCAL_RANK), nccl for its tensors and gloo for those on the CPU.  Without CUDA: gloo, and
    freed memory is kept.  A group of one is a group, too: no caller asks whether there is one.
    timeout: minutes that a rank waits for the others before it ends with an error.  Raises :class:`UserError` if the ranks do
    not meet, or if this machine has fewer GPUs than processes.  A collective.
    """
    cuda = torch.cuda.is_available()
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        count = torch.cuda.device_count()
        if device.index >= count:
            raise UserError(f"LOCAL_RANK {device.index} needs a GPU of its own, and this machine has {count}: start it with "
                            f"--nproc_per_node={count}, or with CUDA_VISIBLE_DEVICES= to train on the CPU")
        full_float32()
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
    if "RANK" in os.environ:
        watch_launcher()
        try:
            dist.init_process_group(backend, timeout=timedelta(minutes=timeout))
        except (dist.DistError, ValueError) as error:
            raise UserError(f"rank {os.environ['RANK']} cannot reach the others ({in_short(error)}); start it with torchrun or "
                            f"torch.distributed.launch, and with another --master_port if this one is in use") from error
    elif not dist.is_initialized():
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def replicate(module: nn.Module) -> nn.Module:
    """``module`` with its gradients averaged over the ranks; unchanged on one rank or without parameters.  A collective.

    Each rank keeps its own buffers: BatchNorm statistics as in insightface, and a method's shards by class.  Without
    device_ids DDP leaves the inputs on their device: a method needs ``index`` on the CPU.
    """
    if dist.get_world_size() == 1 or not any(p.requires_grad for p in module.parameters()):
        return module
    buffers = [name for name, _ in module.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, buffers)
    # DDP reorders its buckets after its first step, unless find_unused_parameters is set.  Three or more ranks would then sum the
    # first step of a resumed run in another order than the uninterrupted run did.
    unused = torch.are_deterministic_algorithms_enabled() and dist.get_world_size() > 2
    return DistributedDataParallel(module, gradient_as_bucket_view=True, find_unused_parameters=unused)


def gathered(value) -> list:
    """[value of rank 0, of rank 1, ...] on every rank; small picklable values only.  A collective."""
    values: list = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def held_by_first_rank(file: Path, refusal: str, ranks: Ranks) -> Iterator[None]:
    """Rank 0 holds the lock ``file`` while the block runs.  A collective: UserError on every rank if another run holds it."""
    problem = None
    with ExitStack() as stack:
        if ranks.rank == 0:
            try:
                stack.enter_context(hold(file, refusal, SECONDS_FOR_LOCK))
            except UserError as error:
                problem = str(error)
        problem = gathered(problem)[0]
        if problem is not None:
            raise UserError(problem)
        yield


def check_same(settings: dict[str, str]) -> None:
    """Refuse ranks with different settings or data: they would wait for each other for ever.  A collective."""
    everyone = gathered(settings)
    by_name = {key: [rank.get(key) for rank in everyone] for key in sorted(set().union(*everyone))}
    different = [f"{key}: {', '.join(f'{value} on rank {r}' for r, value in enumerate(values))}"
                 for key, values in by_name.items() if len(set(values)) > 1]
    if different:
        raise UserError(f"the ranks differ in {'; '.join(different)}; start all of them with the same config, KEY=VALUE and "
                        f"files")


@contextmanager
def lost_ranks_explained() -> Iterator[None]:
    """A collective that fails because another rank has ended is reported as that; the other rank reports the reason."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(words in str(error) for words in LOST_RANK_WORDS):
            raise
        time.sleep(SECONDS_BEFORE_LOST_RANK_ENDS)
        raise UserError(f"rank {os.environ.get('RANK', 0)} lost the others ({in_short(error)}): one of them ended and "
                        f"reports why, or did not answer for config.timeout minutes; start all again with resume=True") from error


@contextmanager
def others_not_waited_for() -> Iterator[None]:
    """A rank that ends with an error ends at once.

    Python's own shutdown would wait until the others have done their part of an unfinished collective, and they may hang.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if not dist.is_initialized() or dist.get_world_size() == 1:
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        logging.shutdown()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)


def in_short(error: Exception) -> str:
    """An error's message on one line, at most 400 characters."""
    return " ".join(str(error).split())[:400] or type(error).__name__
