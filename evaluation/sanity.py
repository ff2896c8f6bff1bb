"""Signs that the inputs, not the models, made a figure: looked for before a verdict is given.

Each warning names what to look at. If it concerns the features that a verdict rests on, there is no verdict.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binom

from evaluation.cells import Cell
from evaluation.evaluation_set import Evaluation, kind_of
from evaluation.identification import RANKS
from evaluation.trainings import Trainings
from evaluation.verification import TIE_TOLERANCE, Roc

CHANCE = 0.01           # a version is at chance if guessing does as well in this share of the cases
USELESS_MAP = 1.0       # squared error of a map on unit rows: a map to 0 has 1
MIN_PEOPLE = 10         # people that a test for chance needs
WEAK = 0.1              # share of the way from guessing to perfect, below which a version alone is too weak to compare
MOST = 0.5              # share of the mated probes that equal a gallery row of their own


@dataclass(frozen=True)
class Warning:
    """A sentence without a full stop.  forbids: the versions about which there is no verdict; None: about none."""

    text: str
    forbids: frozenset[str] = frozenset()


def identical(evaluation: Evaluation, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """(probes whose row equals a gallery row of their own subject, bool [n]; genuine pairs of equal rows, bool [P]), in one cell.

    In a version's cell with itself this is a picture on both sides (or a copied file), which no model can miss.
    """
    equal = 1 - TIE_TOLERANCE
    probes = np.any([hits.mate > equal for hits in cell.hits.values()], axis=0)
    pairs: np.ndarray = np.zeros(0, bool)
    if evaluation.pairs is not None and cell.scores is not None:
        pairs = evaluation.pairs.same & (cell.scores > equal)
    return probes, pairs


def leave_out(evaluation: Evaluation, probes: np.ndarray, pairs: np.ndarray) -> Evaluation | None:
    """The evaluation set without these probes [n] and pairs [P]; None if nothing of a kind that it had remains."""
    mated = np.isin(evaluation.search.probes.subjects,
                    np.concatenate([people.subjects for people in evaluation.search.galleries.values()]))
    if mated.any() and not (mated & ~probes).any():
        return None
    kept_pairs = evaluation.pairs
    if kept_pairs is not None:
        if not (kept_pairs.same & ~pairs).any():
            return None
        kept_pairs = kept_pairs.chosen(~pairs)
    search = replace(evaluation.search, probes=evaluation.search.probes.chosen(~probes))
    return replace(evaluation, pairs=kept_pairs, search=search)


def same_rows(evaluation: Evaluation, found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[Warning]:
    """Warnings about versions with the same rows on both sides.  found: {version: what :func:`identical` gives}."""
    out = []
    mated = np.isin(evaluation.search.probes.subjects,
                    np.concatenate([people.subjects for people in evaluation.search.galleries.values()]))
    genuine = 0 if evaluation.pairs is None else int(evaluation.pairs.same.sum())
    for name, (probes, pairs) in found.items():
        for count, total, what, row in ((probes.sum(), mated.sum(), "probes with a mate", "a gallery row of their own"),
                                        (pairs.sum(), genuine, "genuine pairs", "each other")):
            if total and count > MOST * total:
                out.append(Warning(f"{count:,} of {total:,} {what} of {name} equal {row}: are the same pictures on both sides, "
                                   f"or was a file copied? No verdict is given on them", frozenset([name])))
                break
    return out


def at_chance(evaluation: Evaluation, name: str, cell: Cell) -> Warning | None:
    """A warning if a version alone (its cell with itself) does no better than guessing; None if it does, or if nobody can say."""
    tests = [*search_tests(evaluation, cell), *pair_tests(evaluation, cell)]
    if not tests or any(better for better, _ in tests):
        return None
    return Warning(f"{name} on its own gallery is at chance ({tests[0][1]}): do rows and labels belong together, and is every "
                   f"row of the person that its label names?", frozenset([name]))


def guessing(evaluation: Evaluation) -> dict[str, float]:
    """{metric: what guessing reaches}.  A guess for TPIR has to pass the threshold and to be right."""
    entries = min(len(np.unique(people.subjects)) for people in evaluation.search.galleries.values())
    out = {}
    for metric in evaluation.metrics():
        kind = kind_of(metric)
        number = float(metric[len(kind) + 1:])          # 1e-4 of TAR@1e-4, 5 of top-5
        out[metric] = {"TAR": number, "top": min(1.0, number / entries), "TPIR": number / entries}[kind]
    return out


def is_weak(figures: Mapping[str, float], guesses: Mapping[str, float]) -> bool:
    """Whether all these figures {metric: share} of a version alone are near those of :func:`guessing`."""
    ways = [(value - guesses[metric]) / (1 - guesses[metric]) for metric, value in figures.items() if guesses[metric] < 1]
    return bool(ways) and max(ways) < WEAK


def search_tests(evaluation: Evaluation, cell: Cell) -> list[tuple[bool, str]]:
    """(whether top-k is above guessing, the figure in words) for each k; a person with several probes counts as one guess."""
    out = []
    subjects = evaluation.search.probes.subjects
    for k in RANKS:
        usable = [hits for hits in cell.hits.values() if hits.entries > k and hits.mated.any()]
        if not usable:
            continue
        mated = sum(int(hits.mated.sum()) for hits in usable)
        people = sum(len(np.unique(subjects[hits.mated])) for hits in usable)
        chance = sum(k / hits.entries * int(hits.mated.sum()) for hits in usable) / mated
        right = sum(hits.within(k) for hits in usable) / mated
        if people >= MIN_PEOPLE and chance ** people < CHANCE:      # otherwise a good model could have guessed
            better = binom.sf(np.floor(right * people + 0.5) - 1, people, chance) < CHANCE
            out.append((bool(better), f"top-{k} is {100 * right:.2f} %, guessing gives {100 * chance:.2g} %"))
    return out


def pair_tests(evaluation: Evaluation, cell: Cell) -> list[tuple[bool, str]]:
    """(whether genuine pairs score higher than impostor pairs, the area under the curve in words), if there are enough people."""
    if evaluation.pairs is None or cell.scores is None:
        return []
    people = len(np.unique(evaluation.subjects[1][evaluation.pairs.verify[evaluation.pairs.same]]))
    if people < MIN_PEOPLE:
        return []
    area = Roc.of(cell.scores, evaluation.pairs.same).auc()
    error = np.sqrt(1 / (12 * people))          # of the mean rank of one genuine pair a person, if genuine pairs are as others
    return [(bool(area > 0.5 + 3 * error), f"area under the ROC {100 * area:.1f} %, guessing gives 50 %")]


def below_mixed(name: str, alone: Trainings, cross: Trainings, old: str, counted: list[str], subjects: int) -> Warning | None:
    """A warning if a version finds its own gallery's people worse than the old gallery's."""
    worse = []
    for metric in counted:
        span = alone.minus(cross, metric, subjects).interval(max(1, len(counted)))
        if span is not None and span[1] < 0:
            worse.append(f"{metric} {100 * alone.values[metric]:.2f} against {100 * cross.values[metric]:.2f} %")
    if not worse:
        return None
    return Warning(f"{name} does worse on its own gallery than on that of {old} ({worse[0]}): are the rows of its gallery in the "
                   f"order of the labels?")


def useless_maps(errors: dict[str, float]) -> list[Warning]:
    """Warnings about maps (free baselines) that are no better than a map to 0 on images that they were not fitted on."""
    return [Warning(f"The map {name} has a squared error of {error:.2f} on images that it was not fitted on; a map to 0 has 1, "
                    f"so it predicts nothing: the models may be too weak, or the rows of the two feature files may belong to "
                    f"different images", frozenset([name]))
            for name, error in errors.items() if not error < USELESS_MAP]
