"""The 2060-layer IResNet of insightface: the activations of its two long stages are computed again instead of stored."""

from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.iresnet import IResNet

SEGMENT = 8         # blocks between two activations that are stored


class Recomputed(nn.Sequential):
    """A Sequential that stores every ``SEGMENT``-th activation; the backward pass computes the others again."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        for start in range(0, len(self), SEGMENT):
            blocks = nn.Sequential(*list(self)[start:start + SEGMENT])
            x = checkpoint(blocks, x, use_reentrant=False, context_fn=partial(contexts, blocks))
        return x


def contexts(blocks: nn.Module) -> tuple:
    """Contexts of the first forward pass and of the one that computes the activations again."""
    return nullcontext(), frozen_statistics(blocks)


@contextmanager
def frozen_statistics(blocks: nn.Module):
    """In this block the running means and variances do not change: the second forward pass must not count the batch again."""
    norms = [module for module in blocks.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:        # the checkpoint ends by an exception as soon as it has what it needs
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


class IResNet2060(IResNet):
    """depths: blocks in each of the four stages.  settings: as for IResNet."""

    def __init__(self, depths: tuple[int, int, int, int] = (3, 128, 896, 3), **settings):
        super().__init__(depths, **settings)
        self.layer2 = Recomputed(*self.layer2)
        self.layer3 = Recomputed(*self.layer3)
