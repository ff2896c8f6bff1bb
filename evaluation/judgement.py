"""What the cells of the matrix say about an upgrade.  o: old, n: new, p: paragon; M(q, g) as in cells.py.

criterion       M(n, o) > M(o, o)                                                       (BCT, CVPR 2020)
verdict         "better" or "worse" when the middle 95 % of the draws of M(n, o) - M(o, o) lie on one side of 0, else
                "not distinguishable": the draws are the same for both cells, so this sees more than two intervals that
                overlap
overall         the same for the figures that rest on enough errors and subjects, with intervals wide enough for all of
                them together: of ten independent figures some one leaves 0 by chance in 40 % of cases
update gain     G = [M(n, o) - M(o, o)] / [M(p, p) - M(o, o)]                           (BCT, Eq. 9)
P_comp          100 mean of sigmoid(G_j) over the figures j
P_up            100 mean of sigmoid([M(n, n) - M(p, p)] / M(p, p))
P_1             harmonic mean of the two                                                (AdvBCT, CVPR 2023)
AC              share of the ordered pairs (newer i, older j) with M(i, j) > M(j, j)    (CL2R, PAMI 2023)
negative flip   right with old queries, wrong with new ones; positive: the reverse      (RACT, ICLR 2022)
"""

from collections.abc import Collection

import numpy as np

from evaluation.bootstrap import interval
from evaluation.cells import Cell
from evaluation.evaluation_set import Evaluation
from evaluation.formats import rate
from evaluation.identification import FPIRS, Hits
from evaluation.verification import FARS, ROUNDING, Roc

BETTER, WORSE, UNCLEAR = "better", "worse", "not distinguishable"


def compare_cells(mixed: Cell, old: Cell, reliable: Collection[str], few: Collection[str] = ()) -> dict[str, dict]:
    """{metric: criterion, difference, its interval, verdict, and the verdict that counts overall} of M(n, o) against M(o, o).

    reliable: the figures that count overall; few: those whose interval rests on too few subjects for any verdict.
    """
    out, figures = {}, max(1, len(reliable))
    for metric, value in mixed.values.items():
        difference = value - old.values[metric]
        drawn = mixed.draws[metric] - old.draws[metric] if metric in mixed.draws else np.zeros(0)
        alone, together = interval(drawn), interval(drawn, figures)
        out[metric] = {"criterion": bool(difference > 0), "difference": difference, "interval": alone,
                       "verdict": UNCLEAR if metric in few else verdict(difference, alone),
                       "overall": verdict(difference, together) if metric in reliable else None}
    return out


def verdict(difference: float, span: tuple[float, float] | None) -> str:
    """Without draws the sign of the difference decides."""
    low, high = span or (difference, difference)
    return BETTER if low > 0 else WORSE if high < 0 else UNCLEAR


def overall(compared: dict[str, dict]) -> str:
    """All figures in one word."""
    found = [entry["overall"] for entry in compared.values()]
    if BETTER in found:
        return "better in some, worse in others" if WORSE in found else "compatible"
    return "not compatible" if WORSE in found else "not distinguishable from the old model"


def update_gain(mixed: Cell, old: Cell, paragon: Cell) -> dict[str, float]:
    """G per metric; NaN where the paragon is no better than the old model: there is nothing to gain."""
    out = {}
    for metric, value in mixed.values.items():
        start, full = old.values[metric], paragon.values[metric]
        out[metric] = (value - start) / (full - start) if full > start else np.nan
    return out


def p_scores(gains: dict[str, float], new: Cell, paragon: Cell) -> dict[str, float]:
    """P_comp, P_up and P_1 over the figures that have a gain; NaN where none has."""
    told = [metric for metric, gain in gains.items() if np.isfinite(gain) and paragon.values[metric] > 0]
    if not told:
        return dict.fromkeys(("P_comp", "P_up", "P_1"), np.nan)
    comp = 100 * np.mean([sigmoid(gains[m]) for m in told])
    up = 100 * np.mean([sigmoid((new.values[m] - paragon.values[m]) / paragon.values[m]) for m in told])
    return {"P_comp": float(comp), "P_up": float(up), "P_1": float(2 * comp * up / (comp + up))}


def sigmoid(x: float) -> float:
    return 0.5 * (1 + np.tanh(x / 2))


def average_compatibility(matrix: dict[tuple[str, str], Cell], versions: list[str], metric: str) -> float:
    """AC of a sequence of versions, oldest first; matrix[query, gallery].  A pair without a cell counts as not compatible."""
    pairs = [(newer, older) for i, newer in enumerate(versions) for older in versions[:i]]
    holds = [(pair in matrix and matrix[pair].values[metric] > matrix[pair[1], pair[1]].values[metric]) for pair in pairs]
    return float(np.mean(holds))


def fixed_threshold(evaluation: Evaluation, old: Cell, mixed: Cell) -> dict[str, list[dict]]:
    """What the mixed system does at the thresholds that give the old system FAR x (1:1) and FPIR x (1:N).

    "new threshold" is the one that would give the mixed system that rate; 1:N has one of each per gallery.  "old rate":
    what the old system's threshold lets through, a false accept fewer than x in 1:N, because nothing at it is accepted.
    """
    out: dict[str, list[dict]] = {"1:1": [], "1:N": []}
    if evaluation.pairs is not None:
        assert old.scores is not None and mixed.scores is not None          # cells on the old gallery keep them
        before, after = (Roc.of(scores, evaluation.pairs.same) for scores in (old.scores, mixed.scores))
        for far, old_tar, threshold, new in zip(FARS, *before.at(FARS), after.at(FARS)[1], strict=True):
            if far * len(before.different) + ROUNDING >= 1:
                accepted = [int((side > threshold).sum()) for side in (after.same, after.different)]
                out["1:1"].append({"rate": rate(far), "threshold": threshold, "new threshold": new, "old": old_tar,
                                   "old rate": (before.different > threshold).mean(),
                                   "mixed": accepted[0] / len(after.same), "mixed rate": accepted[1] / len(after.different),
                                   "errors": accepted[1], "of": len(after.different)})
    strangers = evaluation.negatives()["1:N"]
    for k, fpir in enumerate(FPIRS):
        if fpir < 1 and fpir * strangers + ROUNDING >= 1:
            every = [at_threshold(old.hits[name], mixed.hits[name], k) for name in old.hits]
            rows = [row for row in every if row is not None]
            if len(rows) == len(every):
                out["1:N"].append({"rate": rate(fpir)}
                                  | {key: [row[key] for row in rows] for key in ("threshold", "new threshold")}
                                  | {key: float(np.mean([row[key] for row in rows]))
                                     for key in ("old", "old rate", "mixed", "mixed rate")}
                                  | {key: sum(row[key] for row in rows) for key in ("errors", "of")})
    return out


def at_threshold(old: Hits, mixed: Hits, k: int) -> dict | None:
    """TPIR and FPIR of one gallery at the old system's threshold of FPIRS[k]; None where it has none."""
    tpir, threshold = (values[k] for values in old.tpir(FPIRS))
    if not np.isfinite(threshold):
        return None
    found, alarms = mixed.mate[mixed.rank == 1] > threshold, mixed.other[~mixed.mated] > threshold
    return {"threshold": threshold, "new threshold": mixed.tpir(FPIRS)[1][k], "old": tpir,
            "old rate": (old.other[~old.mated] > threshold).mean(),
            "mixed": found.sum() / mixed.mated.sum(), "mixed rate": alarms.mean(), "errors": int(alarms.sum()), "of": len(alarms)}


def flips(evaluation: Evaluation, old: Cell, mixed: Cell, far: str | None, fpir: str | None) -> tuple[dict, list[dict]]:
    """(counts, a row for each probe and gallery that flipped).

    Judged three ways: "top-1" (mated probes: the mate is first), "FPIR x" (with a mate: and above the old system's
    threshold; strangers: nobody is above it) and, counted only, "FAR x" (pairs decided right at the old system's threshold).
    """
    counts: dict[str, dict[str, int]] = {}
    rows = []
    probes = evaluation.search.probes
    for name, before in old.hits.items():
        after, judged = mixed.hits[name], {"top-1": (before.mated, before.rank == 1, mixed.hits[name].rank == 1)}
        threshold = before.tpir(np.array([float(fpir)]))[1][0] if fpir else np.nan
        if np.isfinite(threshold):
            was, now = right(before, threshold), right(after, threshold)
            judged |= {f"FPIR {fpir}, with a mate": (before.mated, was, now),
                       f"FPIR {fpir}, strangers": (~before.mated, was, now)}
        for kind, (counted, was, now) in judged.items():
            add_counts(counts, kind, counted, was, now)
            for i in np.flatnonzero(counted & (was != now)):
                rows.append({"judged by": kind, "flip": "negative" if was[i] else "positive", "gallery": name,
                             "probe": int(evaluation.ids[1][probes.templates[i]]), "subject": int(probes.subjects[i]),
                             "mated": bool(before.mated[i]), "old rank": int(before.rank[i]), "new rank": int(after.rank[i]),
                             **{f"{side} {what}": round(float(getattr(found, what)[i]), 5)
                                for what in ("mate", "other") for side, found in (("old", before), ("new", after))}})
    if evaluation.pairs is not None and far:
        assert old.scores is not None and mixed.scores is not None
        same = evaluation.pairs.same
        threshold = Roc.of(old.scores, same).at(np.array([float(far)]))[1][0]
        was, now = ((scores > threshold) == same for scores in (old.scores, mixed.scores))
        add_counts(counts, f"FAR {far}, pairs of one person", same, was, now)
        add_counts(counts, f"FAR {far}, pairs of two people", ~same, was, now)
    return counts, rows


def right(hits: Hits, threshold: float) -> np.ndarray:
    return np.where(hits.mated, (hits.rank == 1) & (hits.mate > threshold), hits.other <= threshold)


def add_counts(counts: dict[str, dict[str, int]], kind: str, counted: np.ndarray, was: np.ndarray, now: np.ndarray) -> None:
    """Add one gallery's decisions to the counts of this way of judging."""
    entry = counts.setdefault(kind, {"decisions": 0, "negative": 0, "positive": 0})
    entry["decisions"] += int(counted.sum())
    entry["negative"] += int((counted & was & ~now).sum())
    entry["positive"] += int((counted & ~was & now).sum())
