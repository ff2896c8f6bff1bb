"""Verification (1:1): scores of pairs and the ROC."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from evaluation.protocol import Pairs

FARS = np.array([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])       # false accept rates of the 1:1 table
CURVE_FARS = np.logspace(-6, 0, 241)
CELLS = 40_000_000          # similarities of pairs per block: 160 MB
SPARSE = 64                 # similarities per pair from which on the pairs are computed one by one
ENTRIES = 16_384            # rows of a gallery per block of a search ...
ROUNDING = 1e-9             # 3000 * 0.001 is 3 false accepts, not the 2.9999999999999996 of binary fractions


class Rows(Protocol):
    """Features [T, d] whose rows are read a block at a time: an array, a memory map, or rows that are computed on demand."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows, /) -> np.ndarray: ...


def pair_scores(gallery: Rows, query: Rows, pairs: Pairs, dtype: type = np.float32) -> np.ndarray:
    """Cosine of each pair, [P], computed in ``dtype``; gallery, query: rows [T, d] of all templates.

    IJB-C's 15.7 M pairs share 3,531 x 19,593 templates: the whole product of matrices is computed, in blocks,
    and the pairs are picked from it.  That reads 50 MB of features instead of 64 GB.  Pairs that are few among
    their rows are computed one by one.
    """
    left, row = used_rows(pairs.enrol, len(gallery))
    right, column = used_rows(pairs.verify, len(query))
    scores: np.ndarray = np.empty(len(row), dtype)
    if len(left) * len(right) > SPARSE * len(row):
        for start in range(0, len(row), ENTRIES):
            part = slice(start, start + ENTRIES)
            pair = unit_rows(gallery, pairs.enrol[part], dtype), unit_rows(query, pairs.verify[part], dtype)
            scores[part] = np.einsum("nd,nd->n", *pair)
        return scores
    across = unit_rows(query, right, dtype).T
    step = max(1, CELLS // len(right))
    for start in range(0, len(left), step):
        product = unit_rows(gallery, left[start:start + step], dtype) @ across
        here = np.flatnonzero((row >= start) & (row < start + step))
        scores[here] = product.take((row[here] - start) * np.int64(len(right)) + column[here])
    return scores


def unit_rows(features: Rows, rows: np.ndarray | slice, dtype: type = np.float32) -> np.ndarray:
    """These rows with norm 1, in ``dtype``."""
    chosen: np.ndarray = features[rows].astype(dtype, copy=False)
    return chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)


def used_rows(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(the distinct values of rows, ascending; each row's place among them, int32), for 0 <= rows < count."""
    used = np.zeros(count, bool)
    used[rows] = True
    return np.flatnonzero(used), (np.cumsum(used, dtype=np.int32) - 1)[rows]


@dataclass(frozen=True)
class Roc:
    """Scores of the pairs of one person and of two, float32, each ascending."""

    same: np.ndarray
    different: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, same: np.ndarray) -> "Roc":
        return cls(np.sort(scores[same]), np.sort(scores[~same]))

    def at(self, fars: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(TAR, threshold) per FAR: the largest TAR whose share of false accepts is <= FAR.

        With k false accepts allowed, the threshold is the (k+1)-th largest score of two people, or -inf; a
        pair is accepted *above* it.
        """
        n = len(self.different)
        allowed = np.floor(fars * n + ROUNDING).astype(np.int64)
        threshold = np.where(allowed < n, self.different[np.maximum(n - 1 - allowed, 0)], -np.inf)
        accepted = len(self.same) - np.searchsorted(self.same, threshold, side="right")
        return accepted / len(self.same), threshold

    def auc(self) -> float:
        """Probability that a pair of one person scores higher than one of two; a tie counts half."""
        below = np.searchsorted(self.different, self.same, side="left").astype(np.float64)
        not_above = np.searchsorted(self.different, self.same, side="right")
        return float((below + not_above).mean() / 2 / len(self.different))


def public_roc(scores: np.ndarray, same: np.ndarray, fars: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """(TAR, threshold, AUC) as the public evaluators read them, from scikit-learn's *thinned* curve.

    The nearest point flatters small sets (its FAR may be a larger one); the same as :meth:`Roc.at` at IJB-C's
    size.
    """
    from sklearn.metrics import auc, roc_curve  # its import takes a second, which only this reading needs

    far, tar, threshold = roc_curve(same, scores)
    # From the end: of several points with the same FAR the one with the largest TAR.
    nearest = len(far) - 1 - np.array([np.abs(far[::-1] - x).argmin() for x in fars])
    return tar[nearest], threshold[nearest], float(auc(far, tar))


def one_to_one(gallery: Rows, query: Rows, pairs: Pairs, public: bool = False) -> tuple[dict, dict]:
    """(figures for tables and JSON, arrays for plots and later tools) of the 1:1 protocol.

    public: read as :func:`public_roc` does, from float64 scores as the public evaluators have them: scores that float32
    makes equal join several points of the curve into one, which changes the thinned curve.
    """
    scores = pair_scores(gallery, query, pairs, np.float64 if public else np.float32)
    roc = Roc.of(scores, pairs.same)
    if public:
        tar, threshold, area = public_roc(scores, pairs.same, FARS)
    else:
        tar, threshold = (answerable(x, FARS, len(roc.different)) for x in roc.at(FARS))
        area = roc.auc()
    figures = {"FAR": FARS, "TAR": tar, "threshold": threshold, "auc": area,
               "same": len(roc.same), "different": len(roc.different)}
    curve = answerable(roc.at(CURVE_FARS)[0], CURVE_FARS, len(roc.different))
    return figures, {"scores": scores, "far": CURVE_FARS, "tar": curve, "frr": 1 - curve}


def answerable(values: np.ndarray, rates: np.ndarray, negatives: int) -> np.ndarray:
    """``values``, NaN where ``rate`` is below one of the negatives: the data has no such operating point."""
    return np.where(rates * negatives + ROUNDING < 1, np.nan, values)
