"""Speed of a training on more ranks and with more classes: a model of the step, checked on this machine, and its forecast.

    python benchmarks/scaling.py [--network r18] [--batch 16]           measures this machine, checks 1 and 2 processes
    python benchmarks/scaling.py --no-check --images-per-second 800 ... only the forecast, for GPUs described by the options

Seconds of a step of W ranks with B images each, C classes, d dimensions, P weights in the backbone:
    backbone    B / (images per second of the backbone alone)
    head        C / W * (W * B * row + weights):  each rank has C / W classes and the rows of all
    gradients   2 (W - 1) / W * 4 P / link; on GPUs it overlaps with the backward pass, two thirds of the backbone's time
    rows        3 (W - 1) * B * 4 d / link:  embeddings gathered, their gradient added up
and bytes of a rank: 12 d C / W (weights, gradient, momentum) and 4 B C (logits), in addition to the backbone's.  In the check,
row and weights are measured on one process with another number of classes, and the processes share the cores.
In the forecast row = 6 d / product + 16 / copy and weights = 32 d / copy: the floor that benchmarks/head.py compares with.
"""

import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from backbones import get_model
from benchmarks.heads import head_seconds, new_head
from engine.distributed import start_ranks
from engine.method import Clock, Method
from engine.prepare import build
from engine.trainer import Trainer
from losses import PartialFC
from records.facts import Facts
from utils.command_line import Parser
from utils.config import load_config
from utils.errors import run
from utils.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
CLASSES = {"93 k": 93_431, "1 M": 1_000_000, "10 M": 10_000_000}
MEASURED_CLASSES = 200_000
STEPS = 4


@dataclass(frozen=True)
class Machine:
    """Rates of one rank, in seconds and bytes."""

    backbone: float         # seconds per image, forward, backward and update
    row: float              # seconds of the head per class and row
    weights: float          # seconds of the head per class
    link: float             # bytes per second of an all-reduce inside a node, as if each byte crossed once
    network: float          # the same between nodes
    node: int               # ranks in a node
    overlap: float          # share of the backbone's time in which gradients are reduced without cost


def parts(machine: Machine, ranks: int, batch: int, classes: int, dim: int, weights: int) -> dict[str, float]:
    """Seconds of a step by part.  weights: of the backbone."""
    link = machine.link if ranks <= machine.node else machine.network
    backbone = batch * machine.backbone
    gradients = 2 * (ranks - 1) / ranks * 4 * weights / link
    return {"backbone": backbone, "head": classes / ranks * (ranks * batch * machine.row + machine.weights),
            "gradients": max(0.0, gradients - machine.overlap * backbone), "rows": 3 * (ranks - 1) * batch * 4 * dim / link}


def settings(args) -> Settings:
    cfg = load_config(ROOT / "configs/f512_r18_arc_class30.py")
    return cfg.replace(network=args.network, embedding_size=args.dim, batch_size=args.batch, fp16=True)


def one_step(args, trainer: Trainer, turn: int) -> float:
    """Seconds of a training step on random images.  A collective."""
    draw = torch.Generator().manual_seed(turn)
    images = torch.randint(256, (args.batch, 112, 112, 3), dtype=torch.uint8, generator=draw)
    labels = torch.randint(trainer.head.num_classes, (args.batch,), generator=draw)
    dist.barrier()
    begin = time.perf_counter()
    trainer.step(images, labels, labels, torch.zeros(args.batch, dtype=torch.bool), Clock(0, turn, 0.1), 0.01)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def step_seconds(args, classes: int) -> float:
    """Median seconds of a whole training step on the ranks of this group.  A collective."""
    torch.manual_seed(0)
    trainer = build(settings(args), Facts(args.batch, classes), start_ranks(), Method, PartialFC)
    trainer.plain_backbone.train()
    return statistics.median([one_step(args, trainer, turn) for turn in range(STEPS + 1)][1:])


def head_time(args, rows: int) -> float:
    """Median seconds of forward pass, backward pass and update of a head of MEASURED_CLASSES."""
    device = start_ranks().device
    return head_seconds(new_head("whole", args.dim, MEASURED_CLASSES, True, device), "whole", rows, device)


def link_speed(args) -> float:
    """Bytes per second of the all-reduce of the backbone's gradients, as if each byte crossed once.  A collective."""
    ranks = start_ranks()
    data = torch.ones(weights_of(args), device=ranks.device)
    times = []
    for _ in range(4):
        dist.barrier()
        begin = time.perf_counter()
        dist.all_reduce(data)
        times.append(time.perf_counter() - begin)
    return 2 * (ranks.world_size - 1) / ranks.world_size * data.nbytes / statistics.median(times[1:])


def weights_of(args) -> int:
    return sum(p.numel() for p in get_model(args.network, num_features=args.dim).parameters())


def rank(world_size: int, port: int, function, arguments, number: int):
    """Result of ``function`` on rank ``number``; called in a process of its own."""
    os.environ.update(RANK=str(number), WORLD_SIZE=str(world_size), LOCAL_RANK=str(number), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))
    torch.set_num_threads(1)
    answer = function(*arguments)
    dist.barrier()
    dist.destroy_process_group()
    return answer


def on_ranks(world_size: int, function, *arguments):
    """Result of ``function`` on rank 0 of ``world_size`` new processes; on a CPU each has one thread."""
    port = 20_000 + os.getpid() % 10_000
    with ProcessPoolExecutor(world_size, multiprocessing.get_context("spawn")) as pool:
        return next(pool.map(partial(rank, world_size, port, function, arguments), range(world_size)))


def measured_machine(args) -> Machine:
    """The rates of this machine, from a backbone with a head of 1,000 classes, and from a head with B and with 2 B rows."""
    once, twice = (on_ranks(1, head_time, args, rows) / MEASURED_CLASSES for rows in (args.batch, 2 * args.batch))
    link = on_ranks(2, link_speed, args) if args.most_ranks > 1 else 1.0
    cuda = torch.cuda.is_available()
    return Machine(on_ranks(1, step_seconds, args, 1000) / args.batch, (twice - once) / args.batch, 2 * once - twice,
                   link, link, 10**6, 2 / 3 if cuda else 0.0)


def check_table(args) -> PrettyTable:
    machine = measured_machine(args)
    table = PrettyTable([f"{args.network}, d = {args.dim}, batch {args.batch}", "ranks", "backbone", "head", "gradients",
                         "rows", "predicted, s", "measured, s", "ratio"], align="r")
    for classes in (93_431, 1_000_000):
        for ranks in range(1, args.most_ranks + 1):
            spent = parts(machine, ranks, args.batch, classes, args.dim, weights_of(args))
            measured = on_ranks(ranks, step_seconds, args, classes)
            table.add_row([f"{classes:,}", ranks, *(f"{value:.3f}" for value in spent.values()),
                           f"{sum(spent.values()):.3f}", f"{measured:.3f}", f"{measured / sum(spent.values()):.2f}"])
    return table


def forecast_table(args) -> PrettyTable:
    product, copy, batch, dim = 1e12 * args.product, 1e9 * args.copy, args.forecast_batch, args.forecast_dim
    machine = Machine(1 / args.images_per_second, 6 * dim / product + 16 / copy, 32 * dim / copy, 1e9 * args.link,
                      1e9 * args.network_link, 8, 2 / 3)
    table = PrettyTable(["classes", "GPUs", "images/s", "epoch", "head, of the step", "waiting for others", "head, GB per GPU",
                         "what breaks first"], align="r")
    for name, classes in CLASSES.items():
        for ranks in (1, 8, 32, 64):
            spent = parts(machine, ranks, batch, classes, dim, args.weights)
            seconds = sum(spent.values())
            speed, held = ranks * batch / seconds, (12 * dim / ranks + 4 * batch) * classes / 1e9
            table.add_row([name, ranks, f"{speed:,.0f}", f"{args.images / speed / 60:.1f} min", f"{spent['head'] / seconds:.0%}",
                           f"{(spent['gradients'] + spent['rows']) / seconds:.0%}", f"{held:.1f}",
                           breaks_first(args, spent, seconds, held)])
    return table


def breaks_first(args, spent: dict[str, float], seconds: float, held: float) -> str:
    """The part that limits the training, and what to change."""
    if held + args.backbone_gb > args.gpu_gb:
        return f"memory: {held + args.backbone_gb:.0f} of {args.gpu_gb:.0f} GB; more GPUs or sample_rate"
    name = max(("head", "gradients", "rows"), key=spent.get)
    if spent[name] < 0.1 * seconds:
        return "nothing: the backbone"
    return {"head": "the head: sample_rate", "gradients": "the network between nodes", "rows": "the network between nodes"}[name]


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--no-check", action="store_true", help="measure nothing, print only the forecast")
    parser.add_argument("--network", default="r18", help="check: one of backbones.NETWORKS, at 112x112")
    parser.add_argument("--batch", type=int, default=16, help="check: images per step and rank")
    parser.add_argument("--dim", type=int, default=128, help="check: dimensions of the features")
    parser.add_argument("--most-ranks", type=int, default=min(2, torch.cuda.device_count() or 2),
                        help="check: largest number of processes (GPUs)")
    parser.add_argument("--forecast-batch", type=int, default=128, help="forecast: images per step and GPU")
    parser.add_argument("--forecast-dim", type=int, default=512, help="forecast: dimensions of the features")
    parser.add_argument("--images-per-second", type=float, default=800, help="forecast: images/s of a GPU without the head")
    parser.add_argument("--product", type=float, default=100, help="forecast: TFLOP/s of the head's products")
    parser.add_argument("--copy", type=float, default=1500, help="forecast: GB/s of a GPU's memory")
    parser.add_argument("--link", type=float, default=150, help="forecast: GB/s of an all-reduce inside a node of 8")
    parser.add_argument("--network-link", type=float, default=10, help="forecast: GB/s of an all-reduce between nodes")
    parser.add_argument("--weights", type=float, default=43.6e6, help="forecast: weights of the backbone (r50)")
    parser.add_argument("--gpu-gb", type=float, default=80, help="forecast: memory of a GPU")
    parser.add_argument("--backbone-gb", type=float, default=10, help="forecast: GB of a GPU that backbone and activations need")
    parser.add_argument("--images", type=int, default=5_179_510, help="forecast: images of an epoch (MS1MV3)")
    args = parser.parse_args()
    if not args.no_check:
        print(check_table(args))
    print(forecast_table(args))


if __name__ == "__main__":
    run(main)
