"""AdvBCT's class balls: where each class of the old model lies, and how far it reaches."""

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from utils.classes import blocks_in_order, class_order


def class_balls(features: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(centres float32 [C, d], radii float32 [C], radii kept int64 [C]) of raw features [N, d], labels int64 [N].

    A centre is the mean of the class's unit features, not normalised again.  Of its n distances, sorted, those outside
    [q1 - 1.5 IQR, q3 + 1.5 IQR] are dropped when n >= 4 (q1, q3 = those at int(n / 4), int(3 n / 4)); the radius is the
    largest that is kept.  A class without image has radius 0 and keeps none.
    """
    counts, of = np.bincount(labels, minlength=num_classes), torch.from_numpy(labels)
    sums = torch.zeros(num_classes, features.shape[1], dtype=torch.float64)
    for rows, block in blocks_in_order(features, unit=True, words="centres"):
        sums.index_add_(0, of[rows], block)
    centres = sums / torch.from_numpy(counts).clamp_min(1)[:, None]
    distance = torch.empty(len(labels), dtype=torch.float64)
    for rows, block in blocks_in_order(features, unit=True, words="radii"):
        distance[rows] = block.sub_(centres[of[rows]]).norm(dim=1)
    distance = distance.numpy()[class_order(labels, distance.numpy())]
    present = counts > 0
    size, radii, kept = counts[present], np.zeros(num_classes, np.float32), np.zeros(num_classes, np.int64)
    starts = np.cumsum(size) - size
    q1, q3 = distance[starts + size // 4], distance[starts + 3 * size // 4]
    reach = np.where(size >= 4, 1.5 * (q3 - q1), np.inf)
    keep = (distance >= np.repeat(q1 - reach, size)) & (distance <= np.repeat(q3 + reach, size))
    if len(starts):
        kept[present] = np.add.reduceat(keep.astype(np.int64), starts)
        radii[present] = np.maximum.reduceat(np.where(keep, distance, 0), starts)
    return centres.float().numpy(), radii, kept


def shared_class_balls(features: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`class_balls` as tensors on the CPU, computed once: every rank reads the images of its share of classes."""
    own = np.flatnonzero(labels % dist.get_world_size() == dist.get_rank())
    balls = [torch.from_numpy(part) for part in class_balls(Rows(features, own), labels[own], num_classes)]
    for part in balls:
        dist.all_reduce(part)           # the other ranks' classes are zeros here
    return tuple(balls)


class Rows:
    """Rows ``own`` of an array on disk, read only when they are asked for."""

    def __init__(self, array: np.ndarray, own: np.ndarray):
        self.array, self.own, self.shape = array, own, (len(own), array.shape[1])

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, rows) -> np.ndarray:
        return self.array[self.own[rows]]
