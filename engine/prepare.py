"""Everything that a training is made of, from its settings: data, trainer, checkpoints."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.checkpoint import Checkpoints
from engine.checkpoint_files import Position
from engine.distributed import Ranks, check_same
from engine.feature_training import check_old_rows
from engine.initial import start_from
from engine.method import Method
from engine.parts import new_backbone, new_heads
from engine.schedule import schedule_of
from engine.settings import make_repeatable, settings_of
from engine.several_old import new_method
from engine.signals import StopSignal
from engine.trainer import Trainer
from engine.verification import Verifier
from losses import PartialFC
from old_model.feature_rows import FeatureRows, feature_file, is_of_features
from old_model.sides import old_sides
from records.classes import images_of_classes, remarks
from records.faces import FaceRecords, Faces, SyntheticFaces
from records.facts import Facts
from records.loader import TrainLoader, train_loader
from utils.errors import UserError
from utils.logging import start_logging
from utils.paths import locate
from utils.settings import Settings

SYNTHETIC_IMAGES, SYNTHETIC_CLASSES = 100_000, 10_000


@dataclass(frozen=True)
class Run:
    """A prepared training.  A step is one batch on every rank; ``batch``: images of a step, on all ranks together."""

    cfg: Settings
    ranks: Ranks
    log: logging.Logger
    dataset: Faces
    data: Facts
    loader: TrainLoader
    trainer: Trainer
    verifier: Verifier
    checkpoints: Checkpoints

    @property
    def batch(self) -> int:
        return self.ranks.world_size * self.cfg.batch_size

    @property
    def total_steps(self) -> int:
        return len(self.loader) * self.cfg.num_epoch

    @property
    def schedule(self) -> dict:
        """Arguments of :func:`engine.schedule.learning_rate` but the step."""
        return schedule_of(self.cfg, len(self.loader))

    def steps_before(self, position: Position) -> int:
        """Steps before ``position``, counted back from the end of its epoch.

        So an epoch ends at a multiple of len(loader) whatever the batch size was when it began.
        """
        return (position.epoch + 1) * len(self.loader) - (self.data.images - position.images) // self.batch


def prepare(cfg: Settings, ranks: Ranks, method_class: type[Method], head_class: type[PartialFC], stop: StopSignal) -> Run:
    """Open the data, compare the ranks, build everything that learns.  A collective.

    Raises :class:`UserError` for whatever is missing or does not fit.
    """
    log = start_logging(ranks.rank, cfg.output)
    make_repeatable(cfg)
    dataset, data = open_dataset(cfg, log)
    check_classes(dataset, ranks, log)
    if isinstance(dataset, FeatureRows):
        check_old_rows(cfg, dataset)
    identity = settings_of(cfg, data, method_class, head_class)
    check_same(identity)
    loader = train_loader(dataset, cfg.batch_size, ranks.rank, ranks.world_size, cfg.seed, cfg.workers)
    check_updates(cfg, len(loader))
    trainer = build(cfg, data, ranks, method_class, head_class)
    checkpoints = Checkpoints(cfg, data, ranks, trainer, identity, stop, log)
    run = Run(cfg, ranks, log, dataset, data, loader, trainer, Verifier(cfg, ranks, log), checkpoints)
    log.info("%s: %d images, %d classes, %d steps of %d x %d images; %s, %d dimensions, on %d x %s", cfg.name, data.images,
             data.classes, run.total_steps, ranks.world_size, cfg.batch_size, cfg.network, cfg.embedding_size, ranks.world_size,
             ranks.device.type)
    if isinstance(dataset, FeatureRows):
        log.info("trained on the features in %s, %d dimensions at norm 1: nothing is mirrored, and no verification set is read",
                 dataset.path, dataset.rows.shape[1])
    return run


def set_first_weights(run: Run) -> None:
    """Load config.init into the backbone of a run that is at its beginning; UserError if the file does not fit."""
    if run.cfg.init:
        run.log.info("%s", start_from(run.trainer.plain_backbone, run.cfg.network, Path(run.cfg.init)))


def open_dataset(cfg: Settings, log: logging.Logger) -> tuple[Faces, Facts]:
    """The training set, and its counts as the record file has them."""
    if cfg.rec == "synthetic":
        data = Facts(cfg.num_image or SYNTHETIC_IMAGES, cfg.num_classes or SYNTHETIC_CLASSES)
        return SyntheticFaces(data.images, data.classes, cfg.image_size), data
    if is_of_features(cfg):
        rows = FeatureRows(feature_file(cfg), cfg.num_classes)
        note_count(cfg, len(rows), log)
        return rows, Facts(len(rows), rows.num_classes, rows.fingerprint())
    dataset = FaceRecords(locate(cfg.rec, cfg.dataset), cfg.image_size, cfg.num_classes, cfg.bad_records)
    data = Facts(len(dataset), dataset.num_classes, dataset.fingerprint())
    note_count(cfg, data.images, log)
    return dataset, data


def note_count(cfg: Settings, images: int, log: logging.Logger) -> None:
    """Warn if the training set has another number of images than the settings say."""
    if cfg.num_image not in (None, images):
        log.warning("config.num_image = %d, but %s holds %d images; all are used", cfg.num_image, cfg.rec, images)


def check_classes(dataset: Faces, ranks: Ranks, log: logging.Logger) -> None:
    """Warn, on rank 0, of classes without an image.  UserError for a label that is not a class, and for a single identity.

    Every rank reads all labels once: 5 million of them take 2 to 5 s if the file is in memory, else as long as reading the file.
    """
    if isinstance(dataset, FaceRecords | FeatureRows):
        sentences = remarks(dataset, images_of_classes(dataset))
        for sentence in sentences if ranks.rank == 0 else []:
            log.warning("%s", sentence)


def check_updates(cfg: Settings, steps_per_epoch: int) -> None:
    """Refuse a training that ends before its first update."""
    steps = steps_per_epoch * cfg.num_epoch
    if steps < cfg.gradient_acc:
        raise UserError(f"the training has {steps} steps, fewer than config.gradient_acc = {cfg.gradient_acc}: the weights would "
                        f"never be updated; lower config.gradient_acc or config.batch_size, or raise config.num_epoch")


def build(cfg: Settings, data: Facts, ranks: Ranks, method_class: type[Method], head_class: type[PartialFC]) -> Trainer:
    """Backbone, method and head with their optimiser, on the rank's device.  A collective: methods read files together."""
    backbone = new_backbone(cfg, cfg.fp16)
    backbone.to(ranks.device, memory_format=torch.channels_last)        # type: ignore[call-overload]  # torch's stub lacks it
    head = new_heads(cfg, method_class, head_class, data.classes, ranks.device)
    return Trainer(cfg, ranks, backbone, new_method(old_sides(cfg), method_class, data).to(ranks.device), head)
