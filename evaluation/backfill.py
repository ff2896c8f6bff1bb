"""Re-embedding (backfilling) a gallery step by step: the figures at each share that is re-embedded, and the cost in images.

All queries are new. Gallery rows are old at first and become new in an order that is known before re-embedding. A mapped version
asks old entries with one view of a query and new entries with the other. The orders:
    random                  several seeds
    lowest ... first        first the rows whose old features are least certain: lowest detector score, fewest media, or
                            smallest norm of the old feature
The area under a curve is the mean of the figure over the share (FastFill, CVPR 2023).
"""

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from evaluation.cells import Cell, Measure
from evaluation.evaluation_set import Evaluation
from evaluation.verification import Rows, pair_scores, unit_rows
from evaluation.versions import Features


class PartlyReembedded:
    """A gallery [G, d] in which some rows are new and the others old: Rows that are chosen when they are read.

    Two views: a row is [old, 0] or [0, new] of d_old + d_new numbers, so that the product with both views of a query
    (:class:`BothViews`) is that with the view that belongs to the row.
    """

    def __init__(self, old: Rows, new: Rows, done: np.ndarray, two_views: bool = False):
        """done: bool [G], the rows that are new."""
        self.old, self.new, self.done = old, new, done
        self.start = old.shape[1] if two_views else 0       # of the new numbers in a row
        self.shape = len(old), self.start + new.shape[1]

    def __len__(self) -> int:
        return len(self.old)

    def __getitem__(self, rows) -> np.ndarray:
        done, out = self.done[rows], np.zeros((len(rows), self.shape[1]), np.float32)
        out[done, self.start:] = unit_rows(self.new, rows[done])
        out[~done, :self.old.shape[1]] = unit_rows(self.old, rows[~done])
        return out


class BothViews:
    """Queries [Q, d_old + d_new]: both views, each of norm 1.  All cosines are then those of one view divided by sqrt(2)."""

    def __init__(self, on_old: Rows, on_new: Rows):
        self.on_old, self.on_new, self.shape = on_old, on_new, (len(on_old), on_old.shape[1] + on_new.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        return np.concatenate([unit_rows(self.on_old, rows), unit_rows(self.on_new, rows)], axis=1)


@dataclass(frozen=True)
class Curve:
    """The figures along one order, at K points."""

    share: np.ndarray               # float [K], share of the gallery rows that is re-embedded, 0 to 1
    images: np.ndarray              # int [K], images embedded for it
    values: dict[str, np.ndarray]   # metric -> float [K]


def orders_of(evaluation: Evaluation, old: Features, seeds: int) -> dict[str, list[np.ndarray]]:
    """{name: orders}; an order is a permutation of the gallery's rows, the first to be re-embedded first."""
    rows = evaluation.gallery_rows()
    orders = {"random": [np.random.default_rng(seed).permutation(rows) for seed in range(seeds)]}
    qualities = evaluation.qualities | ({"norm of the old feature": old.norm} if old.norm is not None else {})
    for name, quality in qualities.items():
        orders[f"lowest {name} first"] = [rows[np.argsort(quality[rows], kind="stable")]]
    return orders


def backfill(measure: Measure, old: Features, new: Features, ends: tuple[Cell, Cell], orders: dict[str, list[np.ndarray]],
             steps: int, bar: tqdm) -> dict[str, list[Curve]]:
    """{order: a curve of steps + 1 points for each permutation}.

    ends: the cells with no row done (new queries on the old gallery) and with all rows done (new on new).
    """
    images, share = measure.evaluation.images, np.linspace(0, 1, steps + 1)
    out: dict[str, list[Curve]] = {}
    pairs, before, after = measure.evaluation.pairs, ends[0].scores, ends[1].scores
    stored, query = (new.on_old[0], BothViews(new.on_old[1], new.query)) if new.on_old else (old.gallery, new.query)
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
                gallery = PartlyReembedded(stored, new.gallery, done, new.on_old is not None)
                cells.append(measure(gallery, query, scores=scores))
                bar.update()
            cells.append(ends[1])
            cost = np.append(0, np.cumsum(images[order]))[counts]
            out[name].append(Curve(share, cost, {m: np.array([cell.values[m] for cell in cells]) for m in measure.metrics}))
    return out


def summary(curves: list[Curve], metric: str, start: float, part: float) -> dict:
    """Means over the curves of one order: area, and share and images at which ``part`` of the gain is reached.

    start: M(old, old); the gain goes from there to the curve's end.  share and images are None if some curve has no gain.
    """
    values = np.stack([curve.values[metric] for curve in curves])
    crossings = [crossing(curve, metric, start, part) for curve in curves]
    reached = [point for point in crossings if point is not None]
    all_reached = len(reached) == len(curves)
    return {"auc": area(values.mean(0), curves[0].share),
            "share": float(np.mean([share for share, _ in reached])) if all_reached else None,
            "images": int(round(np.mean([images for _, images in reached]))) if all_reached else None}


def crossing(curve: Curve, metric: str, start: float, part: float) -> tuple[float, float] | None:
    """(share, images) at which the curve first reaches start + part (end - start), linear between its points.

    None if the end is not above ``start``.
    """
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


def area(values: np.ndarray, places: np.ndarray) -> float:
    """Area below a curve by trapezoids; numpy's function has another name before 2.0, which mxnet needs."""
    values, places = np.asarray(values, np.float64), np.asarray(places, np.float64)
    return float(((values[1:] + values[:-1]) / 2 * np.diff(places)).sum())
