"""Cross-entropy through frozen class vectors, sharded by class like the head (BCT's influence loss)."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from losses.margins import CombinedMarginLoss
from losses.shards import GatherForShards, ShardedCrossEntropy, all_rows, local_labels, shard_of
from utils.precision import autocast

LEFT_OUT = -1e4          # a cosine whose exponential is 0 at any scale


class PrototypeLoss(nn.Module):
    """CE(scale * ^f . p^T, y) over all classes; the mean over all ranks' rows, the same value on every rank.

    ``prototypes`` is a buffer [C_local, d], this rank's rows, not normalised here: unit rows give scale * cosine.  They get no
    gradient.  A collective.  Call it as ``loss(new, labels)`` with new float32 [B, d] and labels int64 [B] of
    this rank; with ``gaps``, classes whose row is zeros have no prototype and are left out, as targets and as other classes.  The
    gradient that reaches ``new`` is that of :class:`losses.PartialFC`.
    """

    sharded = {"prototypes": 0}

    def __init__(self, dim: int, num_classes: int, scale: float, fp16: bool | torch.dtype = False):
        super().__init__()
        self.scale, self.fp16, self.gaps = scale, fp16, False
        self.class_start, self.num_local = shard_of(num_classes)
        self.prototypes: Tensor
        self.register_buffer("prototypes", torch.zeros(self.num_local, dim))

    @property
    def classes(self) -> slice:
        """The classes of this rank."""
        return slice(self.class_start, self.class_start + self.num_local)

    def forward(self, new: Tensor, labels: Tensor) -> Tensor:
        embeddings = F.normalize(GatherForShards.apply(new.float()))
        labels = local_labels(all_rows(labels), self.class_start, self.num_local)
        if self.gaps:
            known = self.prototypes.any(1)
            rows = self.rows_with_prototype(labels, known)
            embeddings, labels = embeddings[rows], labels[rows]
            if not rows.any():              # the same on all ranks
                return 0 * embeddings.sum() + 0 * new.sum()
        with autocast(new.device, self.fp16):
            scores = F.linear(embeddings, self.prototypes)
        scores = scores.float().masked_fill(~known, LEFT_OUT) if self.gaps else scores.float()
        return ShardedCrossEntropy.apply(scores, labels, CombinedMarginLoss(self.scale, m2=0.0))

    def rows_with_prototype(self, labels: Tensor, known: Tensor) -> Tensor:
        """bool [N]: the row's class has a prototype; labels: local, -1 = of another rank.  A collective."""
        found = (known[labels.clamp(min=0)] & (labels >= 0)).float()
        dist.all_reduce(found)
        return found > 0
