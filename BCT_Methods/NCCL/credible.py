"""NCCL's filter: old embeddings between the classes are left out."""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from losses.shards import shard_of
from old_model.features import load_prototypes, old_side
from old_model.sides import old_dim
from records.facts import Facts
from utils.settings import Settings

LEFT_OUT = -1e30        # logit of a class without an old vector


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats [N] of softmax(logits) over all classes; logits [N, C_local] are sharded over the ranks.  A collective."""
    highest = logits.amax(1)
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    logits = logits - highest[:, None]
    share = logits.exp()
    sums = torch.stack([share.sum(1), (share * logits).sum(1)])
    dist.all_reduce(sums)
    total, weighted = sums
    return total.log() - weighted / total


class CredibleOld(nn.Module):
    """True for old embeddings [N, d] whose soft assignment over the class centres has entropy <= ln(C) / 2.

    The assignment is softmax(scale * cosine) with the unit class means and the s of the classification loss.
    """

    def __init__(self, cfg: Settings, data: Facts):
        super().__init__()
        self.scale, self.max_entropy = cfg.scale, math.log(data.classes) / 2
        start, count = shard_of(data.classes)
        centres = load_prototypes(**old_side(cfg, data, "prototypes"), num_classes=data.classes, dim=old_dim(cfg),
                                  classes=slice(start, start + count))
        self.centres: Tensor
        self.register_buffer("centres", centres, persistent=False)

    @torch.no_grad()
    def forward(self, old: Tensor) -> Tensor:
        logits = self.scale * F.linear(old, self.centres)
        return entropy(logits.masked_fill(~self.centres.any(1), LEFT_OUT)) <= self.max_entropy
