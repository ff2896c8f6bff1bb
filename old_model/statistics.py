"""Per-class statistics of old features: credible marks, class means, class balls."""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from utils.errors import UserError

ROWS = 65_536        # images per block of whole classes: 134 MB at 512 dimensions
IN_CACHE = 1_024     # images per block in the order of the file: small enough to be gone through several times


def class_counts(labels: np.ndarray, source) -> np.ndarray:
    """Images per class, int64 [C] with C = largest label + 1; a class without image is refused."""
    if len(labels) == 0 or labels.min() < 0:
        raise UserError(f"{source} must hold labels from 0 up, found " + (f"{labels.min()}" if len(labels) else "none"))
    found = np.unique(labels)           # a label of 10^12 must not become counts of 10^12 classes
    classes = int(found[-1]) + 1
    if classes > len(found):
        raise UserError(f"{source}: class {np.argmax(found != np.arange(len(found)))} has no image "
                        f"({classes - len(found)} of {classes} classes are empty); labels must run from 0 to classes - 1 "
                        f"without a gap")
    return np.bincount(labels)


def class_blocks(labels: np.ndarray, counts: np.ndarray, rows: int = ROWS) -> Iterator[tuple]:
    """Yield (classes, images, starts): a slice of classes, their images in class order, each class's first row.

    ``images`` int64 [n] are rows of the per-image arrays, ``starts`` int64 [classes] positions in it, ready
    for np.add.reduceat.  A block has at most ``rows`` images, or one class.
    """
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        begin = ends[first] - counts[first]
        last = max(first + 1, int(np.searchsorted(ends, begin + rows, side="right")))
        yield slice(first, last), order[begin:ends[last - 1]], ends[first:last] - counts[first:last] - begin
        first = last


def blocks_in_order(features: np.ndarray, *, unit: bool, words: str) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, float64 [n, d]) through features [N, d] once, in the order of the file; unit: rows of norm 1.

    The blocks lie one after the other in the same memory: the caller may change one, and keeps none.
    """
    memory = torch.empty(min(IN_CACHE, len(features)), features.shape[1], dtype=torch.float64)
    with tqdm(total=len(features), desc=words, unit=" images", disable=None) as bar:
        for start in range(0, len(features), IN_CACHE):
            rows = slice(start, min(start + IN_CACHE, len(features)))
            block = memory[:rows.stop - start]
            block.numpy()[:] = features[rows]
            if unit:
                block.div_(block.norm(dim=1, keepdim=True).clamp_min_(1e-12))
            yield rows, block
            bar.update(len(block))


def class_order(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Images by class and, within it, by ``values`` >= 0, lowest first, int64 [N]: one sort of label + value / 2 max."""
    return np.argsort(labels + values / max(2 * values.max(initial=0), 1e-300), kind="stable")


def credible(features: np.ndarray, labels: np.ndarray, share: float, column_norm: bool = True,
             source="labels") -> np.ndarray:
    """bool [N]: per class of n images the ceil(share * n) nearest to the class mean are True.

    features [N, d], labels int64 [N] in any order; source names them in messages.  Rows are L2-normalised,
    then (column_norm) each column over the whole set, as the public tool does.
    """
    counts, of = class_counts(labels, source), torch.tensor(labels)
    sums = torch.zeros(len(counts), features.shape[1], dtype=torch.float64)
    squares = torch.zeros(features.shape[1], dtype=torch.float64)
    for rows, block in blocks_in_order(features, unit=True, words="means"):
        sums.index_add_(0, of[rows], block)
        squares = squares + block.norm(dim=0).square()
    scale = squares.sqrt().clamp_min(1e-12) if column_norm else torch.ones_like(squares)
    means = sums / torch.from_numpy(counts)[:, None]
    distance = torch.empty(len(labels), dtype=torch.float64)
    for rows, block in blocks_in_order(features, unit=True, words="distances"):
        distance[rows] = block.sub_(means[of[rows]]).div_(scale).norm(dim=1)
    nearest_first = class_order(labels, distance.numpy())
    # ceil(share * n) of the decimal that the user wrote: 0.56 * 25 is 14, not 14.000000000000002.
    keep = np.array([math.ceil(round(share * int(n), 6)) for n in counts])
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    mask = np.zeros(len(labels), bool)
    mask[nearest_first] = place < np.repeat(keep, counts)
    return mask


def class_means(features: np.ndarray, labels: np.ndarray, source="labels") -> np.ndarray:
    """float64 [C, d]: mean of the raw features [N, d] of each class; labels int64 [N] in any order."""
    counts = class_counts(labels, source)
    sums, of = torch.zeros(len(counts), features.shape[1], dtype=torch.float64), torch.tensor(labels)
    for rows, block in blocks_in_order(features, unit=False, words="means"):
        sums.index_add_(0, of[rows], block)
    return sums.numpy() / counts[:, None]


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
