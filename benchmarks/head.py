"""The head's part of a step, forward, backward and update: seconds and memory, against a dense head and the floor; one run.

    python benchmarks/head.py [--classes 93431 1000000 5000000] [--dim 128] [--batch 64]

Dense: cross-entropy of the margin's logits as autograd does it, on all classes, and the optimiser's loop over tensors.
One of 8 ranks: an eighth of the classes, and the rows of 8 batches.  Sampled: sample_rate = 0.1.  Each measurement is a
process of its own; rounds alternate, medians are printed, memory is the peak beyond what the process held before.

With --fp16 all but the dense head.

Floor, bytes: weights, their gradient, momentum, and the logits once.  Floor, seconds: three products of N x C x d at the
speed of a large product, and weights 8 times (two products, gradient, update) and logits 4 times (written, made into
probabilities in place, read) at the speed of a copy; both speeds are measured here, and nothing overlaps.
"""

import argparse
import math
import os
import resource
import statistics
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
import torch.nn.functional as F
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.measure import copy_speed, in_a_process, product_speed
from engine.distributed import start_ranks
from losses import CombinedMarginLoss, PartialFC
from utils.errors import run
from utils.precision import half_type

MARGIN = CombinedMarginLoss(64, 1.0, 0.5, 0.0)
RANKS = 8
STEPS = 3


class DenseHead(torch.nn.Module):
    """What is written first: everything in one piece, and autograd."""

    def __init__(self, dim: int, classes: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(classes, dim) * 0.01)

    def forward(self, new: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        cos = F.linear(F.normalize(new), F.normalize(self.weight))
        return F.cross_entropy(MARGIN(cos, labels), labels)

    def bind(self, optimizer) -> None:
        pass


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(kind: str, classes: int, dim: int, batch: int, fp16: bool) -> tuple[float, int]:
    """(seconds per step, bytes) of one head, in a process that has held none before."""
    device = start_ranks().device
    if kind == "dense":
        head, how = DenseHead(dim, 1), dict(foreach=False, fused=False)
    else:
        head, how = PartialFC(MARGIN, dim, 1 if kind == "whole" else 10, fp16=fp16), dict(fused=True)
    step(head, how, dim, 2, device)                          # libraries and kernels are loaded
    before = peak_bytes(device)
    if kind == "dense":
        head = DenseHead(dim, classes)
    else:
        head = PartialFC(MARGIN, dim, classes, sample_rate=0.1 if kind == "sampled" else 1.0, fp16=fp16)
    seconds = step(head, how, dim, batch, device)
    return seconds, peak_bytes(device) - before


def step(head: torch.nn.Module, how: dict, dim: int, batch: int, device: torch.device) -> float:
    """Median seconds of STEPS steps after one that makes the optimiser's state."""
    head.to(device)
    optimizer = torch.optim.SGD(head.parameters(), 0.1, 0.9, weight_decay=5e-4, **how)
    head.bind(optimizer)
    classes = len(head.weight)
    times = []
    for turn in range(STEPS + 1):
        draw = torch.Generator().manual_seed(turn)
        new = torch.randn(batch, dim, generator=draw).to(device).requires_grad_()
        labels = torch.randint(classes, (batch,), generator=draw).to(device)
        begin = time.perf_counter()
        head(new, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def answer(*what) -> tuple[float, float]:
    """:func:`measure` in a process of its own; (nan, nan) where memory did not suffice."""
    try:
        return in_a_process(measure, *what)
    except BrokenProcessPool:
        return math.nan, math.nan


def floor(classes: int, dim: int, rows: int, operations: float, bandwidth: float) -> tuple[float, float]:
    weight, logits = 4 * classes * dim, 4 * rows * classes
    return 6 * rows * classes * dim / operations + (8 * weight + 4 * logits) / bandwidth, 3 * weight + logits


def enough_for(kind: str, classes: int, dim: int, rows: int) -> bool:
    """A dense head holds about six times its weight and its logits; on a CPU that must fit into memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return kind != "dense" or torch.cuda.is_available() or 24 * classes * (dim + rows) < 0.9 * memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[93_431, 1_000_000, 5_000_000], help="of the head")
    parser.add_argument("--dim", type=int, default=128, help="dimensions of the features")
    parser.add_argument("--batch", type=int, default=64, help="images per step and rank")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, in turn")
    parser.add_argument("--fp16", action="store_true", help="half precision in the product")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = {}
    for classes in args.classes:
        ways = {"dense": ("dense", classes, args.batch), "PartialFC": ("whole", classes, args.batch),
                f"PartialFC, one of {RANKS} ranks": ("whole", classes // RANKS, args.batch * RANKS),
                "PartialFC, sampled": ("sampled", classes, args.batch)}
        found |= {(classes, name, *way): [] for name, way in ways.items()
                  if enough_for(way[0], way[1], args.dim, way[2])}
    for _ in range(args.rounds):
        for (_, _, kind, count, rows), values in found.items():
            values.append(answer(kind, count, args.dim, rows, args.fp16))
    # Last: a process begins with the peak memory of the one that starts it.
    operations, bandwidth = product_speed(half_type(device, args.fp16) or torch.float32, device), copy_speed(device)
    table = PrettyTable(["classes", "head", "s", "of the floor", "GB", "of the floor "], align="r")
    for (classes, name, kind, count, rows), values in found.items():
        seconds, size = (statistics.median(column) for column in zip(*values, strict=True))
        least = floor(count, args.dim, rows, operations, bandwidth)
        of = ["", ""] if kind == "sampled" else [f"{seconds / least[0]:.2f}", f"{size / least[1]:.2f}"]
        table.add_row([f"{classes:,}", name, f"{seconds:.3f}", of[0], f"{size / 1e9:.2f}", of[1]])
    print(f"{table}\nd = {args.dim}, batch {args.batch}, {device.type}, {torch.get_num_threads()} threads; product "
          f"{operations / 1e9:.0f} GFLOP/s, copy {bandwidth / 1e9:.1f} GB/s")


if __name__ == "__main__":
    run(main)
