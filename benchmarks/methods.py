"""Cost of each method: its terms against plain ArcFace's, and its work outside the step against a loop over samples.

    python benchmarks/methods.py [--network r18] [--dim 128] [--classes 65402] [--batch 64]

First table, on one rank with random old features: seconds of a method's terms, from embeddings to gradients, measured right
after those of plain ArcFace; the median difference of such pairs, as a share of plain ArcFace's whole step (forward, terms,
backward, clip, update); and the bytes that the method holds.  Second table, 200,000 x 128 features of 3,600 classes: UniBCT's
refinement and AdvBCT's class balls against loops over samples, which are timed on 2,000 samples and scaled up.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from backbones import get_model
from BCT_Methods.AdvBCT.train import AdvBCT
from BCT_Methods.BCT.train import BCT
from BCT_Methods.L2.train import L2
from BCT_Methods.MixBCT.train import MixBCT
from BCT_Methods.NCCL.train import NCCL
from BCT_Methods.UniBCT.refinement import refined
from BCT_Methods.UniBCT.train import UniBCT
from engine.distributed import Ranks, start_ranks
from engine.method import Clock, Method
from engine.trainer import Trainer
from losses import CombinedMarginLoss, PartialFC
from old_model.statistics import class_balls
from records.facts import Facts
from utils.config import load_config
from utils.errors import run
from utils.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 20_000
METHODS = {"plain ArcFace": Method, "L2": L2, "BCT": BCT, "MixBCT": MixBCT, "UniBCT": UniBCT, "AdvBCT": AdvBCT, "NCCL": NCCL}
EPOCH = 15          # late enough for UniBCT's second term


def write_old_side(folder: Path, classes: int, dim: int) -> None:
    """Random arrays under the names that an old model's have."""
    draw = np.random.default_rng(0)
    start = folder / "OPclass/f128_r18_softmax_class70"
    start.parent.mkdir()
    prototypes = draw.standard_normal((classes, dim), np.float32)
    np.save(f"{start}_feature.npy", draw.standard_normal((IMAGES, dim), np.float32))
    np.save(f"{start}_label.npy", draw.integers(0, classes, IMAGES))
    np.save(f"{start}_avg_feature.npy", prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True))
    np.save(f"{start}_credible_ratio_90_feature.npy", draw.random(IMAGES) < 0.9)


def settings(name: str, args, folder: Path) -> Settings:
    kind = "MixBCT" if name == "plain ArcFace" else name
    cfg = load_config(ROOT / f"BCT_Methods/{kind}/configs/OPclass_ms1mv3_r18_to_r50_{kind}_softmax_to_arc_f128.py")
    return cfg.replace(feature_save=str(folder), old_model=None, embedding_size=args.dim, network=args.network,
                       batch_size=args.batch)


def make_trainers(args, ranks: Ranks, folder: Path) -> dict[str, Trainer]:
    """A trainer for each method; all of them have the same backbone and the same head."""
    cfg, data = settings("plain ArcFace", args, folder), Facts(IMAGES, args.classes)
    backbone = get_model(args.network, fp16=True, num_features=args.dim, image_size=args.size).to(ranks.device)
    backbone.to(memory_format=torch.channels_last).train()
    head = PartialFC(CombinedMarginLoss(64, *cfg.margin_list), args.dim, args.classes, fp16=True).to(ranks.device)
    return {name: Trainer(cfg := settings(name, args, folder), ranks, backbone, kind(cfg, data).to(ranks.device), head)
            for name, kind in METHODS.items()}


def batch(args, step: int) -> tuple[torch.Tensor, ...]:
    """Random images, new embeddings, labels and index of a step."""
    draw = torch.Generator().manual_seed(step)
    return (torch.randint(256, (args.batch, args.size, args.size, 3), dtype=torch.uint8, generator=draw),
            torch.randn(args.batch, args.dim, generator=draw),
            torch.randint(args.classes, (args.batch,), generator=draw), torch.randint(IMAGES, (args.batch,), generator=draw))


def whole_step(trainer: Trainer, args, step: int, images, new, labels, index) -> None:
    trainer.step(images, labels, index, torch.zeros(args.batch, dtype=torch.bool), Clock(EPOCH, step, 0.4), 0.01)


def terms_alone(trainer: Trainer, args, step: int, images, new, labels, index) -> None:
    device = trainer.ranks.device
    new = new.to(device).requires_grad_()
    terms = trainer.method(trainer.head, new, labels.to(device), index, Clock(EPOCH, step, 0.4))
    sum(terms.values()).backward()
    trainer.optimizer.zero_grad()


def timed(work, *arguments) -> float:
    begin = time.perf_counter()
    work(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def steps_table(args) -> PrettyTable:
    with tempfile.TemporaryDirectory() as folder:
        write_old_side(Path(folder), args.classes, args.dim)
        trainers = make_trainers(args, start_ranks(), Path(folder))
        plain = trainers["plain ArcFace"]
        whole, pairs = [], {name: [] for name in trainers}
        for turn in range(args.rounds + 1):             # the first warms up
            given = (args, turn, *batch(args, turn))
            whole.append(timed(whole_step, plain, *given))
            for name, trainer in trainers.items():
                pairs[name].append((timed(terms_alone, plain, *given), timed(terms_alone, trainer, *given)))
    step = statistics.median(whole[1:])
    title = f"{args.network} {args.size}x{args.size}, batch {args.batch}, {args.classes} classes, d = {args.dim}"
    table = PrettyTable([title, "terms, ms", "more than plain, ms", f"share of a step of {1e3 * step:.0f} ms", "held"], align="r")
    for name, values in pairs.items():
        more = statistics.median(second - first for first, second in values[1:])
        held = sum(t.nbytes for t in (*trainers[name].plain_method.buffers(), *trainers[name].plain_method.parameters()))
        table.add_row([name, f"{1e3 * statistics.median(second for _, second in values[1:]):.0f}", f"{1e3 * more:.0f}",
                       f"{100 * more / step:+.1f} %", f"{held / 1e6:.1f} MB"])
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
    images, classes, part = 200_000, 3_600, 2_000
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
        mine, slow = min(timed(ours) for _ in range(3)), timed(loop) * images / part
        table.add_row([name, f"{mine:.2f}", f"{slow:.0f}", f"{slow / mine:.0f}x"])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
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
