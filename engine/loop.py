"""The one training loop: old models and every method run through it.

    python -m torch.distributed.launch --nproc_per_node=8 train.py configs/NAME.py [KEY=VALUE ...]
    torchrun --nproc_per_node=8 train.py configs/NAME.py
    python train.py configs/NAME.py
"""

import argparse
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from engine.checkpoint import locked_output
from engine.checkpoint_files import Position
from engine.distributed import lost_ranks_explained, others_not_waited_for, start_ranks
from engine.finite import Guard
from engine.method import Clock, Method
from engine.prepare import Run, prepare, set_first_weights
from engine.progress import Progress
from engine.schedule import learning_rate
from engine.settings import check_settings
from engine.signals import StopSignal
from losses import PartialFC
from losses.view import views_of
from utils.command_line import Parser
from utils.config import load_config, read_schema
from utils.errors import run
from utils.logging import errors_in_log
from utils.seed import generator
from utils.settings import Settings, described


def main(method: type[Method] = Method, head: type[PartialFC] = PartialFC) -> None:
    """Command line of every training script."""
    def start() -> None:
        args = parse_arguments()
        with StopSignal() as stop, errors_in_log(), lost_ranks_explained():
            train(load_config(args.config, args.overrides), method, head, stop)
    with others_not_waited_for():
        run(start)


def parse_arguments() -> argparse.Namespace:
    schema, _ = read_schema(Path(sys.argv[0]).resolve().parent / "configs")
    script = Path(sys.argv[0]).name
    parser = Parser(f"Train with a config file.\n\n    python {script} configs/NAME.py\n"
                    f"    torchrun --nproc_per_node=8 {script} configs/NAME.py batch_size=64 resume=True",
                    epilog=f"settings, with their defaults:\n{described(schema)}")
    parser.add_argument("config", help="config file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that replace those of the file")
    parser.add_argument("--local_rank", "--local-rank", type=int, help="given by torch.distributed.launch; not used")
    return parser.parse_intermixed_args()


def train(cfg: Settings, method_class: type[Method], head_class: type[PartialFC], stop: StopSignal) -> None:
    """Train by the settings ``cfg``; leaves model.pt, classifier shards, log and TensorBoard in cfg.output.  A collective."""
    check_settings(cfg)
    ranks = start_ranks(cfg.timeout)
    with locked_output(Path(cfg.output), ranks):            # before its log is written to
        train_all_epochs(prepare(cfg, ranks, method_class, head_class, stop))
        stop.finish()
        dist.barrier()
    # Nothing else may hold the group now.  A DistributedDataParallel that is freed later ends it under Python's lock, and waits
    # for gloo's threads while one of them waits for the lock, to free the tensors of the last collective.
    dist.destroy_process_group()


def train_all_epochs(training: Run) -> None:
    """Train from the newest checkpoint, or the beginning, to the end.  A collective."""
    cfg, checkpoints = training.cfg, training.checkpoints
    start = checkpoints.resume()                            # last: it restores the random states, too
    if start == Position():
        set_first_weights(training)
    progress = Progress(cfg, training.ranks, training.log, training.steps_before(start), training.total_steps)
    guard = Guard(training, progress, start)
    if start.epoch >= cfg.num_epoch:
        training.log.info("all %d epochs are done: the model is written again, and verified", cfg.num_epoch)
        checkpoints.write_model()
        verify(training, progress, training.total_steps)
    position = start
    while position.epoch < cfg.num_epoch:
        position = train_epoch(training, progress, guard, position)
    progress.close()
    training.log.info("%s holds the model", Path(cfg.output) / "model.pt")
    if checkpoints.makes_map():
        training.log.info("%s holds it as a map: tools/compare/compare.py --fitted NAME=%s shows what it is worth",
                          Path(cfg.output) / "map.npz", Path(cfg.output) / "map.npz")


def train_epoch(training: Run, progress: Progress, guard: Guard, position: Position) -> Position:
    """Train from ``position`` to the end of its epoch; the start of the next one.  A collective."""
    cfg, trainer, checkpoints = training.cfg, training.trainer, training.checkpoints
    if position.images == 0:
        begin_epoch(training, progress, position.epoch)
    trainer.plain_backbone.train()
    training.loader.set_epoch(position.epoch, position.images)
    step = training.steps_before(position)
    for images, labels, index in training.loader:
        clock = Clock(position.epoch, step, step / training.total_steps)
        lr = learning_rate(step // cfg.gradient_acc, **training.schedule)
        update = (step + 1) % cfg.gradient_acc == 0
        terms = trainer.step(images, labels, index, flips(cfg, training.ranks, step), clock, lr, update)
        if progress.step(terms, clock):
            means = progress.mean_terms()
            progress.report(means, clock, lr, skipped=guard.check(means))
        step, position = step + 1, Position(position.epoch, position.images + training.batch)
        if step % len(training.loader):                     # the end of an epoch saves and verifies anyway
            if checkpoints.due(step, update):
                guard.check()
                with progress.pause():
                    checkpoints.save(position)
            if step % cfg.verbose == 0:
                verify(training, progress, step)
    return end_epoch(training, progress, guard, Position(position.epoch + 1))


def begin_epoch(training: Run, progress: Progress, epoch: int) -> None:
    """Seed torch's own random numbers, and let the method prepare its epoch.  A collective if the method's start_epoch is one."""
    seed = torch.randint(2**62, (), generator=generator(training.cfg.seed, "epoch", epoch, training.ranks.rank))
    torch.manual_seed(int(seed))
    with progress.pause():
        training.trainer.plain_method.start_epoch(epoch, training.trainer.plain_backbone, training.dataset)


def end_epoch(training: Run, progress: Progress, guard: Guard, position: Position) -> Position:
    """Save, then verify: a verification takes long, and changes nothing.  A collective.

    position: the start of the next epoch.
    """
    step = training.steps_before(position)
    guard.check()
    report_corrupt_records(training, progress)
    with progress.pause():
        training.checkpoints.epoch_ends(position, step % training.cfg.gradient_acc == 0)
    verify(training, progress, step)
    return position


def flips(cfg: Settings, ranks, step: int) -> torch.Tensor:
    """bool [B], True = mirror: this rank's rows of one draw for the global batch."""
    drawn = torch.rand(ranks.world_size, cfg.batch_size, generator=generator(cfg.seed, "flip", step))
    return drawn[ranks.rank] < 0.5


def report_corrupt_records(training: Run, progress: Progress) -> None:
    """Log how many corrupt records all ranks met since this start.  A collective."""
    if training.cfg.bad_records == "skip":
        records = training.loader.bad_records
        counts = torch.tensor([records.replaced, records.seen], device=training.ranks.device)
        dist.all_reduce(counts)
        replaced, seen = counts.tolist()
        progress.say(f"{replaced} of {seen} images had a corrupt record and were replaced (config.bad_records)")


def verify(training: Run, progress: Progress, step: int) -> None:
    """Log the accuracy on each verification set.  A collective."""
    views = views_of(training.trainer.plain_method)
    with progress.pause():
        for name, accuracy in training.verifier(training.trainer.plain_backbone, views).items():
            progress.say(accuracy.text)
            progress.scalars({f"verification/{name}": accuracy.mean}, step)
