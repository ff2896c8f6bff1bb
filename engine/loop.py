"""The one training loop: old models and every method run through it.

    python -m torch.distributed.launch --nproc_per_node=8 train.py configs/NAME.py [KEY=VALUE ...]
    torchrun --nproc_per_node=8 train.py configs/NAME.py
    python train.py configs/NAME.py
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist

from backbones import get_model
from engine.checkpoint import Checkpoints, Position, take_folder
from engine.distributed import Ranks, check_same, lost_ranks_explained, others_not_waited_for, start_ranks
from engine.method import Clock, Method
from engine.progress import Progress
from engine.schedule import learning_rate, schedule_of
from engine.settings import check_settings, make_repeatable, settings_of
from engine.signals import StopSignal
from engine.trainer import Trainer
from engine.verification import Verifier
from losses import CombinedMarginLoss, PartialFC
from records.faces import FaceRecords, SyntheticFaces
from records.loader import train_loader
from utils.config import load_config
from utils.errors import run
from utils.logging import errors_in_log, start_logging
from utils.paths import locate
from utils.seed import generator


def main(method: type[Method] = Method, head: type[PartialFC] = PartialFC) -> None:
    """Command line of every training script."""
    parser = argparse.ArgumentParser(description="Train with a config file; see configs/base.py for every setting.")
    parser.add_argument("config", help="config file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that win over the file")
    parser.add_argument("--local_rank", "--local-rank", type=int, help="given by torch.distributed.launch; not used")
    args = parser.parse_intermixed_args()

    def start() -> None:
        with StopSignal() as stop, errors_in_log(), lost_ranks_explained():
            train(load_config(args.config, args.overrides), method, head, stop)
    with others_not_waited_for():
        run(start)


def train(cfg, method_class: type[Method], head_class: type[PartialFC], stop: StopSignal) -> None:
    """Train by the settings ``cfg``; leaves model.pt, classifier shards, log and TensorBoard in cfg.output."""
    ranks = start_ranks(cfg.timeout)
    check_settings(cfg)
    lock = take_folder(Path(cfg.output), ranks)     # before its log is written to
    log = start_logging(ranks.rank, cfg.output)
    make_repeatable(cfg)
    dataset = open_dataset(cfg, log)
    settings = settings_of(cfg, method_class, head_class)
    check_same(settings)
    loader = train_loader(dataset, cfg.batch_size, ranks.rank, ranks.world_size, cfg.seed, cfg.workers)
    trainer = build(cfg, ranks, method_class, head_class)
    verify = Verifier(cfg, ranks, log)

    checkpoints = Checkpoints(cfg, ranks, trainer, settings, stop, log)
    schedule = schedule_of(cfg, len(loader))
    total, batch = len(loader) * cfg.num_epoch, ranks.world_size * cfg.batch_size
    log.info("%s: %d images, %d classes, %d steps of %d x %d images; %s, %d dimensions, on %d x %s", cfg.name,
             len(dataset), cfg.num_classes, total, ranks.world_size, cfg.batch_size, cfg.network,
             cfg.embedding_size, ranks.world_size, ranks.device.type)
    at = checkpoints.resume()           # the last before the loop: it puts the random states back, too
    progress = Progress(cfg, ranks, log, at, total, trainer)
    if at.epoch >= cfg.num_epoch:
        log.info("all %d epochs are done: the model is written again, and verified", cfg.num_epoch)
        checkpoints.write_model()
        verify_and_report(verify, trainer, progress, total)

    while at.epoch < cfg.num_epoch:
        if at.images == 0:
            begin_epoch(cfg, ranks, trainer, progress, at.epoch, dataset)
        trainer.plain_backbone.train()
        loader.set_epoch(at.epoch, at.images)
        step = at.epoch * len(loader) + at.images // batch
        for images, labels, index in loader:
            clock = Clock(at.epoch, step, step / total)
            lr = learning_rate(step // cfg.gradient_acc, **schedule)
            update = (step + 1) % cfg.gradient_acc == 0
            terms = trainer.step(images, labels, index, flips(cfg, ranks, step), clock, lr, update)
            progress.step(terms, clock, lr)
            step, at = step + 1, Position(at.epoch, at.images + batch)
            if step % len(loader):
                if checkpoints.due(step, update):
                    progress.check_finite()
                    with progress.pause():
                        checkpoints.save(at)
                if step % cfg.verbose == 0:
                    verify_and_report(verify, trainer, progress, step)
        at = Position(at.epoch + 1)
        progress.check_finite()
        report_bad_records(cfg, loader, ranks, progress)
        with progress.pause():
            checkpoints.epoch_ends(at, step % cfg.gradient_acc == 0)
        verify_and_report(verify, trainer, progress, step)      # after the save: it takes long, and changes nothing
    progress.close()
    dist.barrier()
    if lock is not None:
        lock.close()
    log.info("%s holds the model", Path(cfg.output) / "model.pt")
    dist.destroy_process_group()


def begin_epoch(cfg, ranks: Ranks, trainer: Trainer, progress: Progress, epoch: int, dataset) -> None:
    torch.manual_seed(int(torch.randint(2**62, (), generator=generator(cfg.seed, "epoch", epoch, ranks.rank))))
    with progress.pause():
        trainer.plain_method.start_epoch(epoch, trainer.plain_backbone, dataset)


def open_dataset(cfg, log):
    """The training set; cfg.num_classes, num_image and records (a fingerprint) become what the file says."""
    if cfg.rec == "synthetic":
        cfg.num_image, cfg.num_classes = cfg.num_image or 100_000, cfg.num_classes or 10_000
        cfg.records = None
        return SyntheticFaces(cfg.num_image, cfg.num_classes, cfg.image_size)
    dataset = FaceRecords(locate(cfg.rec, cfg.dataset), cfg.image_size, cfg.num_classes, cfg.bad_records)
    if cfg.num_image not in (None, len(dataset)):
        log.warning("config.num_image = %d, but %s holds %d images; all are used", cfg.num_image, cfg.rec, len(dataset))
    cfg.num_image, cfg.num_classes, cfg.records = len(dataset), dataset.num_classes, dataset.fingerprint()
    return dataset


def build(cfg, ranks: Ranks, method_class: type[Method], head_class: type[PartialFC]) -> Trainer:
    backbone = get_model(cfg.network, dropout=cfg.dropout, fp16=cfg.fp16, num_features=cfg.embedding_size,
                         image_size=cfg.image_size)
    backbone.to(ranks.device, memory_format=torch.channels_last)
    margin = CombinedMarginLoss(cfg.scale, *cfg.margin_list, cfg.interclass_filtering_threshold)
    head = head_class(margin, cfg.embedding_size, cfg.num_classes, sample_rate=cfg.sample_rate, fp16=cfg.fp16,
                      seed=cfg.seed).to(ranks.device)
    return Trainer(cfg, ranks, backbone, method_class(cfg).to(ranks.device), head)


def flips(cfg, ranks: Ranks, step: int) -> torch.Tensor:
    """bool [B], True = mirror: this rank's rows of one draw for the global batch."""
    drawn = torch.rand(ranks.world_size, cfg.batch_size, generator=generator(cfg.seed, "flip", step))
    return drawn[ranks.rank] < 0.5


def report_bad_records(cfg, loader, ranks: Ranks, progress: Progress) -> None:
    """What all ranks met since this start, in the log of the first; a collective."""
    if cfg.bad_records == "skip":
        counts = torch.tensor([loader.bad_records.replaced, loader.bad_records.seen], device=ranks.device)
        dist.all_reduce(counts)
        replaced, seen = counts.tolist()
        progress.say(f"{replaced} of {seen} images had a bad record and were replaced (config.bad_records)")


def verify_and_report(verify: Verifier, trainer: Trainer, progress: Progress, step: int) -> None:
    with progress.pause():
        for name, (line, accuracy) in verify(trainer.plain_backbone).items():
            progress.say(line)
            progress.scalars({f"verification/{name}": accuracy}, step)
