"""Judgement of an upgrade from the cells M(q, g) of the matrix (cells.py); o: old, n: new, p: paragon.

The cell M(n, o), new queries on the old gallery, is called ``cross``.

criterion       M(n, o) > M(o, o)                                                       (BCT, CVPR 2020)
word            for each figure that counts (that rests on enough errors and subjects), from the interval of M(n, o) - M(o, o).
                The intervals hold for all of these figures together with 95 %: with ten independent figures, single 95 %
                intervals exclude 0 by chance in 40 % of the cases. Both cells use the same bootstrap samples, so the difference
                can be better or worse although the intervals of the two cells overlap.
                    better      above 0
                    safe        above -margin (non-inferiority)
                    worse       below 0, and not safe
                    undecided   otherwise
answer          from these words: better if all are better or safe and one is better, safe if all are safe; worse, better in some
                and worse in others, better in some and undecided in others, undecided; each with the figure that decided
update gain     G = [M(n, o) - M(o, o)] / [M(p, p) - M(o, o)]                           (BCT, Eq. 9); none if the interval of the
                denominator is not above 0, because a quotient by noise means nothing
P_comp          100 mean of sigmoid(G_j) over the figures j
P_up            100 mean of sigmoid([M(n, n) - M(p, p)] / M(p, p))
P_1             harmonic mean of P_comp and P_up                                        (AdvBCT, CVPR 2023)
AC              share of the ordered pairs (newer i, older j) with M(i, j) > M(j, j)    (CL2R, PAMI 2023)
"""

from collections.abc import Collection, Mapping

import numpy as np

from evaluation.cells import Cell
from evaluation.trainings import Trainings

Cells = Cell | Trainings        # what has the values of a query and a gallery version
BETTER, SAFE, WORSE, UNDECIDED = "better", "safe", "worse", "undecided"
PARTLY, CONTRADICTORY, NO_VERDICT = "better in some, undecided in others", "better in some, worse in others", "no verdict"
POINTS = 0.02           # difference for which the page says how many people or trainings can tell it from 0


def compare_cells(cross: Trainings, old: Trainings, counted: Collection[str], margin: float, subjects: int) -> dict[str, dict]:
    """M(n, o) against M(o, o), {metric: its report}; "verdict" is None if the metric does not count.

    counted: the metrics that count; margin: loss that is accepted, as a share; subjects: people behind the bootstrap.
    """
    out, figures = {}, max(1, len(counted))
    for metric in cross.values:
        change = cross.minus(old, metric, subjects)
        span = change.interval(figures)
        entry = {"criterion": bool(change.value > 0), "difference": change.value, "each": change.values, "interval": span,
                 "verdict": verdict(change.value, span, margin) if metric in counted else None,
                 "shares": change.shares(), "needed": None, "to tell": None}
        if span is not None:
            entry["to tell"] = change.needed(POINTS, figures)
            if entry["verdict"] == UNDECIDED:
                goal = change.value + margin if change.value > -margin else -change.value
                entry["needed"] = change.needed(goal, figures)
        out[metric] = entry
    return out


def verdict(difference: float, span: tuple[float, float] | None, margin: float) -> str:
    """The word for an interval; without an interval the difference itself decides."""
    low, high = span or (difference, difference)
    if low > 0:
        return BETTER
    if low > -margin:
        return SAFE
    return WORSE if high < 0 else UNDECIDED


def overall(compared: dict[str, dict]) -> tuple[str, str | None]:
    """(the answer from the figures that count; the figure that decided it, None if no figure counts).

    Worse is decided by the figure that is the most so, everything else by the one whose interval reaches furthest down.
    """
    counted = {metric: entry for metric, entry in compared.items() if entry["verdict"] is not None}
    if not counted:
        return UNDECIDED, None
    words = {entry["verdict"] for entry in counted.values()}
    ends = {metric: entry["interval"] or (entry["difference"],) * 2 for metric, entry in counted.items()}
    lowest = min(ends, key=lambda metric: ends[metric][0])
    if WORSE in words:
        worst = min((m for m in ends if counted[m]["verdict"] == WORSE), key=lambda metric: ends[metric][1])
        return CONTRADICTORY if BETTER in words else WORSE, worst
    if UNDECIDED in words:
        open_ones = [metric for metric in ends if counted[metric]["verdict"] == UNDECIDED]
        return PARTLY if BETTER in words else UNDECIDED, min(open_ones, key=lambda metric: ends[metric][0])
    return (BETTER, max(ends, key=lambda metric: ends[metric][0])) if BETTER in words else (SAFE, lowest)


def update_gain(cross: Cells, old: Cells, paragon: Cells) -> dict[str, float]:
    """{metric: G}; NaN if the paragon is not better than the old model: there is nothing to gain."""
    out = {}
    for metric, value in cross.values.items():
        start, full = old.values[metric], paragon.values[metric]
        out[metric] = (value - start) / (full - start) if full > start else np.nan
    return out


def known_gains(gains: dict[str, float], old: Trainings, paragon: Trainings, subjects: int) -> dict[str, float]:
    """``gains`` with NaN for the figures in which the paragon's own gain may be 0: its 95 % interval is not above 0."""
    spans = {metric: paragon.minus(old, metric, subjects).interval() for metric in gains}
    return {metric: gain if (span := spans[metric]) is None or span[0] > 0 else np.nan for metric, gain in gains.items()}


def p_scores(gains: dict[str, float], new: Cells, paragon: Cells) -> dict[str, float]:
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


def average_compatibility(matrix: Mapping[tuple[str, str], Cells], versions: list[str], metric: str) -> float:
    """AC of a sequence of versions, oldest first, in one metric.

    matrix: {(query, gallery): cell}; a pair without a cell (other dimensions) counts as not compatible.
    """
    pairs = [(newer, older) for i, newer in enumerate(versions) for older in versions[:i]]
    holds = [(pair in matrix and matrix[pair].values[metric] > matrix[pair[1], pair[1]].values[metric]) for pair in pairs]
    return float(np.mean(holds))
