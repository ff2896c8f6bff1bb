"""Confidence intervals by resampling *subjects*: pairs and probes of one person stand and fall together.

A draw takes as many subjects as there are, with replacement; w[s] says how often s was taken.  A pair of one person
then counts w[s] times, a pair of two w[s] w[t] times, a probe w[s] times (Bolle, Ratha, Pankanti, "Error analysis of
pattern recognition systems: the subsets bootstrap", CVIU 2004).  The galleries stay as they are.  All cells of a
matrix see the same draws, so the difference of two cells has an interval of its own, narrower than theirs.
"""

import numpy as np
from scipy.sparse import csr_array

from evaluation.identification import FPIRS, RANKS, Hits
from evaluation.protocol import Pairs
from evaluation.verification import ROUNDING

TAIL = 0.15         # share of the best scores of two people that is sorted, where there are many: FARs are 0.1 at most
MANY = 1_000_000
DRAWS = 64          # that are multiplied with the counts of pairs at a time
LEVEL = 0.95


def draw_weights(subjects: int, draws: int, seed: int) -> np.ndarray:
    """int16 [draws, subjects]: how often each subject is taken."""
    draw, share = np.random.default_rng(seed), np.full(subjects, 1 / subjects)
    return np.array([draw.multinomial(subjects, share) for _ in range(draws)], np.int16).reshape(draws, subjects)


def interval(values: np.ndarray, figures: int = 1) -> tuple[float, float] | None:
    """The middle LEVEL of the draws; None without draws or where none has a figure.

    figures: wide enough that LEVEL holds for as many intervals together (Bonferroni).
    """
    values, outside = values[np.isfinite(values)], (1 - LEVEL) / figures
    return tuple(np.quantile(values, [outside / 2, 1 - outside / 2]).tolist()) if len(values) else None


class PairDraws:
    """The 1:1 protocol under every draw."""

    def __init__(self, pairs: Pairs, subjects: tuple[np.ndarray, np.ndarray], weights: np.ndarray):
        """subjects: of each gallery row and of each query row; weights: [B, S] of :func:`draw_weights`."""
        self.weights = weights
        self.same, self.different = np.flatnonzero(pairs.same), np.flatnonzero(~pairs.same)
        self.owner = subjects[0][pairs.enrol[self.same]]
        self.left, self.right = subjects[0][pairs.enrol[self.different]], subjects[1][pairs.verify[self.different]]
        count = csr_array((np.ones(len(self.different)), (self.left, self.right)), (weights.shape[1],) * 2)
        blocks = [weights[start:start + DRAWS].astype(np.float64) for start in range(0, len(weights), DRAWS)]
        self.totals = np.array([total for w in blocks for total in ((count.T @ w.T).T * w).sum(1)])     # [B] pairs of two people

    def tar(self, scores: np.ndarray, fars: np.ndarray, tail: float = TAIL) -> np.ndarray:
        """float64 [B, len(fars)]: Roc.at of metrics.py, for every draw; NaN where it took no pair of one person or of two."""
        other = scores[self.different]
        kept = len(other) if len(other) < MANY else int(tail * len(other))
        best = np.argpartition(other, -kept)[-kept:] if kept < len(other) else np.arange(kept)
        best = best[np.argsort(-other[best], kind="stable")]
        left, right, other = self.left[best], self.right[best], np.append(other[best], -np.inf)
        ascending = np.argsort(scores[self.same], kind="stable")
        mine, owner = scores[self.same][ascending], self.owner[ascending]
        out = np.full((len(self.weights), len(fars)), np.nan)
        for drawn, total, row in zip(self.weights, self.totals, out, strict=True):
            w = drawn.astype(np.float64)
            place = np.searchsorted(np.cumsum(w[left] * w[right]), np.floor(fars * total + ROUNDING), side="right")
            if kept < len(self.different) and place.max() == kept:
                return self.tar(scores, fars, 1.0)          # a draw whose threshold lies below the tail
            if total:
                row[:] = weight_above(mine, w[owner], other[place])
        return out


class SearchDraws:
    """The 1:N protocol under every draw."""

    def __init__(self, probe_subjects: np.ndarray, weights: np.ndarray):
        self.subjects, self.weights = probe_subjects, weights

    def figures(self, hits: dict[str, Hits]) -> dict[str, np.ndarray]:
        """{"top-1" ...: [B], "TPIR": [B, len(FPIRS)]} of the same probes' hits in each gallery, as search_figures has them."""
        counted = {0: sum(found.mated.astype(np.float64) for found in hits.values())}
        counted |= {k: sum((found.mated & (found.rank <= k)).astype(np.float64) for found in hits.values()) for k in RANKS}
        by_subject = {k: np.bincount(self.subjects, count, self.weights.shape[1]) for k, count in counted.items()}
        with np.errstate(invalid="ignore"):
            top = {f"top-{k}": (self.weights @ by_subject[k]) / (self.weights @ by_subject[0]) for k in RANKS}
        return top | {"TPIR": np.mean([self.tpir(found) for found in hits.values()], axis=0)}

    def tpir(self, hits: Hits) -> np.ndarray:
        """float64 [B, len(FPIRS)]: Hits.tpir of metrics.py, for every draw."""
        strangers = np.flatnonzero(~hits.mated)
        strangers = strangers[np.argsort(-hits.other[strangers], kind="stable")]
        mated = np.flatnonzero(hits.mated)
        score = np.where(hits.rank[mated] == 1, hits.mate[mated], -np.inf)      # not first: found at no threshold
        mated, score = mated[np.argsort(score, kind="stable")], np.sort(score)
        out = np.full((len(self.weights), len(FPIRS)), np.nan)
        for drawn, row in zip(self.weights, out, strict=True):
            w = drawn[self.subjects].astype(np.float64)
            below = np.cumsum(w[strangers])
            if len(below) and below[-1] > 0:
                allowed = np.maximum(np.floor(below[-1] * FPIRS + ROUNDING) - 1, 0)
                threshold = hits.other[strangers][np.searchsorted(below, allowed, side="right")]
                row[:] = weight_above(score, w[mated], threshold)
        return out


def weight_above(ascending: np.ndarray, weights: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of the weight whose score lies above each threshold; NaN where there is no weight."""
    below = np.append(0, np.cumsum(weights))
    if below[-1] == 0:
        return np.full(len(thresholds), np.nan)
    return 1 - below[np.searchsorted(ascending, thresholds, side="right")] / below[-1]
