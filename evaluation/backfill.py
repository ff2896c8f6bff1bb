"""Re-embedding a gallery little by little: every figure over the share that is done, and what it costs in images.

Queries are new from the start; gallery rows are old, then new, in an order that is known before re-embedding:
    random                  several seeds
    lowest ... first        rows that the old gallery holds the least sure features of: detector score, number of media,
                            norm of the old feature
The area under the curve is its mean over the share (FastFill, CVPR 2023).
"""

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from evaluation.cells import Cell, Measure
from evaluation.evaluation_set import Evaluation
from evaluation.verification import Rows, pair_scores, unit_rows
from evaluation.versions import Features


class Mixed:
    """Gallery rows of which some are new already: looks like the array that it stands for."""

    def __init__(self, old: Rows, new: Rows, done: np.ndarray):
        self.old, self.new, self.done, self.shape = old, new, done, old.shape

    def __len__(self) -> int:
        return len(self.old)

    def __getitem__(self, rows) -> np.ndarray:
        done, out = self.done[rows], np.empty((len(rows), self.shape[1]), np.float32)
        out[done], out[~done] = unit_rows(self.new, rows[done]), unit_rows(self.old, rows[~done])
        return out


@dataclass(frozen=True)
class Curve:
    """One order: share of the rows that is done, images re-embedded for it, and each figure there."""

    share: np.ndarray               # float [K], 0 .. 1
    images: np.ndarray              # int [K]
    values: dict[str, np.ndarray]   # metric -> float [K]


def orders_of(evaluation: Evaluation, old: Features, seeds: int) -> dict[str, list[np.ndarray]]:
    """{name: orders}, each a permutation of the gallery's rows, first to be re-embedded first."""
    rows = evaluation.gallery_rows()
    orders = {"random": [np.random.default_rng(seed).permutation(rows) for seed in range(seeds)]}
    qualities = evaluation.qualities | ({"norm of the old feature": old.norm} if old.norm is not None else {})
    for name, quality in qualities.items():
        orders[f"lowest {name} first"] = [rows[np.argsort(quality[rows], kind="stable")]]
    return orders


def backfill(measure: Measure, old: Features, new: Features, ends: tuple[Cell, Cell], orders: dict[str, list[np.ndarray]],
             steps: int, bar: tqdm) -> dict[str, list[Curve]]:
    """{order: a curve per permutation}; ends: the cells at 0 (new on old) and at 1 (new on new)."""
    images, share = measure.evaluation.images, np.linspace(0, 1, steps + 1)
    out: dict[str, list[Curve]] = {}
    pairs, before, after = measure.evaluation.pairs, ends[0].scores, ends[1].scores
    if pairs is not None and after is None:
        after = pair_scores(new.gallery, new.query, pairs)
    for name, permutations in orders.items():
        out[name] = []
        for order in permutations:
            cells, counts = [ends[0]], np.round(share * len(order)).astype(int)
            for count in counts[1:-1]:
                done = np.zeros(len(images), bool)
                done[order[:count]] = True
                scores = None       # the cell computes them
                if pairs is not None and before is not None and after is not None:
                    scores = np.where(done[pairs.enrol], after, before)
                cells.append(measure(Mixed(old.gallery, new.gallery, done), new.query, scores=scores))
                bar.update()
            cells.append(ends[1])
            cost = np.append(0, np.cumsum(images[order]))[counts]
            out[name].append(Curve(share, cost, {m: np.array([cell.values[m] for cell in cells]) for m in measure.metrics}))
    return out


def summary(curves: list[Curve], metric: str, start: float, part: float) -> dict:
    """Mean over the curves of one order: area, and where ``part`` of the gain from ``start`` to the end is reached.

    start: M(old, old).  share and images are None where the end is no better than the start.
    """
    values = np.stack([curve.values[metric] for curve in curves])
    crossings = [crossing(curve, metric, start, part) for curve in curves]
    reached = [point for point in crossings if point is not None]
    whole = len(reached) == len(curves)
    return {"auc": float(np.trapezoid(values.mean(0), curves[0].share)),
            "share": float(np.mean([share for share, _ in reached])) if whole else None,
            "images": int(round(np.mean([images for _, images in reached]))) if whole else None}


def crossing(curve: Curve, metric: str, start: float, part: float) -> tuple[float, float] | None:
    """(share, images) at which start + part (end - start) is first reached, linear between the points."""
    y = curve.values[metric]
    if not y[-1] > start:
        return None
    goal = start + part * (y[-1] - start)
    k = int(np.argmax(y >= goal))
    if k == 0:
        return 0.0, 0.0
    t = (goal - y[k - 1]) / (y[k] - y[k - 1])
    share, images = (float(x[k - 1] + t * (x[k] - x[k - 1])) for x in (curve.share, curve.images))
    return share, images
