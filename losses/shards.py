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


@torch.enable_grad()
def value_and_slope(function, x: Tensor) -> tuple[Tensor, Tensor]:
    """function(x), elementwise, and its derivative there."""
    x = x.detach().requires_grad_()
    value = function(x)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


class ShardedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of a margin's logits over cosines [N, C_local] whose columns lie on different ranks.

    labels int64 [N]: the local column, -1 = the class lives on another rank.  margin: of :mod:`losses.margins`.  All
    ranks get the value.  The cosines become logits, these probabilities and these the gradient, in one piece of memory.
    """

    @staticmethod
    def forward(ctx, cos: Tensor, labels: Tensor, margin) -> Tensor:
        column, here = labels.clamp(min=0)[:, None], (labels >= 0)[:, None]
        target, slope = value_and_slope(margin.target, cos.gather(1, column))
        filtered = margin.filtered(cos, column, here)
        if filtered is not None:
            cos.masked_fill_(filtered, 0)
        cos.scatter_(1, column, target := torch.where(here, target, cos.gather(1, column)))
        highest = cos.amax(1, keepdim=True)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        exponentials = cos.sub_(highest).mul_(margin.s).exp_()
        both = torch.cat([exponentials.sum(1, keepdim=True), margin.s * (target - highest) * here], 1)
        dist.all_reduce(both)
        total, target = both.split(1, 1)
        ctx.save_for_backward(exponentials, total, column, here, torch.where(here, slope, 1), filtered)
        ctx.s = margin.s
        return (total.log() - target).clamp(max=LARGEST_LOSS).mean()

    @staticmethod
    def backward(ctx, upstream: Tensor):
        grad, total, column, here, slope, filtered = ctx.saved_tensors
        share = upstream * ctx.s / len(grad)
        grad.mul_(share / total)
        grad.scatter_(1, column, (grad.gather(1, column) - share * here) * slope)
        if filtered is not None:
            grad.masked_fill_(filtered, 0)
        return grad, None, None
