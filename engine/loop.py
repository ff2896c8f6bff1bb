"""The one training loop: old models and every method run through it.

    python -m torch.distributed.launch --nproc_per_node=8 train.py configs/NAME.py [KEY=VALUE ...]
    torchrun --nproc_per_node=8 train.py configs/NAME.py
    python train.py configs/NAME.py
"""

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist

from backbones import get_model
from engine.checkpoint import load_epoch, save_epoch
from engine.distributed import Ranks, start_ranks
from engine.method import Clock, Method
from engine.progress import Progress
from engine.schedule import learning_rate
from engine.trainer import Trainer
from engine.verification import Verifier
from losses import CombinedMarginLoss, PartialFC
from records.faces import FaceRecords, SyntheticFaces
from records.loader import train_loader
from utils.config import load_config, locate
from utils.errors import UserError, run
from utils.logging import start_logging
from utils.seed import generator


def main(method: type[Method] = Method, head: type[PartialFC] = PartialFC) -> None:
    """Command line of every training script."""
    parser = argparse.ArgumentParser(description="Train with a config file; see configs/base.py for every setting.")
    parser.add_argument("config", help="config file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that win over the file")
    parser.add_argument("--local_rank", "--local-rank", type=int, help="given by torch.distributed.launch; not used")
    args = parser.parse_intermixed_args()
    run(lambda: train(load_config(args.config, args.overrides), method, head))


def train(cfg, method_class: type[Method] = Method, head_class: type[PartialFC] = PartialFC) -> None:
    """Train by the settings ``cfg``; leaves model.pt, classifier shards, log and TensorBoard in cfg.output."""
    ranks = start_ranks()
    log = start_logging(ranks.rank, cfg.output)
    check_settings(cfg, head_class)
    make_repeatable(cfg)
    dataset = open_dataset(cfg, log)
    loader = train_loader(dataset, cfg.batch_size, ranks.rank, ranks.world_size, cfg.seed, cfg.workers)
    trainer = build(cfg, ranks, method_class, head_class)
    verify = Verifier(cfg, ranks, log)
    state = (trainer.plain_backbone, trainer.head, trainer.plain_method, trainer.optimizer, trainer.scaler)
    folder = Path(cfg.output)
    first_epoch = load_epoch(folder, ranks, *state) if cfg.resume else 0

    total = len(loader) * cfg.num_epoch
    schedule = dict(lr=cfg.lr, total_steps=max(total // cfg.gradient_acc, 1), power=cfg.lr_power,
                    warmup_steps=len(loader) * cfg.warmup_epoch // cfg.gradient_acc,
                    decay_steps=tuple(len(loader) * e // cfg.gradient_acc for e in cfg.decay_epoch))
    log.info("%s: %d images, %d classes, %d steps of %d x %d images; %s, %d dimensions, on %d x %s", cfg.name,
             len(dataset), cfg.num_classes, total, ranks.world_size, cfg.batch_size, cfg.network,
             cfg.embedding_size, ranks.world_size, ranks.device.type)
    progress = Progress(cfg, ranks, log, first_epoch * len(loader), total)

    step = first_epoch * len(loader)
    for epoch in range(first_epoch, cfg.num_epoch):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator(cfg.seed, "epoch", epoch, ranks.rank))))
        with progress.pause():
            trainer.plain_method.start_epoch(epoch, trainer.plain_backbone, dataset)
        trainer.plain_backbone.train()
        loader.set_epoch(epoch)
        for images, labels, index in loader:
            clock = Clock(epoch, step, step / total)
            lr = learning_rate(step // cfg.gradient_acc, **schedule)
            update = (step + 1) % cfg.gradient_acc == 0
            terms = trainer.step(images, labels, index, flips(cfg, ranks, step), clock, lr, update)
            progress.step(terms, clock, lr)
            step += 1
            if step % cfg.verbose == 0 and step % len(loader):
                verify_and_report(verify, trainer, progress, step)
        if cfg.bad_records == "skip":
            report_bad_records(loader, ranks, progress)
        verify_and_report(verify, trainer, progress, step)
        save_epoch(folder, ranks, epoch, *state)
    progress.close()
    dist.barrier()
    log.info("%s holds the model", folder / "model.pt")
    dist.destroy_process_group()


def check_settings(cfg, head_class: type[PartialFC]) -> None:
    """Refuse at once what would fail, or mean nothing, hours later."""
    if cfg.dali:
        raise UserError("config.dali = True is not supported: set it to False; cv2 in loader processes decodes "
                        "112x112 JPEGs twice as fast as DALI on the CPU, and DALI loses the images' index")
    if cfg.bad_records not in ("stop", "skip"):
        raise UserError(f'config.bad_records must be "stop" or "skip", found "{cfg.bad_records}"')
    if cfg.sample_rate < 1 and cfg.gradient_acc > 1:
        raise UserError(f"config.sample_rate = {cfg.sample_rate} samples classes for one batch, "
                        f"config.gradient_acc = {cfg.gradient_acc} adds up several: set one of them to 1")
    if cfg.sample_rate < 1 and cfg.resume:
        raise UserError("config.resume needs config.sample_rate = 1: a sampled head's state is not in the checkpoint")


def make_repeatable(cfg) -> None:
    if cfg.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")     # else torch refuses cuBLAS's products
    torch.backends.cudnn.benchmark = not cfg.deterministic
    torch.use_deterministic_algorithms(cfg.deterministic)
    torch.manual_seed(cfg.seed)          # the same initial weights on all ranks


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


def report_bad_records(loader, ranks: Ranks, progress: Progress) -> None:
    """What all ranks met since the run began, in the log of the first; a collective."""
    counts = torch.tensor([loader.bad.replaced, loader.bad.seen], device=ranks.device)
    dist.all_reduce(counts)
    replaced, seen = counts.tolist()
    progress.say(f"{replaced} of {seen} images had a bad record and were replaced (config.bad_records)")


def verify_and_report(verify: Verifier, trainer: Trainer, progress: Progress, step: int) -> None:
    with progress.pause():
        for name, (line, accuracy) in verify(trainer.plain_backbone).items():
            progress.say(line)
            progress.scalars({f"verification/{name}": accuracy}, step)
