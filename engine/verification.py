"""Accuracy on pairs of aligned faces (lfw, cfp_fp, agedb_30 ... as .bin), ten folds, during training.

The figure is insightface's: features of the image and of its mirror image are added and normalised; a pair counts as the same
person below a squared distance, which is chosen on nine folds and judged on the tenth.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.distributed import Ranks
from engine.settings import targets_of
from losses import View
from records.bins import load_bin
from records.images import to_input
from utils.settings import Settings

THRESHOLDS = np.arange(0, 4, 0.01)      # squared distances of unit features


@torch.inference_mode()
def embed_pairs(backbone: nn.Module, images: Tensor, ranks: Ranks, batch_size: int) -> tuple[np.ndarray, float]:
    """(unit features [2P, d] of image + mirror image, mean norm of the plain feature); a collective: ranks share the batches."""
    starts = range(0, len(images), batch_size)
    features: Tensor | None = None
    norms = torch.zeros((), device=ranks.device)
    for start in list(starts)[ranks.rank::ranks.world_size] or [0]:
        x = to_input(images[start:start + batch_size], ranks.device)
        plain = backbone(x)
        total = plain + backbone(x.flip(3))
        if features is None:
            features = plain.new_zeros(len(images), plain.shape[1])
        features[start:start + batch_size] = total
        norms += plain.norm(dim=1).sum()
    assert features is not None                         # every rank embeds at least one batch
    if ranks.rank >= len(starts):                       # fewer batches than ranks: this rank only supplies the shape
        features.zero_()
        norms.zero_()
    dist.all_reduce(features)
    dist.all_reduce(norms)
    return nn.functional.normalize(features).cpu().numpy(), float(norms) / len(images)


def ten_fold_accuracy(features: np.ndarray, same: np.ndarray) -> tuple[float, float, float]:
    """(mean accuracy, its standard deviation over the folds, mean threshold); features [2P, d] of unit rows."""
    distance = np.square(features[0::2] - features[1::2]).sum(1)
    right = (distance[:, None] < THRESHOLDS) == same[:, None]          # [P, thresholds]
    accuracy, chosen = [], []
    for fold in np.array_split(np.arange(len(same)), 10):
        others = np.ones(len(same), bool)
        others[fold] = False
        best = right[others].mean(0).argmax()
        accuracy.append(right[fold, best].mean())
        chosen.append(THRESHOLDS[best])
    return float(np.mean(accuracy)), float(np.std(accuracy)), float(np.mean(chosen))


class Accuracy(NamedTuple):
    """Mean accuracy of the ten folds, in [0, 1], and the line of the log that reports it."""

    mean: float
    text: str


class Verifier:
    """The verification sets of a run: read once, kept as uint8 (a quarter of the size of float32)."""

    def __init__(self, cfg: Settings, ranks: Ranks, log: logging.Logger):
        self.ranks, self.batch_size = ranks, cfg.batch_size
        self.sets: dict[str, tuple[Tensor, np.ndarray]] = {}
        self.best: dict[str, float] = {}
        for name in targets_of(cfg):
            path = Path(cfg.dataset) / f"{name}.bin"
            if path.is_file():
                self.sets[name] = load_bin(path, cfg.image_size)
            elif ranks.rank == 0:
                log.warning("no verification set %s: left out (config.val_targets)", path)

    def __call__(self, backbone: nn.Module, views: dict[int, View]) -> dict[str, Accuracy]:
        """Accuracy by set name, and by "<name> view <d_o>" that of a view; backbone: not wrapped; in training mode afterwards.

        A collective.
        """
        backbone.eval()
        accuracy = {}
        for name, (images, same) in self.sets.items():
            features, norm = embed_pairs(backbone, images, self.ranks, self.batch_size)
            accuracy[name] = self.accuracy(name, features, same, f", norm {norm:.1f}")
            for dim, view in views.items():         # linear: the view of a sum of mirror images is the sum of their views
                viewed = torch.from_numpy(features) @ view.matrix()
                of_view = f"{name} view {dim}"
                accuracy[of_view] = self.accuracy(of_view, nn.functional.normalize(viewed).numpy(), same)
        backbone.train()
        return accuracy

    def accuracy(self, name: str, features: np.ndarray, same: np.ndarray, more: str = "") -> Accuracy:
        mean, deviation, threshold = ten_fold_accuracy(features, same)
        self.best[name] = max(mean, self.best.get(name, 0.0))
        return Accuracy(mean, f"{name} accuracy {100 * mean:.2f} +- {100 * deviation:.2f} % "
                              f"(best {100 * self.best[name]:.2f} %, threshold {threshold:.2f}{more})")
