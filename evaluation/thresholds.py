"""What becomes of today's threshold: error rates, decisions that flip, and what to set."""

import numpy as np

from evaluation.bootstrap import interval
from evaluation.cells import Cell
from evaluation.evaluation_set import MIN_ERRORS, Evaluation
from evaluation.formats import rate
from evaluation.identification import FPIRS, Hits
from evaluation.verification import FARS, ROUNDING, Roc, above


def fixed_threshold(evaluation: Evaluation, old: Cell, cross: Cell) -> dict[str, list[dict]]:
    """New queries on the old gallery at the thresholds that give the old system FAR x (1:1) and FPIR x (1:N).

    {"1:1": a row for each FAR, "1:N": a row for each FPIR}. In a row, "old" and "mixed" are TAR or TPIR of old and of new
    queries at the old threshold, "new" that of new queries at their own, "old rate" and "mixed rate" their FAR or FPIR, "errors"
    the false accepts of new queries "of" so many, and "new threshold" the one that gives new queries the rate x. 1:N has both
    thresholds for each gallery. There "old rate" is one false accept below x, because a score equal to the threshold is not
    accepted.
    """
    out: dict[str, list[dict]] = {"1:1": [], "1:N": []}
    if evaluation.pairs is not None:
        assert old.scores is not None and cross.scores is not None, "cells on the old gallery keep the scores of pairs"
        before, after = (Roc.of(scores, evaluation.pairs.same) for scores in (old.scores, cross.scores))
        for far, old_tar, threshold, new_tar, new in zip(FARS, *before.at(FARS), *after.at(FARS), strict=True):
            if far * len(before.different) + ROUNDING >= 1:
                accepted = [int(above(side, threshold).sum()) for side in (after.same, after.different)]
                out["1:1"].append({"rate": rate(far), "threshold": threshold, "new threshold": new, "old": old_tar, "new":
                                   new_tar, "old rate": above(before.different, threshold).mean(),
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
                                     for key in ("old", "new", "old rate", "mixed", "mixed rate")}
                                  | {key: sum(row[key] for row in rows) for key in ("errors", "of")})
    return out


def at_threshold(old: Hits, cross: Hits, k: int) -> dict | None:
    """The 1:N row of one gallery at the old system's threshold for FPIRS[k]; None if there is no such threshold."""
    tpir, threshold = (values[k] for values in old.tpir(FPIRS))
    if not np.isfinite(threshold):
        return None
    hit, alarms = (above(scores, threshold) for scores in (cross.mate[cross.rank == 1], cross.other[cross.nonmated]))
    new_tpir, new = (values[k] for values in cross.tpir(FPIRS))
    return {"threshold": threshold, "new threshold": new, "old": tpir, "new": new_tpir,
            "old rate": above(old.other[old.nonmated], threshold).mean(),
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
    labels = probes.subjects if evaluation.labels is None else evaluation.labels[probes.templates]
    for name, before in old.hits.items():
        after, judged = cross.hits[name], {"top-1": (before.mated, before.rank == 1, cross.hits[name].rank == 1)}
        threshold = before.tpir(np.array([float(fpir)]))[1][0] if fpir else np.nan
        if np.isfinite(threshold):
            was, now = right(before, threshold), right(after, threshold)
            judged |= {f"FPIR {fpir}, mated probes": (before.mated, was, now),
                       f"FPIR {fpir}, non-mated probes": (before.nonmated, was, now)}
        for kind, (counted, was, now) in judged.items():
            add_counts(counts, kind, counted, was, now)
            for i in np.flatnonzero(counted & (was != now)):
                rows.append({"judged by": kind, "flip": "negative" if was[i] else "positive", "gallery": name,
                             "probe": evaluation.ids[1][probes.templates[i]].item(), "subject": labels[i].item(),
                             "mated": bool(before.mated[i]), "old rank": int(before.rank[i]), "new rank": int(after.rank[i]),
                             **{f"{side} {score}": round(float(getattr(hits, score)[i]), 5)
                                for score in ("mate", "other") for side, hits in (("old", before), ("new", after))}})
    if evaluation.pairs is not None and far:
        assert old.scores is not None and cross.scores is not None, "cells on the old gallery keep the scores of pairs"
        same = evaluation.pairs.same
        threshold = Roc.of(old.scores, same).at(np.array([float(far)]))[1][0]
        was, now = (above(scores, threshold) == same for scores in (old.scores, cross.scores))
        add_counts(counts, f"FAR {far}, genuine pairs", same, was, now)
        add_counts(counts, f"FAR {far}, impostor pairs", ~same, was, now)
    return counts, rows


def right(hits: Hits, threshold: float) -> np.ndarray:
    """Which probes are decided right at a threshold, bool [n]."""
    return np.where(hits.mated, (hits.rank == 1) & above(hits.mate, threshold), ~above(hits.other, threshold))


def add_counts(counts: dict[str, dict[str, int]], kind: str, counted: np.ndarray, was: np.ndarray, now: np.ndarray) -> None:
    """Add one gallery's decisions to the counts of this kind.  counted, was, now: bool, in it, right before, right now."""
    entry = counts.setdefault(kind, {"decisions": 0, "negative": 0, "positive": 0})
    entry["decisions"] += int(counted.sum())
    entry["negative"] += int((counted & was & ~now).sum())
    entry["positive"] += int((counted & ~was & now).sum())


def mean_thresholds(trainings: list[dict[str, list[dict]]]) -> dict[str, list[dict]]:
    """The rows of :func:`fixed_threshold`, as means over the trainings; a row that some training lacks is left out."""
    out: dict[str, list[dict]] = {}
    for protocol, rows in trainings[0].items():
        out[protocol] = []
        for row in rows:
            same = [other for each in trainings for other in each[protocol] if other["rate"] == row["rate"]]
            if len(same) == len(trainings):
                means = {key: np.mean([other[key] for other in same], axis=0) for key in row if key != "rate"}
                out[protocol].append({"rate": row["rate"]} | {key: mean.tolist() for key, mean in means.items()}
                                     | {key: round(float(means[key])) for key in ("errors", "of")})
    return out


def thresholds_of(evaluation: Evaluation, cross: Cell, alone: Cell) -> list[dict]:
    """A row for each rate of 1:1 and 1:N: the threshold of re-embedded entries, and the false rate that they have at the one of
    old entries (both for new queries).

    1:N has the mean threshold of its galleries.
    """
    out = []
    if evaluation.pairs is not None and cross.scores is not None and alone.scores is not None:
        before, after = (Roc.of(scores, evaluation.pairs.same) for scores in (cross.scores, alone.scores))
        for far, one, two in zip(FARS, before.at(FARS)[1], after.at(FARS)[1], strict=True):
            if far * len(before.different) + ROUNDING >= 1:
                out.append({"protocol": "1:1", "rate": rate(far), "threshold": two, "of": len(after.different),
                            "errors": int(above(after.different, one).sum())})
    nonmated = evaluation.negatives()["1:N"]
    for k, fpir in enumerate(FPIRS):
        if fpir < 1 and fpir * nonmated + ROUNDING >= 1:
            ends = [(cross.hits[name].tpir(FPIRS)[1][k], hits.tpir(FPIRS)[1][k], hits) for name, hits in alone.hits.items()]
            if np.isfinite([end[:2] for end in ends]).all():
                out.append({"protocol": "1:N", "rate": rate(fpir), "threshold": float(np.mean([two for _, two, _ in ends])),
                            "errors": sum(int(above(hits.other[hits.nonmated], one).sum()) for one, _, hits in ends),
                            "of": sum(int(hits.nonmated.sum()) for *_, hits in ends)})
    return out


def operating_points(evaluation: Evaluation, cell: Cell) -> dict[str, list[dict]]:
    """{"thresholds": a row for each FAR, "search": for each FPIR} at which the data has MIN_ERRORS errors.

    A row: "far" or "fpir", "threshold", "low" and "high" of its interval over people (None without bootstrap samples), and "tar"
    or "tpir" there. 1:N has the mean threshold of its galleries.
    """
    out: dict[str, list[dict]] = {"thresholds": [], "search": []}
    if evaluation.pairs is not None and cell.scores is not None:
        roc = Roc.of(cell.scores, evaluation.pairs.same)
        for far, tar, threshold in zip(FARS, *roc.at(FARS), strict=True):
            if far * len(roc.different) + ROUNDING >= MIN_ERRORS:
                out["thresholds"].append({"far": far, "tar": tar} | with_interval(threshold, cell, f"TAR@{rate(far)}"))
    found = [hits.tpir(FPIRS) for hits in cell.hits.values()]
    for k, fpir in enumerate(FPIRS):
        tpir, threshold = (float(np.mean([values[side][k] for values in found])) for side in (0, 1))
        if fpir < 1 and fpir * evaluation.negatives()["1:N"] + ROUNDING >= MIN_ERRORS and np.isfinite(threshold):
            out["search"].append({"fpir": fpir, "tpir": tpir} | with_interval(threshold, cell, f"TPIR@{rate(fpir)}"))
    return out


def with_interval(threshold: float, cell: Cell, metric: str) -> dict:
    """A threshold with its interval, which contains it."""
    span = interval(cell.limits[metric]) if metric in cell.limits else None
    low, high = (None, None) if span is None else (min(span[0], threshold), max(span[1], threshold))
    return {"threshold": threshold, "low": low, "high": high}


def advice(threshold: dict[str, list[dict]], entries: list[dict], headline: list[str], margin: float) -> list[dict]:
    """What to do about today's threshold, for each headline figure with a rate: "metric", "action", and the thresholds.

    keep        at today's threshold new queries make no more errors than the rate allows, and find no ``margin`` less than at a
                threshold of their own
    set         otherwise: the threshold that gives new queries on old entries that rate
    "entries" is the threshold of re-embedded entries if the one of old entries gives them another rate, else None.  A number of
    errors is another one if it is two standard deviations of a Poisson count away.
    """
    out = []
    for metric in headline:
        kind, _, of = metric.partition("@")
        protocol = {"TAR": "1:1", "TPIR": "1:N"}.get(kind)
        row = next((row for row in threshold.get(protocol or "", []) if row["rate"] == of), None)
        if row is None:
            continue
        allowed = float(of) * row["of"]
        keep = row["errors"] <= allowed + 2 * np.sqrt(allowed) and row["mixed"] > row["new"] - margin
        found = next((entry for entry in entries if (entry["protocol"], entry["rate"]) == (protocol, of)), None)
        differ = found is not None and abs(found["errors"] - float(of) * found["of"]) > 2 * np.sqrt(float(of) * found["of"]) + 1
        out.append({"metric": metric, "action": "keep" if keep else "set", "threshold": row["threshold"],
                    "new threshold": row["new threshold"], "entries": found["threshold"] if differ and found else None})
    return out
