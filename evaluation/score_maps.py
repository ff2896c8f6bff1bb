"""Score maps: scores of two kinds of entries, old and re-embedded, on one scale, so that hits of both can be merged.

A score s becomes -log10 of its false accept rate, the share of impostor pairs that reach s. The map is fitted on impostor scores
only, which any gallery has: its entries of different people, each as a query against the others. Up to the score that TAIL_SHARE
of the impostors exceed the rate is counted. Above it, s = u + y, the excesses y have a generalised Pareto distribution with shape
x <= 0 and scale b by their mean m and variance v (Hosking and Wallis, Technometrics 1987):

    FAR(u + y) = FAR(u) (1 + x y / b)^(-1/x)        x = (1 - m^2 / v) / 2, b = m (1 + m^2 / v) / 2; x > 0 becomes 0, b = m
    FAR(u + y) = FAR(u) exp(-y / b)                 for x = 0: the exponential tail

Below LAST_RATE / n, n impostors, the map goes on as a straight line, so that it rises for every score.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaluation.verification import Rows, unit_rows
from evaluation.version_features import Features
from serving.upgrade import ScoreMap

TAIL_SHARE, MIN_TAIL, MAX_TAIL = 0.01, 30, 2_000        # impostor scores in the fitted tail: a share of all, and its limits
LAST_RATE = 0.1             # / n: the false accept rate at which the straight line begins
KNOTS = 64                  # of the counted part, and as many of the tail
MIN_IMPOSTORS = 1_000       # scores for a map
MAX_ENTRIES = 2_000         # gallery rows that are compared with each other: at most 4 million scores
EXPONENTIAL, PARETO = "exponential", "generalised Pareto"


def own_impostors(entries: Rows, queries: Rows, rows: np.ndarray, subjects: np.ndarray, seed: int = 0) -> np.ndarray:
    """Scores of the queries ``rows`` with the entries ``rows`` of other people, float32 [n], of at most MAX_ENTRIES rows.

    entries, queries: row i is the stored entry i, and what a query by the same image is against it; subjects: of all rows.
    """
    if len(rows) > MAX_ENTRIES:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_ENTRIES, replace=False))
    scores = unit_rows(queries, rows) @ unit_rows(entries, rows).T
    return scores[subjects[rows][:, None] != subjects[rows]]


def score_maps(old: Features, new: Features, rows: np.ndarray, subjects: np.ndarray) -> tuple[ScoreMap, ScoreMap] | None:
    """The maps of new queries with old entries and with re-embedded ones, from the gallery's ``rows``; None: too few of them."""
    stored = new.on_old[0] if new.on_old else old.gallery
    on_old = fit_score_map(own_impostors(stored, new.own, rows, subjects))
    on_new = fit_score_map(own_impostors(new.gallery, new.gallery, rows, subjects))
    return None if on_old is None or on_new is None else (on_old, on_new)


def fit_score_map(impostors: np.ndarray, tail: str = PARETO) -> ScoreMap | None:
    """The map of impostor scores [n]; None if there are fewer than MIN_IMPOSTORS or they hardly differ."""
    scores = np.sort(impostors.astype(np.float64))
    n = len(scores)
    if n < MIN_IMPOSTORS:
        return None
    m = int(np.clip(TAIL_SHARE * n, MIN_TAIL, MAX_TAIL))
    u = scores[n - m - 1]
    reached = np.unique(np.round(np.geomspace(m + 1, n, KNOTS)).astype(int))[::-1]       # so many scores reach a knot
    knots, places = np.unique(scores[n - reached], return_index=True)
    values = -np.log10((n - np.searchsorted(scores, knots, side="left")) / n)
    excess = scores[n - m:] - u
    if len(places) < 2 or excess.mean() <= 0:
        return None
    shape, scale = tail_of(excess, tail)
    rates = np.geomspace(m / n, LAST_RATE / n, KNOTS)[1:]
    ratio = n * rates / m
    above = -scale * np.log(ratio) if shape == 0 else scale / shape * (ratio ** -shape - 1)
    drop = scale + shape * above[-1]            # -FAR / its derivative at the last knot
    return ScoreMap(np.r_[knots, u + above], np.r_[values, -np.log10(rates)], 1 / drop / np.log(10))


def tail_of(excess: np.ndarray, tail: str) -> tuple[float, float]:
    """(shape, scale) of the excesses; shape 0: exponential."""
    mean, variance = excess.mean(), excess.var(ddof=1)
    shape = (1 - mean ** 2 / variance) / 2 if tail == PARETO and variance > 0 else 0.0
    return (float(shape), float(mean * (1 - shape))) if shape < 0 else (0.0, float(mean))


def mapped(score_map: ScoreMap, scores: Tensor) -> Tensor:
    """``score_map`` of a tensor, on its device and in its precision; -inf stays -inf."""
    knots, values = (torch.as_tensor(array, dtype=scores.dtype, device=scores.device)
                     for array in (score_map.scores, score_map.values))
    slopes = torch.cat([values.diff() / knots.diff(), values.new_tensor([score_map.slope])])
    place = (torch.searchsorted(knots, scores.contiguous(), right=True) - 1).clamp_(min=0)
    return (values[place] + (scores - knots[place]).clamp_(min=0) * slopes[place]).masked_fill_(scores == -torch.inf, -torch.inf)


@dataclass(frozen=True)
class PartlyMapped:
    """Scores with a gallery of old and re-embedded rows, each mapped by the map of its kind."""

    done: np.ndarray                    # bool [G], the rows that are re-embedded
    maps: tuple[ScoreMap, ScoreMap]     # of old rows, of re-embedded rows
    factor: float = 1.0                 # the cosine is the product of the rows times this

    def __call__(self, products: Tensor, rows: np.ndarray) -> Tensor:
        """products: [E, n], of gallery rows ``rows`` [E] and n queries."""
        done, out = torch.from_numpy(self.done[rows]).to(products.device), torch.empty_like(products)
        for kind, score_map in zip((~done, done), self.maps, strict=True):
            out[kind] = mapped(score_map, products[kind] * self.factor)
        return out
