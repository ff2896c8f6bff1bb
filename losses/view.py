"""The compatible view of new embeddings: what is compared with old ones if the two models have different dimensions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.partial_fc import PartialFC
from utils.seed import generator


class View(nn.Module):
    """v(f) float32 [B, d_o] of new embeddings f float32 [B, d_n].

        d_n = d_o    v(f) = f
        d_n > d_o    v(f) = the first d_o numbers of f: no parameter, and a vector store can cut them off itself
        d_n < d_o    v(f) = W f,  W [d_o, d_n] learnt

    W has no bias: v(c f) = c v(f), so a view keeps the ratio of the lengths by which templates weight their images, and the view
    of a sum is the sum of the views. At the start W keeps lengths and angles: its columns are orthonormal, drawn by ``seed``.
    """

    def __init__(self, new_dim: int, old_dim: int, seed: int = 0):
        super().__init__()
        self.dims = new_dim, old_dim
        self.learnt, self.whole = new_dim < old_dim, new_dim == old_dim
        if self.learnt:
            draw = torch.randn(old_dim, new_dim, generator=generator(seed, "view", old_dim), dtype=torch.float64)
            self.weight = nn.Parameter(torch.linalg.qr(draw)[0].float())

    def forward(self, new: Tensor) -> Tensor:
        if self.whole:
            return new
        return F.linear(new, self.weight) if self.learnt else new[:, :self.dims[1]]

    def head(self, head: PartialFC) -> PartialFC:
        """The head whose class vectors are in the space of the view: ``head`` itself if the view is the whole embedding."""
        return head if self.whole else head.views[self.dims[1]]

    def matrix(self) -> Tensor:
        """float32 [d_n, d_o] on the CPU: v(f) = f @ matrix."""
        return self.weight.detach().T.cpu().contiguous() if self.learnt else torch.eye(*self.dims)


def views_of(method: nn.Module) -> dict[int, View]:
    """{d_o: view} of the views in a method that are not the whole embedding."""
    return {part.dims[1]: part for part in method.modules() if isinstance(part, View) and not part.whole}
