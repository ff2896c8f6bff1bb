"""Several trainings of one version: mean figures, and their error from three sources: people, training seed, old model.

A figure D is computed for S trainings on the same people. Its estimate is the mean over the trainings. With V the variance over
the bootstrap samples of people (of the mean: V_mean; of one training, on average: V_one) and s^2 the variance of the S values:
    interaction     I = (V_one - V_mean) S / (S - 1)        people who are easy for one training and hard for another
    people          P = V_mean - I / S                      what all trainings have in common
    training        s^2 / S                                 seeds (s^2 has I in it, so I / S is counted once, here)
The variance of the mean is T^2 = P + s^2 / S. The interval is between two that are known to be too narrow and too wide: half
its width is (2 a + b) / 3 of a = t_f T, with Satterthwaite's degrees of freedom f, and b = sqrt(t_n^2 P + t_S^2 s^2 / S), with
the degrees of each part (people - 1, S - 1). Over all shares of people and seeds, with three trainings a holds the truth in 92
to 95 % of simulated studies, b in 95 to 98 %, the interval in 94 to 96 %; with five trainings in 95 to 96 %; with two in 91 to
98 % (tests/evaluation/test_trainings.py). A percentile bootstrap over people and seeds holds it in 78 to 99 % with three. With
several old models, s^2 / S is the variance of the means per old model, divided by their number. With one training nothing is
known about seeds, and the interval is about this training.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from evaluation.bootstrap import CONFIDENCE
from evaluation.cells import Cell

MOST = 100          # people, or trainings: multiple, number up to which a larger study is considered


def pick(items: list, k: int, trainings: int):
    """The item of training k of ``trainings``, if each item serves the same number of trainings in a row."""
    return items[k * len(items) // trainings]


@dataclass(frozen=True)
class Trainings:
    """The cells of one version's queries on one version's gallery, one for each training."""

    cells: list[Cell]
    olds: int = 1           # old models that the trainings belong to, the same number to each, in order

    @property
    def values(self) -> dict[str, float]:
        """Metric -> mean over the trainings."""
        return {metric: float(np.mean([cell.values[metric] for cell in self.cells])) for metric in self.cells[0].values}

    def estimate(self, metric: str, subjects: int) -> "Estimate":
        """The mean of a metric with its error."""
        return self.minus(None, metric, subjects)

    def minus(self, other: "Trainings | None", metric: str, subjects: int) -> "Estimate":
        """The mean of the differences to ``other``, training by training, with its error."""
        count = max(len(self.cells), 0 if other is None else len(other.cells))
        values, draws = [], []
        for k in range(count):
            one = pick(self.cells, k, count)
            two = pick(other.cells, k, count) if other is not None else None
            values.append(one.values[metric] - (two.values[metric] if two else 0.0))
            if metric in one.draws:
                draws.append(one.draws[metric] - (two.draws[metric] if two else 0.0))
        olds = max(self.olds, 1 if other is None else other.olds)
        return estimate(np.array(values), np.array(draws) if draws else np.zeros((count, 0)), olds, subjects)


@dataclass(frozen=True)
class Estimate:
    """A figure with the parts of its variance.  Without bootstrap samples ``people`` is NaN and there is no interval."""

    values: np.ndarray      # [S], of each training
    people: float           # variance that all trainings have in common
    interaction: float      # variance of one training that depends on people and training together
    spread: float           # variance of the values, of their means per old model if there are several; 0 if there is one
    within: float           # variance of the values of one old model; NaN if each has one
    olds: int
    subjects: int

    @property
    def value(self) -> float:
        return float(self.values.mean())

    @property
    def groups(self) -> int:
        """The number of independent values that ``spread`` is computed from."""
        return self.olds if self.olds > 1 else len(self.values)

    def half(self, figures: int = 1) -> float:
        """Half the width of the interval; ``figures`` of them hold together (Bonferroni)."""
        return half_width(self.people, self.spread / self.groups, self.subjects - 1, self.groups - 1, figures)

    def interval(self, figures: int = 1) -> tuple[float, float] | None:
        """The CONFIDENCE interval; None without bootstrap samples."""
        half = self.half(figures)
        return (self.value - half, self.value + half) if np.isfinite(half) else None

    def shares(self) -> dict[str, float] | None:
        """{source of error: share of the variance of the mean}; None without bootstrap samples."""
        count, per_group = len(self.values), len(self.values) // self.groups
        parts = {"people": self.people + self.interaction / count}
        if count > 1:
            seeds = max(self.spread - self.interaction / per_group, 0) / self.groups
            if self.olds == 1:
                parts["seed"] = seeds
            elif per_group == 1:
                parts["seed and old model"] = seeds
            else:
                parts["seed"] = max(self.within - self.interaction, 0) / count
                parts["old model"] = max(self.spread - self.within / per_group, 0) / self.groups
        total = sum(parts.values())
        if not np.isfinite(total):
            return None
        return {name: part / total if total else 0.0 for name, part in parts.items()}

    def needed(self, half: float, figures: int = 1) -> dict[str, int | None]:
        """{"people", "trainings": how many more of them make half the width ``half``}; None: MOST times, or MOST, do not.

        "trainings" counts those of the version, and as many old models if each training has its own.
        """
        per_group = len(self.values) // self.groups
        own = max(self.spread - self.interaction / per_group, 0)        # variance of a training that no people remove

        def width(people: int, groups: int) -> float:
            times = people / self.subjects
            return half_width(self.people / times, (own + self.interaction / per_group / times) / groups, people - 1, groups - 1,
                              figures)

        people = first_true(lambda n: width(n, self.groups) <= half, self.subjects, MOST * self.subjects)
        groups = first_true(lambda n: width(self.subjects, n) <= half, self.groups, MOST) if len(self.values) > 1 else None
        return {"people": None if people is None else people - self.subjects,
                "trainings": None if groups is None else (groups - self.groups) * per_group}


def estimate(values: np.ndarray, draws: np.ndarray, olds: int, subjects: int) -> Estimate:
    """The mean of ``values`` [S] and its error from the bootstrap samples ``draws`` [S, B] (B = 0: no error is known).

    olds: number of old models; the trainings of one old model are next to each other.
    """
    count = len(values)
    groups = values.reshape(olds, -1)
    spread = float((groups.mean(1) if olds > 1 else values).var(ddof=1)) if count > 1 else 0.0
    within = float(groups.var(1, ddof=1).mean()) if count > olds else float("nan")
    draws = draws[:, np.isfinite(draws).all(0)] if draws.size else draws.reshape(count, 0)
    if draws.shape[1] < 2:
        return Estimate(values, float("nan"), float("nan"), spread, within, olds, subjects)
    mean, one = draws.mean(0).var(ddof=1), draws.var(1, ddof=1).mean()
    interaction = max(float(one - mean), 0.0) * count / (count - 1) if count > 1 else 0.0
    return Estimate(values, max(float(mean) - interaction / count, 0.0), interaction, spread, within, olds, subjects)


def half_width(people: float, training: float, people_freedom: int, training_freedom: int, figures: int) -> float:
    """Half the width of an interval from two variances with their degrees of freedom (0: that variance is 0)."""
    total = people + training
    if not total > 0:
        return total        # 0, or NaN
    parts = (people, max(people_freedom, 1)), (training, max(training_freedom, 1))
    level = 1 - (1 - CONFIDENCE) / figures / 2
    narrow = student.ppf(level, total ** 2 / sum(part ** 2 / own for part, own in parts)) * np.sqrt(total)
    wide = np.sqrt(sum(student.ppf(level, own) ** 2 * part for part, own in parts))
    return float(2 * narrow + wide) / 3


def first_true(holds, start: int, end: int) -> int | None:
    """The smallest n in [start, end] for which ``holds``, which does not become false again; None if there is none."""
    if not holds(end):
        return None
    while start < end:
        middle = (start + end) // 2
        start, end = (start, middle) if holds(middle) else (middle + 1, end)
    return start
