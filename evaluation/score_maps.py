"""Score maps: scores of two kinds of entries, old and re-embedded, on one scale, so that hits of both can be merged.

A score s becomes -log10 of its false accept rate, the share of impostor pairs that reach s. The map is fitted on impostor scores
only, which any gallery has: its entries of different people, each image as a query against the other entries. Up to u, the score
that TAIL_SHARE of the impostors exceed, the rate is counted; above it has an exponential tail, whose scale is the mean excess:

    FAR(u + y) = FAR(u) exp(-y / mean(s - u | s > u))       a straight line in -log10, for any score

A generalised Pareto tail, z-norm and logistic regression were tried: docs/upgrade.md has the figures.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaluation.verification import Rows, unit_rows
from evaluation.version_features import Features
from serving.upgrade import ScoreMap

TAIL_SHARE, MIN_TAIL, MAX_TAIL = 0.01, 30, 2_000        # impostor scores in the tail: a share of all, and its limits
KNOTS = 64                  # of the counted part
MIN_IMPOSTORS = 1_000       # scores for a map
CELLS = 1_024, 16_384, 262_144      # of last_reached
MAX_ENTRIES = 2_000         # gallery rows that are compared with each other: at most 4 million scores


def own_impostors(entries: Rows, queries: Rows, rows: np.ndarray, subjects: np.ndarray, seed: int = 0) -> np.ndarray:
    """Scores of the queries ``rows`` with the entries ``rows`` of other people, float32 [n], of at most MAX_ENTRIES rows.

    entries, queries: row i is the stored entry i, and what a query by the same image is against it; subjects: of all rows.
    """
    if len(rows) > MAX_ENTRIES:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_ENTRIES, replace=False))
    scores = unit_rows(queries, rows) @ unit_rows(entries, rows).T
    return scores[subjects[rows][:, None] != subjects[rows]]


def impostors_between(asking: Features, entries: Features, rows: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """:func:`own_impostors` of queries of a version with entries of the old version, or (``asking is entries``) with its own."""
    if asking is entries:
        return own_impostors(entries.gallery, entries.gallery, rows, subjects)
    compared = asking.against(entries)
    return own_impostors(compared[0] if compared else entries.gallery, asking.own_against(entries), rows, subjects)


def score_maps(old: Features, new: Features, rows: np.ndarray, subjects: np.ndarray) -> tuple[ScoreMap, ScoreMap] | None:
    """The maps of new queries with old entries and with re-embedded ones, from the gallery's ``rows``; None: too few of them."""
    on_old, on_new = (fit_score_map(impostors_between(new, entries, rows, subjects)) for entries in (old, new))
    return None if on_old is None or on_new is None else (on_old, on_new)


def fit_score_map(impostors: np.ndarray) -> ScoreMap | None:
    """The map of impostor scores [n]; None if there are fewer than MIN_IMPOSTORS or they hardly differ."""
    scores = np.sort(impostors.astype(np.float64))
    n = len(scores)
    if n < MIN_IMPOSTORS:
        return None
    m = int(np.clip(TAIL_SHARE * n, MIN_TAIL, MAX_TAIL))
    reached = np.round(np.geomspace(m + 1, n, KNOTS)).astype(int)       # so many scores reach a knot; the first one is u
    knots = np.unique(scores[n - reached])
    rates = 1 - np.searchsorted(scores, knots, side="left") / n
    excess = scores[n - m:].mean() - knots[-1]
    if len(knots) < 2 or excess <= 0:
        return None
    return ScoreMap(knots, -np.log10(rates), 1 / excess / np.log(10))


def mapped(score_map: ScoreMap, scores: Tensor) -> Tensor:
    """``score_map`` of a tensor, on its device and in its precision; -inf stays -inf."""
    knots, values = (torch.as_tensor(array, dtype=scores.dtype, device=scores.device)
                     for array in (score_map.scores, score_map.values))
    slopes = torch.cat([values.diff() / knots.diff(), values.new_tensor([score_map.slope])])
    place = last_reached(knots, scores)
    above = scores.flatten().sub(knots[place]).clamp_(min=0).mul_(slopes[place]).add_(values[place])
    return above.view(scores.shape).masked_fill_(scores == -torch.inf, -torch.inf)


def last_reached(knots: Tensor, scores: Tensor) -> Tensor:
    """Number of the last of the ascending ``knots`` that each score reaches, 0 if none; integers [n] for n scores of any shape.

    Equal cells, each with one knot at most, are 20 times as fast as a binary search: a score's cell tells which knots are below
    it but for one, with which it is compared.  So it is in rounded numbers, too: a cell never falls while the score rises.
    """
    flat = scores.flatten()
    for cells in CELLS:
        scale = (cells - 1) / (knots[-1] - knots[0])
        own = (knots - knots[0]).mul_(scale).int()
        if len(own.unique()) == len(knots):
            below = torch.searchsorted(own, torch.arange(cells, dtype=torch.int32, device=knots.device), out_int32=True)
            reached = below[flat.sub(knots[0]).mul_(scale).clamp_(0, cells - 1).int()]      # knots in lower cells
            reached += flat >= torch.cat([knots, knots.new_tensor([torch.nan])])[reached]
            return reached.sub_(1).clamp_(min=0)
    return (torch.searchsorted(knots, flat, right=True) - 1).clamp_(min=0)


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
