"""NCCL's queue: the last old embeddings, their labels, and their logits under the new classifier."""

from functools import reduce

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from losses.shards import shard_of
from utils.errors import UserError
from utils.precision import autocast, half_precision

CLASSES_PER_SUM = 4096      # classes whose products are summed in half precision


class Queue(nn.Module):
    """A ring of ``size`` entries: features [size, d], labels [size] (-1 = empty), logits [size, C_local].

    Every rank holds all features and labels, and the logits of its own classes: 3.06 GB / world_size at 8,192 entries, 93,431
    classes and float32, half of that with fp16 (if the device has a half precision).  Buffers, so that checkpoints hold them.
    """

    sharded = {"logits": 1}

    def __init__(self, size: int, dim: int, num_classes: int, fp16: bool = False):
        super().__init__()
        self.size, self.fp16 = size, fp16
        half = half_precision("cuda" if torch.cuda.is_available() else "cpu") if fp16 else None
        self.features: Tensor
        self.labels: Tensor
        self.pushed: Tensor
        self.logits: Tensor
        self.register_buffer("features", torch.zeros(size, dim))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("pushed", torch.tensor(0))         # entries so far; modulo size: the next place in the ring
        self.register_buffer("logits", torch.zeros(size, shard_of(num_classes)[1], dtype=half))

    @torch.no_grad()
    def push(self, features: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Replace the oldest entries by a global batch; label -1 = not credible.  UserError if the queue is smaller."""
        count = len(labels)
        if count > self.size:
            raise UserError(f"config.queue_size = {self.size} does not hold a step of {count} images "
                            f"({dist.get_world_size()} x config.batch_size); raise it to {count} or more")
        place = (self.pushed + torch.arange(count, device=labels.device)) % self.size
        self.pushed += count
        self.features[place], self.labels[place] = features, labels
        self.logits[place] = logits.to(self.logits.dtype)

    def product(self, logits: Tensor) -> Tensor:
        """The part of g_i . g_k of this rank's classes, float32 [N, size], for logits g_i [N, C_local].

        A sum over 65,402 classes reaches hundreds, and half precision is too coarse for that (float16 ends at 65,504): sums
        over fewer classes are added up in float32.
        """
        parts = zip(logits.split(CLASSES_PER_SUM, dim=1), self.logits.split(CLASSES_PER_SUM, dim=1), strict=True)
        with autocast(logits.device, self.fp16):
            return reduce(torch.add, (F.linear(new, old).float() for new, old in parts))
