"""Confidence intervals by resampling *subjects*: all pairs and probes of a subject are drawn together.

A bootstrap sample has as many subjects as the data, drawn with replacement; its weight w[s] says how often subject s was
drawn. In a sample a genuine pair counts w[s] times, an impostor pair w[s] w[t] times and a probe w[s] times (Bolle, Ratha,
Pankanti, "Error analysis of pattern recognition systems: the subsets bootstrap", CVIU 2004). The galleries stay complete.
All cells of a matrix use the same samples, so the difference of two cells has an interval of its own, which is narrower than
theirs.
"""

import numpy as np
from scipy.sparse import csr_array

from evaluation.identification import FPIRS, RANKS, Hits
from evaluation.protocol import Pairs
from evaluation.verification import ROUNDING, TIE_TOLERANCE

TAIL_SHARE = 0.15               # share of the impostor pairs, the highest scores, that is sorted: the largest FAR is 0.1
MIN_PAIRS_FOR_TAIL = 1_000_000  # impostor pairs; all are sorted if there are fewer
SAMPLES_PER_BLOCK = 64          # bootstrap samples multiplied with the counts of pairs at a time
CONFIDENCE = 0.95


def draw_weights(subjects: int, draws: int, seed: int) -> np.ndarray:
    """Weights of ``draws`` bootstrap samples, int16 [draws, subjects]: how often each subject was drawn."""
    generator, share = np.random.default_rng(seed), np.full(subjects, 1 / subjects)
    return np.array([generator.multinomial(subjects, share) for _ in range(draws)], np.int16).reshape(draws, subjects)


def interval(values: np.ndarray, figures: int = 1) -> tuple[float, float] | None:
    """The CONFIDENCE interval of a figure from its values [B] in the samples, NaN left out; None if no value is finite.

    figures: how many intervals are to hold together (Bonferroni); each one becomes wider.
    """
    values, outside = values[np.isfinite(values)], (1 - CONFIDENCE) / figures
    return tuple(np.quantile(values, [outside / 2, 1 - outside / 2]).tolist()) if len(values) else None


class PairDraws:
    """TAR at given FARs in every bootstrap sample."""

    def __init__(self, pairs: Pairs, subjects: tuple[np.ndarray, np.ndarray], weights: np.ndarray):
        """subjects: those of the gallery rows [G] and of the query rows [Q]; weights: [B, S] of :func:`draw_weights`."""
        self.weights = weights
        self.same, self.different = np.flatnonzero(pairs.same), np.flatnonzero(~pairs.same)
        self.owner = subjects[0][pairs.enrol[self.same]]
        self.gallery_subject = subjects[0][pairs.enrol[self.different]]         # [impostor pairs], the subject on either side
        self.query_subject = subjects[1][pairs.verify[self.different]]
        count = csr_array((np.ones(len(self.different)), (self.gallery_subject, self.query_subject)), (weights.shape[1],) * 2)
        starts = range(0, len(weights), SAMPLES_PER_BLOCK)
        blocks = [weights[start:start + SAMPLES_PER_BLOCK].astype(np.float64) for start in starts]
        self.totals = np.array([total for w in blocks for total in ((count.T @ w.T).T * w).sum(1)])     # [B] impostor pairs

    def at(self, scores: np.ndarray, fars: np.ndarray, tail: float = TAIL_SHARE) -> tuple[np.ndarray, np.ndarray]:
        """(TAR, threshold) as verification.Roc.at computes them, in every sample: float64 [B, len(fars)].

        NaN in samples without a genuine or without an impostor pair.  scores: [P]; tail: see TAIL_SHARE.
        """
        other = scores[self.different]
        kept = len(other) if len(other) < MIN_PAIRS_FOR_TAIL else int(tail * len(other))
        best = np.argpartition(other, -kept)[-kept:] if kept < len(other) else np.arange(kept)
        best = best[np.argsort(-other[best], kind="stable")]
        one, two, other = self.gallery_subject[best], self.query_subject[best], np.append(other[best], -np.inf)
        ascending = np.argsort(scores[self.same], kind="stable")
        mine, owner = scores[self.same][ascending], self.owner[ascending]
        out, limits = (np.full((len(self.weights), len(fars)), np.nan) for _ in range(2))
        for weights, total, row, limit in zip(self.weights, self.totals, out, limits, strict=True):
            w = weights.astype(np.float64)
            place = np.searchsorted(np.cumsum(w[one] * w[two]), np.floor(fars * total + ROUNDING), side="right")
            if kept < len(self.different) and place.max() == kept:
                return self.at(scores, fars, 1.0)           # the threshold of a sample is below the tail
            if total:
                limit[:] = other[place]
                row[:] = weight_above(mine, w[owner], limit)
        return out, limits


class SearchDraws:
    """Top-k and TPIR in every bootstrap sample."""

    def __init__(self, probe_subjects: np.ndarray, weights: np.ndarray):
        """probe_subjects: [n], the subject of each probe; weights: [B, S] of :func:`draw_weights`."""
        self.subjects, self.weights = probe_subjects, weights

    def figures(self, hits: dict[str, Hits]) -> dict[str, np.ndarray]:
        """The figures of identification.search_figures in every sample: {"top-1", ...: [B], "TPIR": [B, len(FPIRS)]}.

        "threshold" are those of TPIR, [B, len(FPIRS)], means over the galleries.  hits: of the same probes in each gallery.
        """
        counted = {0: sum(single.mated.astype(np.float64) for single in hits.values())}
        counted |= {k: sum((single.mated & (single.rank <= k)).astype(np.float64) for single in hits.values()) for k in RANKS}
        by_subject = {k: np.bincount(self.subjects, count, self.weights.shape[1]) for k, count in counted.items()}
        with np.errstate(invalid="ignore"):
            top = {f"top-{k}": (self.weights @ by_subject[k]) / (self.weights @ by_subject[0]) for k in RANKS}
        tpir, threshold = np.mean([self.at(single) for single in hits.values()], axis=0)
        return top | {"TPIR": tpir, "threshold": threshold}

    def at(self, hits: Hits) -> tuple[np.ndarray, np.ndarray]:
        """(TPIR, threshold) as Hits.tpir computes them, in every sample: float64 [B, len(FPIRS)]; NaN without mated or non-mated
        probes."""
        nonmated = np.flatnonzero(hits.nonmated)
        nonmated = nonmated[np.argsort(-hits.other[nonmated], kind="stable")]
        mated = np.flatnonzero(hits.mated)
        score = np.where(hits.rank[mated] == 1, hits.mate[mated], -np.inf)      # not at rank 1: identified at no threshold
        mated, score = mated[np.argsort(score, kind="stable")], np.sort(score)
        out, limits = (np.full((len(self.weights), len(FPIRS)), np.nan) for _ in range(2))
        for weights, row, limit in zip(self.weights, out, limits, strict=True):
            w = weights[self.subjects].astype(np.float64)
            below = np.cumsum(w[nonmated])
            if len(below) and below[-1] > 0:
                allowed = np.maximum(np.floor(below[-1] * FPIRS + ROUNDING) - 1, 0)
                limit[:] = hits.other[nonmated][np.searchsorted(below, allowed, side="right")]
                row[:] = weight_above(score, w[mated], limit)
        return out, limits


def weight_above(ascending: np.ndarray, weights: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of the weight whose score is above each threshold; NaN if all weights are 0.  ascending: scores, sorted."""
    below = np.append(0, np.cumsum(weights))
    if below[-1] == 0:
        return np.full(len(thresholds), np.nan)
    return 1 - below[np.searchsorted(ascending, thresholds + TIE_TOLERANCE, side="right")] / below[-1]
