"""Cost of each method: its terms against plain ArcFace's, and its work outside the step against a loop over samples.

    python benchmarks/methods.py [--network r18] [--dim 128] [--classes 65402] [--batch 64]

First table, on one rank with random old features: seconds of a method's terms, from embeddings to gradients, measured right
after those of plain ArcFace; the median difference of such pairs, as a share of plain ArcFace's whole step (forward, terms,
backward, clip, update); and the bytes that the method holds.  Second table, 200,000 x 128 features of 3,600 classes: UniBCT's
refinement and AdvBCT's class balls against loops over samples, which are timed on 2,000 samples and scaled up.
"""

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from BCT_Methods.UniBCT.refinement import refined
from benchmarks.measure import seconds
from benchmarks.method_costs import PLAIN, Shape, held_bytes, make_trainers, random_batch, terms_alone, whole_step, write_old_side
from engine.distributed import start_ranks
from old_model.statistics import class_balls
from utils.command_line import Parser
from utils.errors import run


def steps_table(args) -> PrettyTable:
    shape, ranks = Shape(args.network, args.size, args.dim, args.classes, args.batch), start_ranks()
    with tempfile.TemporaryDirectory() as folder:
        write_old_side(Path(folder), shape.classes, shape.dim)
        trainers = make_trainers(shape, ranks, Path(folder))
        plain = trainers[PLAIN]
        whole, pairs = [], {name: [] for name in trainers}
        for turn in range(args.rounds + 1):             # the first warms up
            given = (turn, *random_batch(shape, turn))
            whole.append(seconds(partial(whole_step, plain, *given), ranks.device))
            for name, trainer in trainers.items():
                pairs[name].append([seconds(partial(terms_alone, each, *given), ranks.device) for each in (plain, trainer)])
    step = statistics.median(whole[1:])
    title = f"{args.network} {args.size}x{args.size}, batch {args.batch}, {args.classes} classes, d = {args.dim}"
    table = PrettyTable([title, "terms, ms", "more than plain, ms", f"share of a step of {1e3 * step:.0f} ms", "held"], align="r")
    for name, values in pairs.items():
        more = statistics.median(second - first for first, second in values[1:])
        table.add_row([name, f"{1e3 * statistics.median(second for _, second in values[1:]):.0f}", f"{1e3 * more:.0f}",
                       f"{100 * more / step:+.1f} %", f"{held_bytes(trainers[name]) / 1e6:.1f} MB"])
    return table


def loop_refined(new: np.ndarray, old: np.ndarray, labels: np.ndarray, samples: int) -> None:
    """The refinement as a loop over samples, which inverts the class's matrix for each of its images."""
    for i in range(samples):
        rows = np.flatnonzero(labels == labels[i])
        v = new[rows] / np.linalg.norm(new[rows], axis=1, keepdims=True)
        weights = np.exp(v @ v.T / 0.05) * (1 - np.eye(len(rows)))
        system = np.eye(len(rows)) - 0.9 * weights / weights.sum(1, keepdims=True)
        (0.1 * np.linalg.inv(system) @ old[rows]).mean(0)


def loop_balls(old: np.ndarray, labels: np.ndarray, samples: int) -> None:
    """The class balls as a loop over samples: the centre of the class, then the sample's distance from it."""
    unit = old / np.linalg.norm(old, axis=1, keepdims=True)
    distances = {}
    for i in range(samples):
        centre = unit[labels == labels[i]].mean(0)
        distances.setdefault(int(labels[i]), []).append(np.linalg.norm(unit[i] - centre))
    for values in distances.values():
        values.sort()


def outside_table() -> PrettyTable:
    images, classes, part, cpu = 200_000, 3_600, 2_000, torch.device("cpu")
    draw = np.random.default_rng(0)
    labels = np.sort(np.r_[np.arange(classes), draw.integers(0, classes, images - classes)])
    new, old = draw.standard_normal((2, images, 128), np.float32)
    counts = np.bincount(labels)
    how = dict(lamb=0.9, tau=0.05, as_published=False)
    title = f"{images:,} x 128 features of {classes:,} classes"
    table = PrettyTable([title, "here, s", "loop over samples, s", "ratio"], align="r")
    for name, ours, loop in (
            ("UniBCT: refinement", lambda: refined(torch.from_numpy(new), torch.from_numpy(old), counts, **how),
             lambda: loop_refined(new, old, labels, part)),
            ("AdvBCT: class balls", lambda: class_balls(old, labels, classes), lambda: loop_balls(old, labels, part))):
        mine, slow = min(seconds(ours, cpu) for _ in range(3)), seconds(loop, cpu) * images / part
        table.add_row([name, f"{mine:.2f}", f"{slow:.0f}", f"{slow / mine:.0f}x"])
    return table


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--network", default="r18", help="one of backbones.NETWORKS")
    parser.add_argument("--size", type=int, default=112, help="height and width of an image in pixels")
    parser.add_argument("--dim", type=int, default=128, help="dimensions of the features")
    parser.add_argument("--classes", type=int, default=65_402, help="classes of the new training set")
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each method, in turn")
    args = parser.parse_args()
    print(steps_table(args))
    print(outside_table())


if __name__ == "__main__":
    run(main)
