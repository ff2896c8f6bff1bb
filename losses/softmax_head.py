"""The plain softmax head: a linear layer with bias on the raw embedding, cross-entropy; classes sharded."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.margins import CombinedMarginLoss
from losses.partial_fc import PartialFC
from utils.precision import autocast


class SoftmaxHead(PartialFC):
    """logits = f . W^T + b: no normalisation, no margin, no scale (``margin`` is not used).

    The old models named *softmax* are trained with it.  sample_rate below 1 is refused: the bias would have to be sampled, too,
    and old models have few classes.
    """

    clipped = True          # as in the public code, whose clipped module holds this layer

    def __init__(self, margin, embedding_size: int, num_classes: int, *, sample_rate: float = 1.0,
                 fp16: bool | torch.dtype = False, seed: int = 0):
        if sample_rate < 1:
            raise ValueError(f"the softmax head uses all classes: set config.sample_rate = 1 (found {sample_rate})")
        no_margin = CombinedMarginLoss(s=1.0, m2=0.0)
        super().__init__(no_margin, embedding_size, num_classes, fp16=fp16, seed=seed)
        bound = 1 / math.sqrt(embedding_size)       # torch.nn.Linear's variance, from the same draw
        with torch.no_grad():
            self.weight.mul_(bound / math.sqrt(3) / 0.01)
        self.bias = nn.Parameter(torch.zeros(self.num_local))

    def product(self, embeddings: Tensor, weight: Tensor) -> Tensor:
        with autocast(embeddings.device, self.fp16):
            return F.linear(embeddings, weight, self.bias).float()
