"""Class by class through per-image arrays in any label order, a block of whole classes at a time."""

from collections.abc import Iterator

import numpy as np

from utils.errors import UserError

ROWS = 65_536        # images per block: 134 MB at 512 dimensions


def class_counts(labels: np.ndarray, source) -> np.ndarray:
    """Images per class, int64 [C] with C = largest label + 1; a class without image is refused."""
    if len(labels) == 0 or labels.min() < 0:
        raise UserError(f"{source} must hold labels from 0 up, found " + (f"{labels.min()}" if len(labels) else "none"))
    counts = np.bincount(labels)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        raise UserError(f"{source}: class {empty[0]} has no image ({len(empty)} of {len(counts)} classes are empty); "
                        f"labels must run from 0 to classes - 1 without a gap")
    return counts


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
