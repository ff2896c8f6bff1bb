"""Heads that the benchmarks compare, and one head's part of a step."""

import statistics

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.measure import seconds
from losses import CombinedMarginLoss, PartialFC

MARGIN = CombinedMarginLoss(64, 1.0, 0.5, 0.0)
KINDS = ("dense", "whole", "sampled")
SAMPLE_RATE = 0.1
STEPS = 3


class DenseHead(nn.Module):
    """The simplest implementation: all classes at once, gradients by autograd."""

    def __init__(self, dim: int, classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, dim) * 0.01)

    def forward(self, new: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        cos = F.linear(F.normalize(new), F.normalize(self.weight))
        return F.cross_entropy(MARGIN(cos, labels), labels)

    def bind(self, optimizer) -> None:
        pass


def new_head(kind: str, dim: int, classes: int, fp16: bool | torch.dtype, device: torch.device) -> nn.Module:
    """A head of one of KINDS on the device.

    Its class vectors are drawn there: on a CPU, as PartialFC draws them, 5 million need half a minute.
    """
    with torch.device("meta"):
        head: nn.Module = DenseHead(dim, classes) if kind == "dense" else PartialFC(
            MARGIN, dim, classes, sample_rate=SAMPLE_RATE if kind == "sampled" else 1.0, fp16=fp16)
    head.to_empty(device=device)
    nn.init.normal_(head.weight, std=0.01)
    return head


def head_seconds(head: nn.Module, kind: str, rows: int, device: torch.device) -> float:
    """Median seconds of STEPS steps of the head (forward, backward, update), after one that makes the optimiser's state.

    rows: of the batch.  The dense head has an optimiser that loops over tensors.
    """
    way = dict(foreach=False, fused=False) if kind == "dense" else dict(fused=True)
    optimizer = torch.optim.SGD(head.parameters(), 0.1, 0.9, weight_decay=5e-4, **way)
    head.bind(optimizer)
    classes, dim = head.weight.shape
    times = []
    for turn in range(STEPS + 1):
        draw = torch.Generator().manual_seed(turn)
        new = torch.randn(rows, dim, generator=draw).to(device).requires_grad_()
        labels = torch.randint(classes, (rows,), generator=draw).to(device)

        def step(new: torch.Tensor = new, labels: torch.Tensor = labels) -> None:
            head(new, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        times.append(seconds(step, device))
    return statistics.median(times[1:])


def floor(classes: int, dim: int, rows: int, operations: float, bandwidth: float) -> tuple[float, float]:
    """(seconds, bytes) that a step of a head needs at least, at these speeds (per second)."""
    weight, logits = 4 * classes * dim, 4 * rows * classes
    return 6 * rows * classes * dim / operations + (8 * weight + 4 * logits) / bandwidth, 3 * weight + logits
