"""NCCL's memory: the last old embeddings, their labels, and their logits under the new classifier."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from losses.shards import shard_of
from utils.errors import UserError
from utils.precision import autocast, half_precision

CLASSES = 4096              # of which products are summed in half precision


class Queue(nn.Module):
    """A ring of ``size`` entries: features [size, d], labels [size] (-1 = empty), logits [size, C_local].

    Every rank holds all features and labels but only its own classes' logits: at 8,192 entries, 93,431 classes and
    float32 that is 3.06 GB over the world size.  fp16 halves it again (where the device has a half precision).
    Buffers, so that a checkpoint holds them.
    """

    sharded = {"logits": 1}

    def __init__(self, size: int, dim: int, num_classes: int, fp16: bool = False):
        super().__init__()
        self.size, self.fp16 = size, fp16
        half = half_precision("cuda" if torch.cuda.is_available() else "cpu") if fp16 else None
        self.register_buffer("features", torch.zeros(size, dim))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("pushed", torch.tensor(0))         # entries since the beginning: the next place in the ring
        self.register_buffer("logits", torch.zeros(size, shard_of(num_classes)[1], dtype=half))

    @torch.no_grad()
    def push(self, features: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Put a global batch in the place of the oldest entries; label -1 = not credible."""
        count = len(labels)
        if count > self.size:
            raise UserError(f"config.queue_size = {self.size} does not hold a step of {count} images "
                            f"({dist.get_world_size()} x config.batch_size); raise it to {count} or more")
        place = (self.pushed + torch.arange(count, device=labels.device)) % self.size
        self.pushed += count
        self.features[place], self.labels[place] = features, labels
        self.logits[place] = logits.to(self.logits.dtype)

    def product(self, logits: Tensor) -> Tensor:
        """This rank's classes' part of g_i . g_k, float32 [N, size], for logits g_i [N, C_local].

        A sum over 65,402 classes reaches hundreds, where half precision is too coarse (and float16 ends at 65,504): the
        parts over fewer classes are added up in float32.
        """
        parts = zip(logits.split(CLASSES, dim=1), self.logits.split(CLASSES, dim=1), strict=True)
        with autocast(logits.device, self.fp16):
            return sum(F.linear(new, old).float() for new, old in parts)
