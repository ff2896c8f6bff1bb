"""Whether rows of old features belong to the labels that they stand next to: no model is needed to see that they do not.

In the right order a row is mostly nearer to the mean of the other images of its class than to the mean of any other class; in
another order it is so by chance only.  What chance gives is measured: the same rows, with their labels exchanged at random.
An order that keeps the images of a class together (whole classes exchanged, images exchanged within a class) cannot be seen.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.arrays import ChosenRows

SEED = 0
SAMPLED_CLASSES = 128
SAMPLED_IMAGES = 8          # of a class: its first and its last one in the file, and others
RANDOM_ORDERS = 99          # features in another order pass as right with a probability of 1 / (1 + this)
PARTS = 8                   # of the file, each judged by itself: rows of a part alone can be in another order
MISPLACED = ("look as if they were in another order than the labels; row i must be the feature of image i of the record file: "
             "extract them with tools/get_feature/get_feature.py; or the old model cannot tell these people apart")
UNDECIDABLE = 0.5           # if random orders reach this share, there are too few classes or images to see an order


@dataclass(frozen=True)
class OrderFound:
    """rows, classes: sampled.  share: rows nearest to their own class.  chance, most: mean and largest share in random orders.

    misplaced: in words, the rows that look as in a random order; None if there are none, or if that cannot be decided.
    """

    rows: int
    classes: int
    share: float
    chance: float
    most: float
    misplaced: str | None

    def __str__(self) -> str:
        if self.classes < 2:
            return "fewer than two classes have two images: the order of the rows cannot be looked at"
        few = "; too few images or classes to see the order" if self.most >= UNDECIDABLE else ""
        return (f"{100 * self.share:.1f} % of {self.rows:,} sampled rows of {self.classes} classes are nearest to the mean of "
                f"their own class; in random orders {100 * self.chance:.1f} %, at most {100 * self.most:.1f} %{few}")


def order_of_rows(features: np.ndarray | ChosenRows, labels: np.ndarray) -> OrderFound:
    """Look at a seeded sample of the rows of features [N, d] with labels int [N]; the same sample in each call."""
    draw = np.random.default_rng(SEED)
    rows, owner, ends = sample(labels, draw)
    classes = int(owner.max(initial=-1)) + 1
    if classes < 2:
        return OrderFound(len(rows), classes, 0.0, 0.0, 0.0, None)
    unit = np.asarray(features[rows], np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    own = nearest_own(unit, owner)
    by_chance = np.array([nearest_own(unit, draw.permutation(owner)) for _ in range(RANDOM_ORDERS)])
    shares = by_chance.mean(1)
    found = OrderFound(len(rows), classes, own.mean(), shares.mean(), shares.max(), None)
    if found.most >= UNDECIDABLE:
        return found
    if found.share <= found.most:
        return OrderFound(**vars(found) | {"misplaced": "all rows"})
    part = rows * PARTS // len(labels)
    groups = {f"rows {len(labels) * k // PARTS:,} to {len(labels) * (k + 1) // PARTS - 1:,}": part == k for k in range(PARTS)}
    groups |= {"the first images of the classes": ends == "first", "the last images of the classes": ends == "last"}
    names = [name for name, members in groups.items() if at_chance(own[members], by_chance[:, members], found.share)]
    return OrderFound(**vars(found) | {"misplaced": ", ".join(names) or None})


def sample(labels: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows int64 [S] ascending, their class among the sampled ones int64 [S], "first", "last" or "" [S]).

    Classes have two images or more; first and last: of their class in the file.
    """
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=labels[order[0]] - 1)) if len(labels) else np.zeros(0, np.int64)
    counts = np.diff(starts, append=len(labels))
    chosen = draw.permutation(np.flatnonzero(counts > 1))[:SAMPLED_CLASSES]
    rows, owner, ends = [], [], []
    for number, c in enumerate(chosen):
        images = order[starts[c]:starts[c] + counts[c]]
        inner = draw.permutation(images[1:-1])[:SAMPLED_IMAGES - 2]
        rows += [images[0], *inner, images[-1]]
        owner += [number] * (len(inner) + 2)
        ends += ["first", *[""] * len(inner), "last"]
    ascending = np.argsort(np.array(rows, np.int64))
    return np.array(rows, np.int64)[ascending], np.array(owner, np.int64)[ascending], np.array(ends, "U5")[ascending]


def nearest_own(unit: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """bool [S]: the row's cosine with the sum of the other rows of its class is above that with every other class's sum."""
    members = np.zeros((int(owner.max()) + 1, len(owner)), np.float32)
    members[owner, np.arange(len(owner))] = 1
    sums = members @ unit
    cosine = unit @ (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).T
    cosine[np.arange(len(owner)), owner] = -np.inf
    others = sums[owner] - unit
    own = (unit * others).sum(1) / np.maximum(np.linalg.norm(others, axis=1), 1e-12)
    return own > cosine.max(1) + 1e-5       # equal rows are no evidence: float32 rounds their cosines by about 1e-6


def at_chance(own: np.ndarray, by_chance: np.ndarray, share: float) -> bool:
    """Whether rows are as in a random order, and would hardly be so (1 / (1 + RANDOM_ORDERS)) if they were like all others.

    own bool [n]; by_chance bool [orders, n]; share: of all rows.
    """
    hits, n = int(own.sum()), len(own)
    return n > 0 and hits <= by_chance.sum(1).max() and most_hits(hits, n, share) < 1 / (1 + RANDOM_ORDERS)


def most_hits(hits: int, n: int, share: float) -> float:
    """Probability of at most ``hits`` of n, each with probability ``share``: the binomial distribution."""
    yes, no = math.log(max(share, 1e-12)), math.log(max(1 - share, 1e-12))
    return sum(math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * yes + (n - k) * no)
               for k in range(hits + 1))


def warn_about_order(features: np.ndarray | ChosenRows, labels: np.ndarray, source: Path) -> None:
    """Print a warning if rows look misplaced.  source: the file of the features."""
    found = order_of_rows(features, labels)
    if found.misplaced:
        print(f"warning: {source}: {found.misplaced} {MISPLACED} ({found})", file=sys.stderr, flush=True)
