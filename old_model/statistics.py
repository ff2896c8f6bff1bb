"""Statistics of the old features of each class: credible marks, class means, class balls.

The rule: row i of features [N, d] and labels [N] belongs to image i of the record file; labels may be in any order.  The
arithmetic is float64.  Features are read in blocks from a memory-mapped file: in memory are a few numbers per image.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from utils.arrays import ChosenRows
from utils.errors import UserError

CLASS_BLOCK = 65_536    # images per block of whole classes: 134 MB of float32 at 512 dimensions
FILE_BLOCK = 1_024      # images per block in the order of the file: 4 MB of float64 at 512 dimensions, for a CPU's cache


def class_counts(labels: np.ndarray, source) -> np.ndarray:
    """Images per class, int64 [C] with C = largest label + 1.  ``source`` names the labels in messages.

    UserError if a label is negative or a class has no image.
    """
    if len(labels) == 0 or labels.min() < 0:
        smallest = f"{labels.min()}" if len(labels) else "none"
        raise UserError(f"{source} must hold labels from 0 up, found {smallest}; make the file again")
    present = np.unique(labels)         # not bincount: a label of 10^12 would make 10^12 counts
    classes = int(present[-1]) + 1
    if classes > len(present):
        raise UserError(f"{source}: class {np.argmax(present != np.arange(len(present)))} has no image "
                        f"({classes - len(present)} of {classes} classes are empty); expected labels from 0 to classes - 1 "
                        f"without a gap: number the records' people with tools/make_rec/make_rec.py --from-rec")
    return np.bincount(labels)


def class_blocks(labels: np.ndarray, counts: np.ndarray, rows: int = CLASS_BLOCK) -> Iterator[tuple]:
    """Yield (classes, images, starts): a slice of classes, their images by class, the first position of each class in them.

    ``images`` int64 [n] are rows of the per-image arrays; ``starts`` int64 [classes] are positions in ``images``, ready for
    np.add.reduceat.  A block has at most ``rows`` images, or one class.
    """
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        begin = ends[first] - counts[first]
        last = max(first + 1, int(np.searchsorted(ends, begin + rows, side="right")))
        yield slice(first, last), order[begin:ends[last - 1]], ends[first:last] - counts[first:last] - begin
        first = last


def blocks_in_order(features: np.ndarray | ChosenRows, *, unit: bool, words: str) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, their features float64 [n, d]) once through features [N, d], in the order of the file.

    unit: rows of norm 1.  words: what the progress bar says.  All blocks use the same memory: the caller may change a block
    and must not keep it.
    """
    memory = torch.empty(min(FILE_BLOCK, len(features)), features.shape[1], dtype=torch.float64)
    with tqdm(total=len(features), desc=words, unit=" images", disable=None) as bar:
        for start in range(0, len(features), FILE_BLOCK):
            rows = slice(start, min(start + FILE_BLOCK, len(features)))
            block = memory[:rows.stop - start]
            block.numpy()[:] = features[rows]
            if unit:
                # A division of each number would take three times as long.
                block.mul_(block.norm(dim=1, keepdim=True).clamp_min_(1e-12).reciprocal_())
            yield rows, block
            bar.update(len(block))


def refuse_unusable(block: Tensor, start: int) -> None:
    """UserError if one of the rows of a block, whose first row has the number ``start``, is zeros or holds NaN or infinity."""
    norms = torch.linalg.vector_norm(block, dim=1)
    wrong = torch.nonzero(~((norms > 0) & norms.isfinite()))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(f"row {start + row} of the old features {'is zeros' if norms[row] == 0 else 'holds NaN or infinity'} "
                        f"({len(wrong)} of {len(norms)} rows near it): it was never written, or the old model diverged; extract "
                        f"the features again with tools/get_feature/get_feature.py")


def distances(features: np.ndarray | ChosenRows, labels: Tensor, centres: Tensor, weights: Tensor, *, words: str) -> np.ndarray:
    """|w (x - c)| of each unit feature x and the centre c of its class, float64 [N].

    labels int64 [N]; centres float64 [C, d]; weights w float64 [d].  words: what the progress bar says.
    """
    out = torch.empty(len(labels), dtype=torch.float64)
    own = torch.empty(min(FILE_BLOCK, len(labels)), features.shape[1], dtype=torch.float64)
    for rows, block in blocks_in_order(features, unit=True, words=words):
        torch.index_select(centres, 0, labels[rows], out=own[:len(block)])
        torch.linalg.vector_norm(block.sub_(own[:len(block)]).mul_(weights), dim=1, out=out[rows])
    return out.numpy()


def class_order(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Image numbers int64 [N] by class and, within a class, by ``values`` >= 0, lowest first.

    One sort, of label + value / (2 * largest value).
    """
    return np.argsort(labels + values / max(2 * values.max(initial=0), 1e-300), kind="stable")


def credible(features: np.ndarray | ChosenRows, labels: np.ndarray, share: float, column_norm: bool = True,
             source="labels") -> np.ndarray:
    """Credible marks, bool [N]: of the n images of a class, the ceil(share * n) nearest to the class mean are True.

    Rows of features [N, d] are L2-normalised; with column_norm each column of the result is, too, over the whole set, as in
    the public tool.  ``source`` names the labels in messages.  UserError as in :func:`class_counts`.
    """
    counts, label_of = class_counts(labels, source), torch.tensor(labels)
    sums = torch.zeros(len(counts), features.shape[1], dtype=torch.float64)
    squares = torch.zeros(min(FILE_BLOCK, len(features)), features.shape[1], dtype=torch.float64)
    for rows, block in blocks_in_order(features, unit=True, words="means"):
        refuse_unusable(block, rows.start)
        sums.index_add_(0, label_of[rows], block)
        squares[:len(block)].addcmul_(block, block)         # added up at the end: a norm of columns reads a block slowly
    scale = squares.sum(0).sqrt_().clamp_min_(1e-12) if column_norm else torch.ones(features.shape[1], dtype=torch.float64)
    distance = distances(features, label_of, sums / torch.from_numpy(counts)[:, None], 1 / scale, words="distances")
    nearest_first = class_order(labels, distance)
    # Rounded first, because 0.56 * 25 is 14.000000000000002 in float64.
    keep = np.array([math.ceil(round(share * int(n), 6)) for n in counts])
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    mask = np.zeros(len(labels), bool)
    mask[nearest_first] = place < np.repeat(keep, counts)
    return mask


def class_means(features: np.ndarray | ChosenRows, labels: np.ndarray, source="labels") -> np.ndarray:
    """Mean of the raw features [N, d] of each class, float64 [C, d].  UserError as in :func:`class_counts`."""
    counts, label_of = class_counts(labels, source), torch.tensor(labels)
    sums = torch.zeros(len(counts), features.shape[1], dtype=torch.float64)
    for rows, block in blocks_in_order(features, unit=False, words="means"):
        refuse_unusable(block, rows.start)
        sums.index_add_(0, label_of[rows], block)
    return sums.numpy() / counts[:, None]


def class_balls(features: np.ndarray | ChosenRows, labels: np.ndarray,
                num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(centres float32 [C, d], radii float32 [C], distances kept int64 [C]) of raw features [N, d] and labels int64 [N].

    A centre is the mean of the unit features of a class, not normalised again.  Of the n distances of these features to it,
    those outside [q1 - 1.5 IQR, q3 + 1.5 IQR] are left out if n >= 4; q1 and q3 are the sorted distances at positions
    int(n / 4) and int(3 n / 4), IQR = q3 - q1.  The radius is the largest distance that is kept.  A class without image has
    radius 0 and keeps none.
    """
    counts, label_of = np.bincount(labels, minlength=num_classes), torch.from_numpy(labels)
    sums = torch.zeros(num_classes, features.shape[1], dtype=torch.float64)
    for rows, block in blocks_in_order(features, unit=True, words="centres"):
        sums.index_add_(0, label_of[rows], block)
    centres = sums / torch.from_numpy(counts).clamp_min(1)[:, None]
    distance = distances(features, label_of, centres, torch.ones(features.shape[1], dtype=torch.float64), words="radii")
    distance = distance[class_order(labels, distance)]
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


def shared_class_balls(features: np.ndarray, labels: np.ndarray, num_classes: int,
                       present: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`class_balls` as tensors on the CPU, the same on all ranks; each rank reads the images of its share of classes.

    present: bool [N], False = an image without an old vector, which is left out.  A collective: all ranks call it.
    """
    own = labels % dist.get_world_size() == dist.get_rank()
    mine = np.flatnonzero(own if present is None else own & present.numpy())
    centres, radii, kept = map(torch.from_numpy, class_balls(ChosenRows(features, mine), labels[mine], num_classes))
    for part in (centres, radii, kept):
        dist.all_reduce(part)           # zeros for the classes of the other ranks
    return centres, radii, kept
