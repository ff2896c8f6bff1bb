"""Judgement of an upgrade from the cells M(q, g) of the matrix (cells.py); o: old, n: new, p: paragon.

The cell M(n, o), new queries on the old gallery, is called ``cross``.

criterion       M(n, o) > M(o, o)                                                       (BCT, CVPR 2020)
verdict         from the 95 % bootstrap interval of M(n, o) - M(o, o): "better" if it is above 0, "worse" if it is below 0,
                otherwise "undecided". Both cells use the same bootstrap samples, so the difference can be better or worse
                although the intervals of the two cells overlap
overall         the verdicts on the figures that rest on enough errors and subjects, from wider intervals that hold for all of
                them together: with ten independent figures, a 95 % interval excludes 0 by chance in 40 % of the cases
update gain     G = [M(n, o) - M(o, o)] / [M(p, p) - M(o, o)]                           (BCT, Eq. 9)
P_comp          100 mean of sigmoid(G_j) over the figures j
P_up            100 mean of sigmoid([M(n, n) - M(p, p)] / M(p, p))
P_1             harmonic mean of P_comp and P_up                                        (AdvBCT, CVPR 2023)
AC              share of the ordered pairs (newer i, older j) with M(i, j) > M(j, j)    (CL2R, PAMI 2023)
negative flip   right with old queries, wrong with new ones; positive flip: the reverse (RACT, ICLR 2022)
"""

from collections.abc import Collection

import numpy as np

from evaluation.bootstrap import interval
from evaluation.cells import Cell
from evaluation.evaluation_set import Evaluation
from evaluation.formats import rate
from evaluation.identification import FPIRS, Hits
from evaluation.verification import FARS, ROUNDING, Roc

BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"
COMPATIBLE, INCOMPATIBLE, CONTRADICTORY = "compatible", "not compatible", "better in some, worse in others"


def compare_cells(cross: Cell, old: Cell, reliable: Collection[str], few: Collection[str] = ()) -> dict[str, dict]:
    """M(n, o) against M(o, o): {metric: criterion, difference and its interval, verdict, and the verdict for ``overall``}.

    reliable: the metrics that count for the overall verdict; few: those that rest on too few subjects for any verdict.
    """
    out, figures = {}, max(1, len(reliable))
    for metric, value in cross.values.items():
        difference = value - old.values[metric]
        samples = cross.draws[metric] - old.draws[metric] if metric in cross.draws else np.zeros(0)
        alone, together = interval(samples), interval(samples, figures)
        out[metric] = {"criterion": bool(difference > 0), "difference": difference, "interval": alone,
                       "verdict": UNDECIDED if metric in few else verdict(difference, alone),
                       "overall": verdict(difference, together) if metric in reliable else None}
    return out


def verdict(difference: float, span: tuple[float, float] | None) -> str:
    """BETTER, WORSE or UNDECIDED from the interval; without an interval the sign of the difference decides."""
    low, high = span or (difference, difference)
    return BETTER if low > 0 else WORSE if high < 0 else UNDECIDED


def overall(compared: dict[str, dict]) -> str:
    """The verdict on all figures together, from those that count."""
    verdicts = [entry["overall"] for entry in compared.values()]
    if BETTER in verdicts:
        return CONTRADICTORY if WORSE in verdicts else COMPATIBLE
    return INCOMPATIBLE if WORSE in verdicts else UNDECIDED


def update_gain(cross: Cell, old: Cell, paragon: Cell) -> dict[str, float]:
    """{metric: G}; NaN if the paragon is not better than the old model, because then there is nothing to gain."""
    out = {}
    for metric, value in cross.values.items():
        start, full = old.values[metric], paragon.values[metric]
        out[metric] = (value - start) / (full - start) if full > start else np.nan
    return out


def p_scores(gains: dict[str, float], new: Cell, paragon: Cell) -> dict[str, float]:
    """P_comp, P_up and P_1 over the metrics with a finite gain; NaN if there are none."""
    metrics = [metric for metric, gain in gains.items() if np.isfinite(gain) and paragon.values[metric] > 0]
    if not metrics:
        return dict.fromkeys(("P_comp", "P_up", "P_1"), np.nan)
    comp = 100 * np.mean([sigmoid(gains[m]) for m in metrics])
    up = 100 * np.mean([sigmoid((new.values[m] - paragon.values[m]) / paragon.values[m]) for m in metrics])
    return {"P_comp": float(comp), "P_up": float(up), "P_1": float(2 * comp * up / (comp + up))}


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(x / 2))


def average_compatibility(matrix: dict[tuple[str, str], Cell], versions: list[str], metric: str) -> float:
    """AC of a sequence of versions, oldest first, in one metric.

    matrix: {(query, gallery): cell}; a pair without a cell (other dimensions) counts as not compatible.
    """
    pairs = [(newer, older) for i, newer in enumerate(versions) for older in versions[:i]]
    holds = [(pair in matrix and matrix[pair].values[metric] > matrix[pair[1], pair[1]].values[metric]) for pair in pairs]
    return float(np.mean(holds))


def fixed_threshold(evaluation: Evaluation, old: Cell, cross: Cell) -> dict[str, list[dict]]:
    """New queries on the old gallery at the thresholds that give the old system FAR x (1:1) and FPIR x (1:N).

    {"1:1": a row for each FAR, "1:N": a row for each FPIR}. In a row, "old" and "mixed" are TAR or TPIR of old and of new
    queries at the old threshold, "old rate" and "mixed rate" their FAR or FPIR, "errors" the false accepts of new queries "of"
    so many, and "new threshold" the one that gives new queries the rate x. 1:N has both thresholds for each gallery. There
    "old rate" is one false accept below x, because a score equal to the threshold is not accepted.
    """
    out: dict[str, list[dict]] = {"1:1": [], "1:N": []}
    if evaluation.pairs is not None:
        assert old.scores is not None and cross.scores is not None, "cells on the old gallery keep the scores of pairs"
        before, after = (Roc.of(scores, evaluation.pairs.same) for scores in (old.scores, cross.scores))
        for far, old_tar, threshold, new in zip(FARS, *before.at(FARS), after.at(FARS)[1], strict=True):
            if far * len(before.different) + ROUNDING >= 1:
                accepted = [int((side > threshold).sum()) for side in (after.same, after.different)]
                out["1:1"].append({"rate": rate(far), "threshold": threshold, "new threshold": new, "old": old_tar,
                                   "old rate": (before.different > threshold).mean(),
                                   "mixed": accepted[0] / len(after.same), "mixed rate": accepted[1] / len(after.different),
                                   "errors": accepted[1], "of": len(after.different)})
    nonmated = evaluation.negatives()["1:N"]
    for k, fpir in enumerate(FPIRS):
        if fpir < 1 and fpir * nonmated + ROUNDING >= 1:
            every = [at_threshold(old.hits[name], cross.hits[name], k) for name in old.hits]
            rows = [row for row in every if row is not None]
            if len(rows) == len(every):
                out["1:N"].append({"rate": rate(fpir)}
                                  | {key: [row[key] for row in rows] for key in ("threshold", "new threshold")}
                                  | {key: float(np.mean([row[key] for row in rows]))
                                     for key in ("old", "old rate", "mixed", "mixed rate")}
                                  | {key: sum(row[key] for row in rows) for key in ("errors", "of")})
    return out


def at_threshold(old: Hits, cross: Hits, k: int) -> dict | None:
    """The 1:N row of one gallery at the old system's threshold for FPIRS[k]; None if there is no such threshold."""
    tpir, threshold = (values[k] for values in old.tpir(FPIRS))
    if not np.isfinite(threshold):
        return None
    hit, alarms = cross.mate[cross.rank == 1] > threshold, cross.other[~cross.mated] > threshold
    return {"threshold": threshold, "new threshold": cross.tpir(FPIRS)[1][k], "old": tpir,
            "old rate": (old.other[~old.mated] > threshold).mean(),
            "mixed": hit.sum() / cross.mated.sum(), "mixed rate": alarms.mean(), "errors": int(alarms.sum()), "of": len(alarms)}


def flips(evaluation: Evaluation, old: Cell, cross: Cell, far: str | None, fpir: str | None) -> tuple[dict, list[dict]]:
    """({kind of decision: counts}, a row for each flip of a probe in a gallery).

    Kinds, with thresholds of the old system: "top-1" (the mate is first); "FPIR x, mated probes" (the mate is first and above
    the threshold); "FPIR x, non-mated probes" (nobody is above it); "FAR x, genuine pairs" and "FAR x, impostor pairs" (accepted
    and not accepted), which are counted but not listed.  far, fpir: x as text; None: leave that kind out.
    """
    counts: dict[str, dict[str, int]] = {}
    rows = []
    probes = evaluation.search.probes
    for name, before in old.hits.items():
        after, judged = cross.hits[name], {"top-1": (before.mated, before.rank == 1, cross.hits[name].rank == 1)}
        threshold = before.tpir(np.array([float(fpir)]))[1][0] if fpir else np.nan
        if np.isfinite(threshold):
            was, now = right(before, threshold), right(after, threshold)
            judged |= {f"FPIR {fpir}, mated probes": (before.mated, was, now),
                       f"FPIR {fpir}, non-mated probes": (~before.mated, was, now)}
        for kind, (counted, was, now) in judged.items():
            add_counts(counts, kind, counted, was, now)
            for i in np.flatnonzero(counted & (was != now)):
                rows.append({"judged by": kind, "flip": "negative" if was[i] else "positive", "gallery": name,
                             "probe": int(evaluation.ids[1][probes.templates[i]]), "subject": int(probes.subjects[i]),
                             "mated": bool(before.mated[i]), "old rank": int(before.rank[i]), "new rank": int(after.rank[i]),
                             **{f"{side} {score}": round(float(getattr(hits, score)[i]), 5)
                                for score in ("mate", "other") for side, hits in (("old", before), ("new", after))}})
    if evaluation.pairs is not None and far:
        assert old.scores is not None and cross.scores is not None, "cells on the old gallery keep the scores of pairs"
        same = evaluation.pairs.same
        threshold = Roc.of(old.scores, same).at(np.array([float(far)]))[1][0]
        was, now = ((scores > threshold) == same for scores in (old.scores, cross.scores))
        add_counts(counts, f"FAR {far}, genuine pairs", same, was, now)
        add_counts(counts, f"FAR {far}, impostor pairs", ~same, was, now)
    return counts, rows


def right(hits: Hits, threshold: float) -> np.ndarray:
    """Which probes are decided right at a threshold, bool [n]."""
    return np.where(hits.mated, (hits.rank == 1) & (hits.mate > threshold), hits.other <= threshold)


def add_counts(counts: dict[str, dict[str, int]], kind: str, counted: np.ndarray, was: np.ndarray, now: np.ndarray) -> None:
    """Add one gallery's decisions to the counts of this kind.  counted, was, now: bool, in it, right before, right now."""
    entry = counts.setdefault(kind, {"decisions": 0, "negative": 0, "positive": 0})
    entry["decisions"] += int(counted.sum())
    entry["negative"] += int((counted & was & ~now).sum())
    entry["positive"] += int((counted & ~was & now).sum())
