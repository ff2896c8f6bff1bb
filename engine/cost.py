"""What a training takes, counted before it starts: room on the disk and memory of a GPU."""

import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backbones import get_model
from losses import CombinedMarginLoss

CUDA = 10**9            # bytes that CUDA, its libraries and what they work in take by themselves, about
REPORT = 1000           # bytes of a line of the log and its points in TensorBoard, about
MOMENTS = {"sgd": 1, "adamw": 2}        # numbers that the optimiser keeps for each weight


def new_backbone(cfg, fp16=False) -> nn.Module:
    """The network of the settings ``cfg``, without memory for its weights."""
    with torch.device("meta"):
        return get_model(cfg.network, dropout=cfg.dropout, fp16=fp16, num_features=cfg.embedding_size, image_size=cfg.image_size)


def new_margin(cfg) -> CombinedMarginLoss:
    return CombinedMarginLoss(cfg.scale, *cfg.margin_list, cfg.interclass_filtering_threshold)


def training_bytes(cfg, classes: int, ranks: int, method: int = 0) -> tuple[int, int]:
    """(bytes that a training leaves in its folder, most at once) without logs; method: bytes that a method holds on a rank.

    A checkpoint has weights and the optimiser's numbers, the backbone's on each rank and the classes' divided over the
    ranks; model.pt and softmax_fc_gpu_*.pt have the weights once more.  An old checkpoint goes when a new one is whole.
    """
    backbone, rows = sum(p.numel() for p in new_backbone(cfg).parameters()), classes * cfg.embedding_size
    checkpoint = 4 * (1 + MOMENTS.get(cfg.optimizer, 1)) * (ranks * backbone + rows) + ranks * method
    kept = cfg.keep_checkpoints if cfg.save_every else min(cfg.keep_checkpoints, cfg.num_epoch)
    left = kept * checkpoint + 4 * (backbone + rows)
    return left, left + checkpoint


def log_bytes(cfg, images: int, ranks: int) -> int:
    return REPORT * (images // (cfg.batch_size * ranks) * cfg.num_epoch // cfg.frequent + cfg.num_epoch)


def held(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


def disks(written: dict[Path, float]) -> list[tuple[Path, float, float]]:
    """(folder, bytes that will be written, bytes free) of each disk; written: bytes by folder, which need not exist yet."""
    found = {}
    for folder, size in written.items():
        existing = next(above for above in (folder.absolute(), *folder.absolute().parents) if above.is_dir())
        first, others = found.get(existing.stat().st_dev, (existing, 0))
        found[existing.stat().st_dev] = first, others + max(size, 0)
    return [(folder, size, shutil.disk_usage(folder).free) for folder, size in found.values()]


@contextmanager
def pretended_ranks(ranks: int) -> Iterator[None]:
    """A process group in which this is the first of ``ranks``; collectives leave their tensors as they are."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


class Peak(TorchDispatchMode):
    """Counts the bytes of all storages that operations in its block make, until they are freed: ``most`` at once."""

    def __init__(self):
        super().__init__()
        self.sizes, self.now, self.most = {}, 0, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.freed, storage._cdata)
        self.most = max(self.most, self.now)
        return out

    def freed(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def step_bytes(module: nn.Module, *inputs: Tensor) -> int:
    """Most bytes at once, beside weights and inputs, in module(*inputs) and the way back; within FakeTensorMode."""
    for part in module.modules():           # what was made on "meta" gets a place, as training has it
        for name, p in part._parameters.items():
            part._parameters[name] = nn.Parameter(torch.empty(p.shape), p.requires_grad) if p is not None else None
        for name, b in part._buffers.items():
            part._buffers[name] = torch.empty(b.shape, dtype=b.dtype) if b is not None else None
    with Peak() as peak:
        out = module(*inputs)
        out.backward(torch.empty_like(out))
    return peak.most


def gpu_bytes(cfg, classes: int, ranks: int, head_class, method: nn.Module | None) -> dict[str, int]:
    """{part: bytes} of one GPU of ``ranks``; called within :func:`pretended_ranks`.

    backbone    weights, the optimiser's numbers
    classes     the same of this rank's class vectors
    method      what it holds on this rank; gradients and the optimiser's numbers of what learns
    images      the largest sum of activations and gradients in a step of batch_size images through the backbone
    logits      the same in a step of the head with the rows of all ranks
    CUDA        a constant

    The two steps are run on tensors without data (FakeTensorMode), in bfloat16 where training takes float16: every
    operation's result counts from its allocation to its release.  What a method's own terms need for a moment is not
    counted (of a loss over all classes: about the logits once more), nor is what the allocator loses between tensors.
    """
    each = 1 + MOMENTS.get(cfg.optimizer, 1)
    fp16 = torch.bfloat16 if cfg.fp16 else False
    backbone = new_backbone(cfg, fp16)
    sampled = max(round(cfg.sample_rate * classes), ranks)      # the sampler picks rows by their values, which are not there
    with torch.device("meta"):
        head = head_class(new_margin(cfg), cfg.embedding_size, sampled, fp16=fp16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = step_bytes(backbone, torch.empty(cfg.batch_size, 3, cfg.image_size, cfg.image_size))
        rows = torch.empty(cfg.batch_size, cfg.embedding_size, requires_grad=True)
        logits = step_bytes(head, rows, torch.empty(cfg.batch_size, dtype=torch.int64))
    local = -(-classes // ranks) * cfg.embedding_size
    learnt = sum(p.nbytes for p in method.parameters()) if method is not None else 0
    return {"backbone": each * held(backbone), "classes": 4 * each * local,
            "method": held(method) + each * learnt if method is not None else 0,
            "images": images, "logits": logits, "CUDA": CUDA}
