"""What a training costs, counted before it starts: bytes on the disk and bytes of a GPU's memory.

Three private names of torch are used, because nothing public runs a step without data or adds up its memory:
torch._subclasses.FakeTensorMode makes tensors with a shape and a type but no data, and torch.distributed._tools.MemTracker
counts the bytes of all tensors that exist at once.  FakeStore goes with the process group "fake".
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from backbones.feature_maps import FeatureMap
from engine.method import Method
from engine.parts import new_backbone, new_head
from losses import PartialFC
from losses.view import views_of
from utils.settings import Settings

CUDA_BYTES = 10**9                              # of a process without any tensor: CUDA, its libraries and their work space
BYTES_PER_REPORT = 1000                         # a line of the log and its points in TensorBoard
BYTES_PER_WEIGHT = 4                            # float32: weights, gradients and the optimiser's numbers
MOMENTS_PER_WEIGHT = {"sgd": 1, "adamw": 2}     # numbers that the optimiser keeps for each weight
HALF = torch.float16                            # what config.fp16 means on a GPU


def training_bytes(cfg: Settings, classes: int, ranks: int, method_bytes: int = 0) -> tuple[int, int]:
    """(bytes that a training leaves in its folder, largest number of bytes at any time), both without the log.

    A checkpoint holds weights and the optimiser's numbers: the backbone's once for each rank, the classes' divided over the
    ranks; and on each rank the method's ``method_bytes``.  model.pt and softmax_fc_gpu_*.pt hold the weights once more.  The
    oldest checkpoint is removed after a new one is complete.
    """
    network = new_backbone(cfg, device="meta")
    backbone, rows = sum(p.numel() for p in network.parameters()), classes * cfg.embedding_size
    maps = backbone if isinstance(network, FeatureMap) else 0       # map.npz holds the network once more
    each = BYTES_PER_WEIGHT * (1 + MOMENTS_PER_WEIGHT[cfg.optimizer])
    checkpoint = each * (ranks * backbone + rows) + ranks * method_bytes
    kept = cfg.keep_checkpoints if cfg.save_every else min(cfg.keep_checkpoints, cfg.num_epoch)
    at_the_end = kept * checkpoint + BYTES_PER_WEIGHT * (backbone + maps + rows)
    return at_the_end, at_the_end + checkpoint


def log_bytes(cfg: Settings, images: int, ranks: int) -> int:
    """Bytes of the log and of TensorBoard's files, about; images: of an epoch."""
    return BYTES_PER_REPORT * (images // (cfg.batch_size * ranks) * cfg.num_epoch // cfg.frequent + cfg.num_epoch)


def module_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


def view_head_bytes(cfg: Settings, classes: int, ranks: int, method: Method) -> int:
    """Bytes on one rank of the heads of the method's views: weights and the optimiser's numbers."""
    dims = sum(views_of(method)) if method.view_has_head else 0
    return BYTES_PER_WEIGHT * (1 + MOMENTS_PER_WEIGHT[cfg.optimizer]) * -(-classes // ranks) * dims


def method_bytes(cfg: Settings, classes: int, ranks: int, method: Method | None) -> int:
    """Bytes on one rank of what the method brings with it: parameters and buffers, and the heads of its views."""
    return 0 if method is None else module_bytes(method) + view_head_bytes(cfg, classes, ranks, method)


def disks(written: dict[Path, float]) -> list[tuple[Path, float, float]]:
    """(folder, bytes that will be written, bytes free) of each disk.

    written: bytes by folder; a folder need not exist yet.
    """
    totals: dict[int, tuple[Path, float]] = {}
    for folder, size in written.items():
        existing = next(above for above in (folder.absolute(), *folder.absolute().parents) if above.is_dir())
        first, others = totals.get(existing.stat().st_dev, (existing, 0.0))
        totals[existing.stat().st_dev] = first, others + max(size, 0)
    return [(folder, size, shutil.disk_usage(folder).free) for folder, size in totals.values()]


@contextmanager
def pretended_ranks(ranks: int) -> Iterator[None]:
    """A process group in which this process is rank 0 of ``ranks``; collectives leave their tensors as they are."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # it also registers the group in older versions

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def step_bytes(module: nn.Module, *inputs: Tensor) -> int:
    """Largest number of bytes at any time in module(*inputs) and the backward pass, beyond weights, buffers and inputs.

    The module is used up: all of its parameters then require gradients (the tracker has no place for frozen ones).
    """
    from torch.distributed._tools import MemTracker  # not above: the import takes a second, and only this function needs it

    module.requires_grad_()
    tracker = MemTracker()
    tracker.track_external(module, *inputs)
    device = inputs[0].device
    with tracker:
        before = tracker.get_tracker_snapshot("current")[device]["Total"]
        out = module(*inputs)
        out.backward(torch.empty_like(out))
    return tracker.get_tracker_snapshot("peak")[device]["Total"] - before


def backbone_step_bytes(cfg: Settings) -> int:
    """Activations and gradients of the backbone in a step of batch_size images, when they are most."""
    backbone = new_backbone(cfg, HALF if cfg.fp16 else False, "meta")
    with FakeTensorMode(allow_non_fake_inputs=True):
        shape = (backbone.d_in,) if isinstance(backbone, FeatureMap) else (3, cfg.image_size, cfg.image_size)
        return step_bytes(backbone.to_empty(device="cpu"), torch.empty(cfg.batch_size, *shape))


def head_step_bytes(cfg: Settings, classes: int, ranks: int, head_class: type[PartialFC]) -> int:
    """The same of the head, with the rows of all ranks; called within :func:`pretended_ranks`.

    A sampled head chooses classes by the values of the labels, which do not exist here; a head of so many classes is counted.
    """
    sampled = max(round(cfg.sample_rate * classes), ranks)
    head = new_head(cfg, head_class, sampled, fp16=HALF if cfg.fp16 else False, device="meta")
    with FakeTensorMode(allow_non_fake_inputs=True):
        rows = torch.empty(cfg.batch_size, cfg.embedding_size, requires_grad=True)
        return step_bytes(head.to_empty(device="cpu"), rows, torch.empty(cfg.batch_size, dtype=torch.int64))


def gpu_bytes(cfg: Settings, classes: int, ranks: int, head_class: type[PartialFC], method: Method | None) -> dict[str, int]:
    """{part: bytes} of one GPU of ``ranks``; called within :func:`pretended_ranks`.

    backbone    weights and the optimiser's numbers
    classes     the same of this rank's class vectors
    method      what it holds on this rank, heads of views too; gradients and the optimiser's numbers of its parameters
    images      :func:`backbone_step_bytes`
    logits      :func:`head_step_bytes`
    CUDA        a constant

    Not counted: what a method's own terms need during a step (a loss over all classes: about the logits once more), and gaps
    between tensors in the allocator's blocks.
    """
    copies = 1 + MOMENTS_PER_WEIGHT[cfg.optimizer]
    local_rows = -(-classes // ranks) * cfg.embedding_size
    learnt = 0 if method is None else sum(p.nbytes for p in method.parameters())
    return {"backbone": copies * module_bytes(new_backbone(cfg, device="meta")),
            "classes": BYTES_PER_WEIGHT * copies * local_rows,
            "method": method_bytes(cfg, classes, ranks, method) + copies * learnt,
            "images": backbone_step_bytes(cfg), "logits": head_step_bytes(cfg, classes, ranks, head_class), "CUDA": CUDA_BYTES}
