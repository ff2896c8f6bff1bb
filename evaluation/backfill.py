"""Re-embedding (backfilling) a gallery step by step: the figures at each share that is re-embedded, and the cost in images.

All queries are new. Gallery rows are old at first and become new in an order that is known before re-embedding. A mapped version
asks old entries with one view of a query and new entries with the other. The orders:
    random                  several seeds
    lowest ... first        first the rows whose old features are least certain: lowest detector score, fewest media, or
                            smallest norm of the old feature
The area under a curve is the mean of the figure over the share (FastFill, CVPR 2023). A curve is raw, with cosines of both kinds
of entries in one list, or mapped, with the scores of score_maps.py.
"""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from evaluation.cells import Cell, Measure
from evaluation.evaluation_set import Evaluation, protocol_of
from evaluation.score_maps import PartlyMapped, mapped
from evaluation.verification import Rows, pair_scores, unit_rows
from evaluation.version_features import Features
from serving.upgrade import ScoreMap

CONSTANT = 1e-5         # relative range of a quality below which it is the same for all rows


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
    """The figures along one order, at K points, and the cost in the rows that a figure's protocol uses."""

    share: np.ndarray               # float [K], share of the protocol's gallery rows that is re-embedded, 0 to 1
    images: dict[str, np.ndarray]   # "1:1", "1:N" -> int [K], images embedded for it
    values: dict[str, np.ndarray]   # metric -> float [K]


def orders_of(evaluation: Evaluation, old: Features, seeds: int) -> dict[str, list[dict[str, np.ndarray]]]:
    """{name: orders}; an order has for "1:1" and "1:N" a permutation of that protocol's rows, the first to be re-embedded first.

    A quality that is the same for all rows of a protocol makes no order of them.
    """
    rows = evaluation.gallery_rows()
    orders = {"random": [{protocol: np.random.default_rng(seed).permutation(own) for protocol, own in rows.items()}
                         for seed in range(seeds)]}
    qualities = evaluation.qualities | ({"norm of the old feature": old.norm} if old.norm is not None else {})
    for name, quality in qualities.items():
        order = {protocol: own[np.argsort(quality[own], kind="stable")] for protocol, own in rows.items()
                 if np.ptp(quality[own]) > CONSTANT * abs(quality[own]).max()}
        if order:
            orders[f"lowest {name} first"] = [order]
    return orders


def backfill(measure: Measure, old: Features, new: Features, ends: tuple[Cell, Cell],
             orders: dict[str, list[dict[str, np.ndarray]]], steps: int, bar: tqdm,
             maps: tuple[ScoreMap, ScoreMap] | None = None) -> dict[str, list[Curve]]:
    """{order: a curve of steps + 1 points for each of its permutations}.

    ends: the cells with no row done (new queries on the old gallery) and with all rows done (new on new).  maps: of scores with
    old and with re-embedded entries; None: the curves are raw.
    """
    way = Way(measure, old, new, ends, maps)
    out: dict[str, list[Curve]] = {}
    for name, permutations in orders.items():
        out[name] = []
        for order in permutations:
            cells = [ends[0]]
            for share in np.linspace(0, 1, steps + 1)[1:-1]:
                cells.append(way.cell(order, share))
                bar.update()
            cells.append(ends[1])
            out[name].append(curve_of(cells, order, measure))
    return out


class Way:
    """A gallery on its way from old to new rows.  Its ends are the same for raw and for mapped scores: maps keep the order."""

    def __init__(self, measure: Measure, old: Features, new: Features, ends: tuple[Cell, Cell],
                 maps: tuple[ScoreMap, ScoreMap] | None):
        """See :func:`backfill`."""
        on_old = new.against(old)
        self.measure, self.maps, self.new, self.two_views = measure, maps, new.gallery, on_old is not None
        self.stored, self.query = (on_old[0], BothViews(on_old[1], new.query)) if on_old else (old.gallery, new.query)
        pairs, (before, after) = measure.evaluation.pairs, (end.scores for end in ends)
        if pairs is not None and after is None:
            after = pair_scores(new.gallery, new.query, pairs)
        if maps is not None and before is not None and after is not None:
            before, after = (mapped(one, torch.from_numpy(scores)).numpy() for one, scores in zip(maps, (before, after),
                                                                                                 strict=True))
        self.before, self.after = before, after

    def cell(self, order: dict[str, np.ndarray], share: float) -> Cell:
        """The figures with the first ``share`` of an order done."""
        evaluation = self.measure.evaluation
        done = {protocol: first_rows(own, share, len(evaluation.images)) for protocol, own in order.items()}
        scores = self.before
        if "1:1" in order and evaluation.pairs is not None and self.before is not None and self.after is not None:
            scores = np.where(done["1:1"][evaluation.pairs.enrol], self.after, self.before)
        rows = done.get("1:N", np.zeros(len(evaluation.images), bool))
        scale = None if self.maps is None else PartlyMapped(rows, self.maps, np.sqrt(2) if self.two_views else 1.0)
        gallery = PartlyReembedded(self.stored, self.new, rows, self.two_views)
        return self.measure(gallery, self.query, scores=scores, scale=scale)


def first_rows(order: np.ndarray, share: float, count: int) -> np.ndarray:
    """The first ``share`` of the order as a mask, bool [count]."""
    done = np.zeros(count, bool)
    done[order[:int(np.round(share * len(order)))]] = True
    return done


def curve_of(cells: list[Cell], order: dict[str, np.ndarray], measure: Measure) -> Curve:
    """The curve through these cells, of the metrics whose protocol has an order."""
    share = np.linspace(0, 1, len(cells))
    images = {protocol: np.append(0, np.cumsum(measure.evaluation.images[own]))[np.round(share * len(own)).astype(int)]
              for protocol, own in order.items()}
    return Curve(share, images, {metric: np.array([cell.values[metric] for cell in cells]) for metric in measure.metrics
                                 if protocol_of(metric) in order})


def summary(curves: list[Curve], metric: str, starts: list[float], part: float) -> dict:
    """Means over the curves of one order: area, and share and images at which ``part`` of the gain is reached.

    starts: M(old, old) for each curve; the gain goes from there to the curve's end.  share and images are None if some curve has
    no gain.
    """
    values = np.stack([curve.values[metric] for curve in curves])
    crossings = [crossing(curve, metric, start, part) for curve, start in zip(curves, starts, strict=True)]
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
    share, images = (float(x[k - 1] + t * (x[k] - x[k - 1])) for x in (curve.share, curve.images[protocol_of(metric)]))
    return share, images


def area(values: np.ndarray, places: np.ndarray) -> float:
    """Area below a curve by trapezoids; numpy's function has another name before 2.0, which mxnet needs."""
    values, places = np.asarray(values, np.float64), np.asarray(places, np.float64)
    return float(((values[1:] + values[:-1]) / 2 * np.diff(places)).sum())
