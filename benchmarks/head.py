"""Seconds and memory of the head's part of a step (forward, backward, update), against a dense head and a lower bound.

    python benchmarks/head.py [--classes 93431 1000000 5000000] [--dim 128] [--batch 64]

Dense: cross-entropy of the margin's logits on all classes, by autograd, and an optimiser that loops over tensors.
One of 8 ranks: an eighth of the classes, and the rows of 8 batches.  Sampled: sample_rate = 0.1.  Each measurement runs in a new
process; rounds alternate, medians are printed, memory is the peak minus the memory before.  --fp16 affects all heads but the
dense one.

Lower bound of the bytes ("floor" in the table): weights, their gradient, momentum, and the logits once.  Of the seconds: three
products of N x C x d at the speed of a large product, and weights 8 times (two products, gradient, update) and logits 4 times
(written, changed into probabilities in place, read) at the speed of a copy.  Both speeds are measured in the same run.
"""

import math
import os
import resource
import statistics
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.heads import floor, head_seconds, new_head
from benchmarks.measure import copy_speed, in_a_process, product_speed
from engine.distributed import start_ranks
from utils.command_line import Parser
from utils.errors import run
from utils.precision import half_type

RANKS = 8


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(kind: str, classes: int, dim: int, batch: int, fp16: bool) -> tuple[float, int]:
    """(seconds per step, bytes) of one head; called in a new process."""
    device = start_ranks().device
    head_seconds(new_head(kind, dim, 10, fp16, device), kind, 2, device)        # loads libraries and kernels
    before = peak_bytes(device)
    seconds = head_seconds(new_head(kind, dim, classes, fp16, device), kind, batch, device)
    return seconds, peak_bytes(device) - before


def measured(*arguments) -> tuple[float, float]:
    """:func:`measure` in a new process; (nan, nan) if the memory was too small."""
    try:
        return in_a_process(measure, *arguments)
    except BrokenProcessPool:
        return math.nan, math.nan


def enough_for(kind: str, classes: int, dim: int, rows: int) -> bool:
    """Whether a dense head, which holds about six times its weight and its logits, fits into the memory of a CPU."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return kind != "dense" or torch.cuda.is_available() or 24 * classes * (dim + rows) < 0.9 * memory


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[93_431, 1_000_000, 5_000_000], help="classes of the head")
    parser.add_argument("--dim", type=int, default=128, help="dimensions of the features")
    parser.add_argument("--batch", type=int, default=64, help="images per step and rank")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each head, in turn")
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
            values.append(measured(kind, count, args.dim, rows, args.fp16))
    # Measured last: a process starts with the peak memory of its parent.
    operations, bandwidth = product_speed(half_type(device, args.fp16) or torch.float32, device), copy_speed(device)
    table = PrettyTable(["classes", "head", "s", "ratio to the floor", "GB", "ratio to the floor "], align="r")
    for (classes, name, kind, count, rows), values in found.items():
        seconds, size = (statistics.median(column) for column in zip(*values, strict=True))
        least = floor(count, args.dim, rows, operations, bandwidth)
        ratios = ["", ""] if kind == "sampled" else [f"{seconds / least[0]:.2f}", f"{size / least[1]:.2f}"]
        table.add_row([f"{classes:,}", name, f"{seconds:.3f}", ratios[0], f"{size / 1e9:.2f}", ratios[1]])
    print(f"{table}\nd = {args.dim}, batch {args.batch}, {device.type}, {torch.get_num_threads()} threads; product "
          f"{operations / 1e9:.0f} GFLOP/s, copy {bandwidth / 1e9:.1f} GB/s")


if __name__ == "__main__":
    run(main)
