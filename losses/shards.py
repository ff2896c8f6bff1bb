"""Classes divided over the ranks: who holds which, and the collectives of a loss over all of them, with gradients.

DDP takes the mean over the ranks of the gradient of everything replicated.  So that this is the gradient of the loss
over all ranks' rows, what flows back into a rank's own rows is world_size times that loss's gradient there; what
flows into a shard is the gradient itself.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor

from utils.errors import UserError

LARGEST_LOSS = -math.log(1e-30)        # a sample's loss is cut here: probabilities below 1e-30 read 1e-30


def shard_of(num_classes: int) -> tuple[int, int]:
    """(first class, number of classes) of this rank; the first num_classes % world_size ranks hold one more."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    each, more = divmod(num_classes, world_size)
    if each == 0:
        raise UserError(f"{num_classes} classes cannot be divided over {world_size} ranks: use fewer ranks")
    return each * rank + min(rank, more), each + (rank < more)


def local_labels(labels: Tensor, start: int, count: int) -> Tensor:
    """Labels int64 counted from this shard's first class; -1 = the class lives on another rank."""
    labels = labels - start
    return labels.masked_fill((labels < 0) | (labels >= count), -1)


def all_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks in rank order, without gradient; every rank brings the same number."""
    everyone = rows.new_empty(dist.get_world_size() * len(rows), *rows.shape[1:])
    dist.all_gather_single(everyone, rows.contiguous())
    return everyone


def own_rows(everyone: Tensor) -> Tensor:
    return everyone.chunk(dist.get_world_size())[dist.get_rank()]


class GatherForShards(torch.autograd.Function):
    """All ranks' rows for a loss of which each rank computes its own classes' part: the gradients add up."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        return all_rows(rows)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return own_rows(grad) * dist.get_world_size()


class GatherForAll(torch.autograd.Function):
    """All ranks' rows for a loss that every rank computes whole: each has the full gradient already."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        return all_rows(rows)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return own_rows(grad) * dist.get_world_size()


class SumOfShards(torch.autograd.Function):
    """The shards' parts of a sum over classes, added up, for a loss that every rank then computes whole."""

    @staticmethod
    def forward(ctx, part: Tensor) -> Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


class ShardedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of logits [N, C_local] whose columns lie on different ranks; all ranks get the value.

    labels int64 [N]: the local column, -1 = the class lives on another rank.  The logits become their own
    gradient: they are held once.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor) -> Tensor:
        highest = logits.amax(1)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        logits = logits.sub_(highest[:, None])
        column, here = labels.clamp(min=0)[:, None], labels >= 0
        target = logits.gather(1, column)[:, 0] * here
        total = logits.exp_().sum(1)
        both = torch.stack([total, target])
        dist.all_reduce(both)
        total, target = both
        probability = logits.div_(total[:, None])
        ctx.save_for_backward(probability, column, here)
        return (total.log() - target).clamp(max=LARGEST_LOSS).mean()

    @staticmethod
    def backward(ctx, upstream: Tensor):
        grad, column, here = ctx.saved_tensors
        grad.scatter_add_(1, column, -here.to(grad.dtype)[:, None])
        return grad.mul_(upstream / len(grad)), None
