"""This project's training step with each method's terms, on random images, embeddings and old features."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from backbones import get_model
from BCT_Methods.AdvBCT.train import AdvBCT
from BCT_Methods.BCT.train import BCT
from BCT_Methods.L2.train import L2
from BCT_Methods.MixBCT.train import MixBCT
from BCT_Methods.NCCL.train import NCCL
from BCT_Methods.UniBCT.train import UniBCT
from engine.distributed import Ranks
from engine.method import Clock, Method
from engine.trainer import Trainer
from losses import CombinedMarginLoss, PartialFC
from records.facts import Facts
from utils.config import load_config
from utils.paths import ROOT
from utils.settings import Settings

IMAGES = 20_000
PLAIN = "plain ArcFace"
METHODS = {PLAIN: Method, "L2": L2, "BCT": BCT, "MixBCT": MixBCT, "UniBCT": UniBCT, "AdvBCT": AdvBCT, "NCCL": NCCL}
EPOCH = 15          # late enough for UniBCT's second term
LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Shape:
    """Network and sizes of a training step.  fp16: half precision in backbone and head, or a torch.dtype."""

    network: str
    size: int
    dim: int
    classes: int
    batch: int
    fp16: bool | torch.dtype = True


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


def settings(name: str, shape: Shape, folder: Path) -> Settings:
    """The settings of a method.  A GradScaler is used if ``shape.fp16`` is True on a GPU: bfloat16 needs none."""
    kind = "MixBCT" if name == PLAIN else name
    cfg = load_config(ROOT / f"BCT_Methods/{kind}/configs/OPclass_ms1mv3_r18_to_r50_{kind}_softmax_to_arc_f128.py")
    return cfg.replace(feature_save=str(folder), old_model=None, embedding_size=shape.dim, network=shape.network,
                       batch_size=shape.batch, fp16=shape.fp16 in (True, torch.float16))


def make_trainers(shape: Shape, ranks: Ranks, folder: Path, names=tuple(METHODS)) -> dict[str, Trainer]:
    """A trainer for each method; all of them have the same backbone and the same head.

    folder: of :func:`write_old_side`; plain ArcFace does not read it.
    """
    data = Facts(IMAGES, shape.classes)
    backbone = get_model(shape.network, fp16=shape.fp16, num_features=shape.dim, image_size=shape.size).to(ranks.device)
    backbone.to(memory_format=torch.channels_last).train()
    margin = CombinedMarginLoss(64, *settings(PLAIN, shape, folder).margin_list)
    head = PartialFC(margin, shape.dim, shape.classes, fp16=shape.fp16).to(ranks.device)
    configs = {name: settings(name, shape, folder) for name in names}
    return {name: Trainer(cfg, ranks, backbone, METHODS[name](cfg, data).to(ranks.device), head)
            for name, cfg in configs.items()}


def random_batch(shape: Shape, step: int) -> tuple[torch.Tensor, ...]:
    """Random images, new embeddings, labels and index of a step, on the CPU; with CUDA the images are pinned."""
    draw = torch.Generator().manual_seed(step)
    images = torch.randint(256, (shape.batch, shape.size, shape.size, 3), dtype=torch.uint8, generator=draw)
    return (images.pin_memory() if torch.cuda.is_available() else images, torch.randn(shape.batch, shape.dim, generator=draw),
            torch.randint(shape.classes, (shape.batch,), generator=draw), torch.randint(IMAGES, (shape.batch,), generator=draw))


def whole_step(trainer: Trainer, step: int, images, new, labels, index) -> None:
    """One step of a training, from uint8 images to updated weights."""
    trainer.step(images, labels, index, torch.zeros(len(images), dtype=torch.bool), Clock(EPOCH, step, 0.4), LEARNING_RATE)


def terms_alone(trainer: Trainer, step: int, images, new, labels, index) -> None:
    """The method's terms, from embeddings to gradients."""
    device = trainer.ranks.device
    new = new.to(device).requires_grad_()
    terms = trainer.method(trainer.head, new, labels.to(device), index, Clock(EPOCH, step, 0.4))
    sum(terms.values()).backward()
    trainer.optimizer.zero_grad()


def held_bytes(trainer: Trainer) -> int:
    """Bytes of the method's buffers and parameters."""
    return sum(t.nbytes for t in (*trainer.plain_method.buffers(), *trainer.plain_method.parameters()))
