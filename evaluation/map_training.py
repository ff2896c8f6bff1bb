"""The residual MLP, the one map that is trained: g(u) = u W + b + gelu(u W1 + b1) W2.

The residual connection is u W, the ridge map (the dimensions may differ, so it cannot be the identity); b = 0. W1, b1 and W2
learn what ridge leaves, the mean of |g(u) - y|^2 over the rows. W2 starts at 0: after 0 epochs the map is ridge. W1 starts at
normal numbers of standard deviation 0.1, because gelu is almost straight where torch's default puts rows of norm 1. 256 hidden
units, AdamW at a learning rate of 1e-3 that falls to 0 along a cosine, batches of 256 rows, at most 200 epochs and 20,000 steps;
the number of epochs is chosen on held-out rows.

Drift-Adapter (Vejendla, EMNLP 2025) names a "compact residual MLP"; its width and training could not be read, so these are
this project's.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.map_forms import Hidden
from evaluation.map_pairs import Pairs

WIDTH = 256             # hidden units
BATCH = 256             # rows per step
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2     # of AdamW
SPREAD = 0.1            # standard deviation of W1 at the start
MAX_EPOCHS = 200
MAX_STEPS = 20_000


class ResidualMLP(nn.Module):
    """[n, d_in] -> [n, d_out]; the residual connection w is not trained."""

    w: Tensor

    def __init__(self, w: np.ndarray):
        super().__init__()
        self.register_buffer("w", torch.from_numpy(w.astype(np.float32)))
        self.inner, self.outer = nn.Linear(w.shape[0], WIDTH), nn.Linear(WIDTH, w.shape[1], bias=False)
        nn.init.normal_(self.inner.weight, std=SPREAD)
        nn.init.zeros_(self.outer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w + self.outer(nn.functional.gelu(self.inner(x)))

    def hidden(self) -> Hidden:
        """W1, b1, W2 as float32 arrays."""
        w1, b1, w2 = (tensor.detach().clone().numpy() for tensor in (self.inner.weight.T, self.inner.bias, self.outer.weight.T))
        return w1, b1, w2


def epochs_for(rows: int) -> int:
    """Length of the training on so many rows."""
    return max(1, min(MAX_EPOCHS, MAX_STEPS // math.ceil(rows / BATCH)))


def train(pairs: Pairs, w: np.ndarray, epochs: int, seed: int, choose: Pairs | None = None) -> tuple[Hidden, int]:
    """(W1, b1, W2; the number of epochs with the smallest error on ``choose``, or ``epochs`` without it).

    w: the ridge map [d_in, d_out]; epochs: at which the training ends, on the schedule of :func:`epochs_for`.
    """
    torch.manual_seed(seed)
    model, rng, total = ResidualMLP(w), np.random.default_rng(seed), epochs_for(len(pairs))
    steps = math.ceil(len(pairs) / BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total * steps)
    errors = [] if choose is None else [error_of(model, choose)]
    for _ in range(min(epochs, total)):
        order = rng.permutation(pairs.rows)
        for start in range(0, len(order), BATCH):
            x, y = (torch.from_numpy(side) for side in pairs.unit(np.sort(order[start:start + BATCH])))
            optimiser.zero_grad()
            (model(x) - y).square().sum(1).mean().backward()
            optimiser.step()
            schedule.step()
        if choose is not None:
            errors.append(error_of(model, choose))
    return model.hidden(), int(np.argmin(errors)) if errors else epochs


@torch.no_grad()
def error_of(model: nn.Module, pairs: Pairs) -> float:
    """|g(u) - y|^2 per row."""
    total = sum(float((model(torch.from_numpy(x)) - torch.from_numpy(y)).square().sum()) for x, y in pairs.blocks())
    return total / len(pairs)
