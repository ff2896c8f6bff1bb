"""Classes sharded over the ranks: which rank holds which, and the collectives of a loss over all of them, with gradients.

DDP averages the gradients of replicated parameters over the ranks.  For that average to be the gradient of the loss over all
ranks' rows, the gradient that reaches a rank's own rows is world_size times that of the loss; a shard gets the gradient itself.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor

from utils.errors import UserError
from utils.torch_versions import all_gather_single

MAX_LOSS = -math.log(1e-30)        # of one sample, in nats: probabilities below 1e-30 count as 1e-30


def shard_of(num_classes: int) -> tuple[int, int]:
    """(first class, number of classes) of this rank; the first num_classes % world_size ranks hold one more.

    Raises :class:`UserError` if there are fewer classes than ranks.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    each, more = divmod(num_classes, world_size)
    if each == 0:
        raise UserError(f"{num_classes} classes cannot be divided over {world_size} ranks: use fewer ranks")
    return each * rank + min(rank, more), each + (rank < more)


def local_labels(labels: Tensor, start: int, count: int) -> Tensor:
    """Labels int64 counted from this shard's first class; -1 = the class is on another rank."""
    labels = labels - start
    return labels.masked_fill((labels < 0) | (labels >= count), -1)


def all_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks in rank order, without gradient; every rank has the same number.  A collective."""
    everyone = rows.new_empty(dist.get_world_size() * len(rows), *rows.shape[1:])
    all_gather_single(everyone, rows.contiguous())
    return everyone


def mean_of_part(values: Tensor, part: Tensor | None) -> Tensor:
    """Mean of values [B] over the rows ``part``, bool [B], of all ranks; the ranks' mean is the value.  None: over all rows.

    0 with a gradient of 0 if no rank has such a row.  A collective if part is given.
    """
    if part is None:
        return values.mean()
    count = part.sum().to(values.dtype)
    dist.all_reduce(count)
    return (values * part).sum() * dist.get_world_size() / count.clamp(min=1)


def own_rows(everyone: Tensor) -> Tensor:
    """This rank's rows of :func:`all_rows`."""
    return everyone.chunk(dist.get_world_size())[dist.get_rank()]


class GatherForShards(torch.autograd.Function):
    """All ranks' rows, for a loss of which each rank computes the part of its classes: the gradients add up.  A collective."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        return all_rows(rows)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return own_rows(grad) * dist.get_world_size()


class GatherForAll(torch.autograd.Function):
    """All ranks' rows, for a loss that every rank computes completely: each already has the full gradient.  A collective."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        return all_rows(rows)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return own_rows(grad) * dist.get_world_size()


class SumOfShards(torch.autograd.Function):
    """Sum of the shards' parts of a sum over classes, for a loss that every rank then computes completely.  A collective."""

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
    """function(x), elementwise, and its derivative at x."""
    x = x.detach().requires_grad_()
    value = function(x)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


class ShardedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of a margin's logits over cosines [N, C_local] whose columns are sharded over the ranks.  A collective.

    labels int64 [N]: the local column, -1 = the class is on another rank.  margin: of :mod:`losses.margins`.  All ranks get
    the value.  Logits, probabilities and gradient overwrite the cosines, to save memory.
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
        return (total.log() - target).clamp(max=MAX_LOSS).mean()

    @staticmethod
    def backward(ctx, upstream: Tensor):
        grad, total, column, here, slope, filtered = ctx.saved_tensors
        share = upstream * ctx.s / len(grad)
        grad.mul_(share / total)
        grad.scatter_(1, column, (grad.gather(1, column) - share * here) * slope)
        if filtered is not None:
            grad.masked_fill_(filtered, 0)
        return grad, None, None
