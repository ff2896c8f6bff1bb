"""Margins: from cosines to logits; each class changes the target cosine only.

ArcFace: Deng et al., CVPR 2019, arXiv 1801.07698.  CosFace: Wang et al., CVPR 2018, arXiv 1801.09414.
"""

import math

import torch
from torch import Tensor


def add_angle(cos: Tensor, margin: float) -> Tensor:
    """cos(theta + margin) where theta + margin <= pi, else cos(theta) - margin * sin(pi - margin).

    cos: any shape, cosines; margin in radians.  The second branch (ArcFace's own code, "easy_margin" off)
    makes the result decrease in theta everywhere.  The sine is clamped away from 0, where its gradient is infinite: one exact
    copy of a class vector would turn the model into NaN.
    """
    sin = (1.0 - cos.square()).clamp(min=1e-6).sqrt()
    shifted = cos * math.cos(margin) - sin * math.sin(margin)
    beyond = cos - margin * math.sin(math.pi - margin)
    return torch.where(cos > math.cos(math.pi - margin), shifted, beyond)


class CombinedMarginLoss:
    """s * (cos(theta + m2) - m3) for the target, s * cos(theta) for the others.

    s: scale, 64 in the papers.  m1: multiplies theta; only 1 is supported (SphereFace's 4 needs a schedule
    of its own).  m2: radians, ArcFace 0.5.  m3: cosine, CosFace 0.4.
    interclass_filtering_threshold: in (0, 1), every non-target cosine above it becomes 0 before the margin
    (insightface's defence against wrong labels); 0 = off.
    """

    def __init__(self, s: float = 64.0, m1: float = 1.0, m2: float = 0.5, m3: float = 0.0,
                 interclass_filtering_threshold: float = 0.0):
        if m1 != 1.0:
            raise ValueError(f"m1 must be 1 (no multiplicative margin), found {m1}; use m2 (ArcFace) or m3 (CosFace)")
        self.s, self.m2, self.m3 = s, m2, m3
        self.interclass_filtering_threshold = interclass_filtering_threshold

    def target(self, cos: Tensor) -> Tensor:
        """The target's cosine, of any shape, with its margin."""
        return (add_angle(cos, self.m2) if self.m2 else cos) - self.m3

    def filtered(self, cos: Tensor, column: Tensor, here: Tensor) -> Tensor | None:
        """bool [B, C], True = counts as 0; None = the filter is off.  column int64 [B, 1]: the target's, if here [B, 1]."""
        if self.interclass_filtering_threshold <= 0:
            return None
        above = cos > self.interclass_filtering_threshold
        return above.scatter_(1, column, above.gather(1, column) & ~here)

    def __call__(self, cos: Tensor, labels: Tensor) -> Tensor:
        """Logits [B, C] from cosines [B, C], which are kept; labels int64 [B], -1 = the class is not in these columns.

        :class:`losses.shards.ShardedCrossEntropy` does the same in place.  No rows are selected by a mask, because that would
        make the host wait for the GPU.
        """
        column, here = labels.clamp(min=0)[:, None], (labels >= 0)[:, None]
        filtered = self.filtered(cos, column, here)
        if filtered is not None:
            cos = cos.masked_fill(filtered, 0)
        plain = cos.gather(1, column)
        return cos.scatter(1, column, torch.where(here, self.target(plain), plain)).mul_(self.s)


class ArcFace(CombinedMarginLoss):
    """s * cos(theta + margin) for the target; margin in radians (paper: s = 64, margin = 0.5)."""

    def __init__(self, s: float = 64.0, margin: float = 0.5):
        super().__init__(s, m2=margin)


class CosFace(CombinedMarginLoss):
    """s * (cos(theta) - m) for the target (paper: s = 64, m = 0.35 to 0.4)."""

    def __init__(self, s: float = 64.0, m: float = 0.4):
        super().__init__(s, m2=0.0, m3=m)
