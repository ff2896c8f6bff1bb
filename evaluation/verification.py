"""Verification (1:1): cosines of the pairs of templates, and the ROC.

Every function takes the *gallery side* first (enrolled templates; the old model's in a cross test), then the *query side*
(verified templates; always the new model's): one call is one cell of a compatibility matrix. Features are rows [T, d] of any
length, in memory or mapped from a file; only their direction counts. A genuine pair shows one subject, an impostor pair two.
Figures are shares in [0, 1]; a figure is NaN if the data does not support it (a FAR below 1 / impostor pairs).
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from evaluation.protocol import Pairs

FARS = np.array([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])       # false accept rates of the 1:1 table
CURVE_FARS = np.logspace(-6, 0, 241)                        # those of the curve in the plots
SIMILARITIES_PER_BLOCK = 40_000_000     # cosines computed at a time by a product of matrices: 160 MB in float32
MAX_SIMILARITIES_PER_PAIR = 64          # with more of them per pair, the pairs are computed one by one
PAIRS_PER_BLOCK = 16_384                # ... and that many at a time
TIE_TOLERANCE = 1e-6        # cosines that differ by less are a tie: float32 sums depend on their order
ROUNDING = 1e-9             # added before rounding down: 0.29 * 100 is 28.999999999999996 in binary, but 29 errors are allowed


class Rows(Protocol):
    """Features [T, d] whose rows are read a block at a time: an array, a memory map, or rows that are computed on demand."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows, /) -> np.ndarray: ...


def pair_scores(gallery: Rows, query: Rows, pairs: Pairs, dtype: type = np.float32) -> np.ndarray:
    """Cosine of each pair, [P], computed in ``dtype``; -inf if it is never matched.  gallery, query: rows [T, d]."""
    scores = cosines(gallery, query, pairs, dtype)
    if pairs.never is not None:
        scores[pairs.never] = -np.inf
    return scores


def cosines(gallery: Rows, query: Rows, pairs: Pairs, dtype: type) -> np.ndarray:
    """Cosine of each pair, [P], computed in ``dtype``.

    IJB-C's 15.7 M pairs share 3,531 x 19,593 templates: the product of all gallery rows with all query rows is computed in
    blocks and the pairs are picked from it. That reads 50 MB of features instead of 64 GB. If there are few pairs for their
    number of rows, they are computed one by one.
    """
    gallery_rows, row = used_rows(pairs.enrol, len(gallery))
    query_rows, column = used_rows(pairs.verify, len(query))
    scores: np.ndarray = np.empty(len(row), dtype)
    if len(gallery_rows) * len(query_rows) > MAX_SIMILARITIES_PER_PAIR * len(row):
        for start in range(0, len(row), PAIRS_PER_BLOCK):
            part = slice(start, start + PAIRS_PER_BLOCK)
            pair = unit_rows(gallery, pairs.enrol[part], dtype), unit_rows(query, pairs.verify[part], dtype)
            scores[part] = np.einsum("nd,nd->n", *pair)
        return scores
    queries = unit_rows(query, query_rows, dtype).T
    step = max(1, SIMILARITIES_PER_BLOCK // len(query_rows))
    for start in range(0, len(gallery_rows), step):
        product = unit_rows(gallery, gallery_rows[start:start + step], dtype) @ queries
        chosen = np.flatnonzero((row >= start) & (row < start + step))
        scores[chosen] = product.take((row[chosen] - start) * np.int64(len(query_rows)) + column[chosen])
    return scores


def unit_rows(features: Rows, rows: np.ndarray | slice, dtype: type = np.float32) -> np.ndarray:
    """``features[rows]`` scaled to norm 1, [n, d], in ``dtype``; a row of zeros stays zero."""
    chosen: np.ndarray = features[rows].astype(dtype, copy=False)
    return chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)


def above(scores: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """Which scores are accepted at a threshold, bool: those above it by more than a tie."""
    return scores > threshold + TIE_TOLERANCE


def used_rows(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(the distinct values in ``rows``, ascending; the place of each entry of ``rows`` among them, int32).

    rows: ints in [0, count).
    """
    used = np.zeros(count, bool)
    used[rows] = True
    return np.flatnonzero(used), (np.cumsum(used, dtype=np.int32) - 1)[rows]


@dataclass(frozen=True)
class Roc:
    """Scores of the genuine and of the impostor pairs, each ascending."""

    same: np.ndarray
    different: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, same: np.ndarray) -> "Roc":
        return cls(np.sort(scores[same]), np.sort(scores[~same]))

    def at(self, fars: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(TAR, threshold) for each FAR: the largest TAR with a share of false accepts <= FAR.

        A pair is accepted if its score is *above* the threshold (:func:`above`). If k false accepts are allowed, the threshold
        is the (k+1)-th largest score of the impostor pairs, or -inf if there are no more than k.
        """
        n = len(self.different)
        allowed = np.floor(fars * n + ROUNDING).astype(np.int64)
        threshold = np.where(allowed < n, self.different[np.maximum(n - 1 - allowed, 0)], -np.inf)
        accepted = len(self.same) - np.searchsorted(self.same, threshold + TIE_TOLERANCE, side="right")
        return accepted / len(self.same), threshold

    def auc(self) -> float:
        """Probability that a genuine pair has a higher score than an impostor pair; a tie counts half."""
        below = np.searchsorted(self.different, self.same - TIE_TOLERANCE, side="left").astype(np.float64)
        not_above = np.searchsorted(self.different, self.same + TIE_TOLERANCE, side="right")
        return float((below + not_above).mean() / 2 / len(self.different))


def public_roc(scores: np.ndarray, same: np.ndarray, fars: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """(TAR for each FAR, threshold for each FAR, AUC) as the public evaluators read them from scikit-learn's *thinned* curve.

    TAR is that of the point with the nearest FAR. In a small data set this is optimistic, because the nearest FAR may be a
    larger one; at IJB-C's size it agrees with :meth:`Roc.at`.
    """
    from sklearn.metrics import auc, roc_curve  # imported here: it takes a second, and only this function needs it

    far, tar, threshold = roc_curve(same, scores)
    # Searched from the end: of several points with the same FAR, the one with the largest TAR.
    nearest = len(far) - 1 - np.array([np.abs(far[::-1] - x).argmin() for x in fars])
    return tar[nearest], threshold[nearest], float(auc(far, tar))


def one_to_one(gallery: Rows, query: Rows, pairs: Pairs, public: bool = False) -> tuple[dict, dict]:
    """(figures for tables and JSON, arrays for plots and the result file) of the 1:1 protocol.

    public: TAR, thresholds and AUC of :func:`public_roc`, without NaN. The scores are then float64 as in the public
    evaluators: if float32 rounds two scores to the same value, two points of the curve become one, and thinning leaves others.
    """
    scores = pair_scores(gallery, query, pairs, np.float64 if public else np.float32)
    roc = Roc.of(scores, pairs.same)
    if public:
        tar, threshold, area = public_roc(scores, pairs.same, FARS)
    else:
        tar, threshold = (nan_unless_supported(x, FARS, len(roc.different)) for x in roc.at(FARS))
        area = roc.auc()
    figures = {"FAR": FARS, "TAR": tar, "threshold": threshold, "auc": area,
               "same": len(roc.same), "different": len(roc.different)}
    curve = nan_unless_supported(roc.at(CURVE_FARS)[0], CURVE_FARS, len(roc.different))
    return figures, {"scores": scores, "far": CURVE_FARS, "tar": curve, "frr": 1 - curve}


def nan_unless_supported(values: np.ndarray, rates: np.ndarray, negatives: int) -> np.ndarray:
    """``values``, but NaN if their rate (FAR, FPIR) is below 1 / ``negatives``: the data has no such operating point."""
    return np.where(rates * negatives + ROUNDING < 1, np.nan, values)
