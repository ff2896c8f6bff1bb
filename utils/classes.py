"""Per-class work on per-image arrays in any label order: in the order of the file, or whole classes at a time."""

from collections.abc import Iterator

import numpy as np
import torch
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
