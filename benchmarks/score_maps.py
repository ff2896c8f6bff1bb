"""Ways to make scores with old and with re-embedded entries comparable, on the curve of re-embedding.

    python benchmarks/score_maps.py -d DATA --old old=... --new NAME=... [other options of tools/compare/compare.py]

Prints, for each candidate and headline figure, the mean over random orders (--orders) of the figure at 0, 10 ... 100 %, its area,
the lowest point minus the start, and "below" if a point is below the start by more than its noise: 1.96 standard deviations of
the difference to the start over bootstrap samples of people, of the exponential map. At the end the rate that impostor pairs of
the evaluation have where a map claims 1e-2 and 1e-3.

    raw             cosines of both kinds in one list: distance rank merge of Seo et al. (WACV 2025; arXiv 2301.03767)
    exponential     evaluation/score_maps.py; "5,000": fitted on so many impostor pairs, of two samples
    Pareto          the same with a generalised Pareto tail, shape and scale by moments (Hosking and Wallis, Technometrics 1987)
    z-norm          (score - mean) / standard deviation of the impostors
    logistic        log odds of mates, by logistic regression on impostors and on the genuine pairs of half of the people: these
                    are pairs of the evaluation, so it has an advantage
"""

import sys
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evaluation.backfill import Way, orders_of
from evaluation.cells import Cell, Measure
from evaluation.evaluation_set import read_evaluation
from evaluation.score_maps import MAX_TAIL, MIN_TAIL, TAIL_SHARE, fit_score_map, impostors_between
from evaluation.version_features import Features
from evaluation.versions import Versions
from serving.upgrade import ScoreMap
from tools.compare.compare import parse_arguments
from utils.errors import run

STEPS = 10
FEW = 5_000         # impostor pairs that a small gallery has


def line(mean: float, scale: float) -> ScoreMap:
    """(score - mean) / scale."""
    return ScoreMap([-1, 1], [(-1 - mean) / scale, (1 - mean) / scale], 1 / scale)


def pareto(impostors: np.ndarray) -> ScoreMap:
    """fit_score_map with a generalised Pareto tail of shape <= 0; a straight line below a rate of 0.1 / n."""
    counted, scores = fit_score_map(impostors), np.sort(impostors.astype(np.float64))
    assert counted is not None, "too few impostors"
    n, u = len(scores), counted.scores[-1]
    m = int(np.clip(TAIL_SHARE * n, MIN_TAIL, MAX_TAIL))
    excess = scores[n - m:] - u
    shape = min(0.0, (1 - excess.mean() ** 2 / excess.var(ddof=1)) / 2)
    scale = excess.mean() * (1 - shape)
    rates = np.geomspace(m / n, 0.1 / n, 64)[1:]
    above = -scale * np.log(rates * n / m) if shape == 0 else scale / shape * ((rates * n / m) ** -shape - 1)
    return ScoreMap(np.r_[counted.scores, u + above], np.r_[counted.values, -np.log10(rates)],
                    1 / (scale + shape * above[-1]) / np.log(10))


def logistic(impostors: np.ndarray, mates: np.ndarray) -> ScoreMap:
    """Log odds; both classes have the same weight."""
    scores, sign = np.r_[impostors, mates], np.r_[np.full(len(impostors), -1), np.ones(len(mates))]
    weight = np.where(sign < 0, 1 / len(impostors), 1 / len(mates))
    slope, offset = minimize(lambda p: (weight * np.logaddexp(0, -sign * (p[0] * scores + p[1]))).sum(), [10.0, -3.0]).x
    return line(-offset / slope, 1 / slope)


def few(impostors: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(impostors, min(FEW, len(impostors)), replace=False)


def ways_of(impostors: list[np.ndarray], mates: list[np.ndarray]) -> dict[str, list | None]:
    """{way: the maps of old and of re-embedded entries}"""
    ways: dict[str, list | None] = {"raw": None, "exponential": [fit_score_map(one) for one in impostors]}
    for seed in (0, 1):
        ways[f"exponential, 5,000, {seed}"] = [fit_score_map(few(one, seed)) for one in impostors]
    ways["Pareto"] = [pareto(one) for one in impostors]
    for seed in (0, 1):
        ways[f"Pareto, 5,000, {seed}"] = [pareto(few(one, seed)) for one in impostors]
    return ways | {"z-norm": [line(one.mean(), one.std()) for one in impostors],
                   "logistic": [logistic(few(one, 2), two) for one, two in zip(impostors, mates, strict=True)]}


class Resampled:
    """A measure that always adds bootstrap samples."""

    def __init__(self, measure: Measure):
        self.measure, self.evaluation = measure, measure.evaluation

    def __call__(self, gallery, query, scores=None, scale=None) -> Cell:
        return self.measure(gallery, query, True, scores, scale)


def table(name: str, measure: Measure, old: Features, new: Features, orders: list) -> None:
    """Print the rows of one candidate."""
    evaluation = measure.evaluation
    stored, query = new.against(old) or (old.gallery, new.query)
    ends = measure(stored, query, True), measure(new.gallery, new.query, True)
    rows, subjects = evaluation.gallery_rows()["1:N"], evaluation.subjects[0]
    impostors = [impostors_between(new, entries, rows, subjects) for entries in (old, new)]
    assert evaluation.pairs is not None, "data without pairs"
    same, scores = evaluation.pairs.same, [np.asarray(end.scores) for end in ends]
    half = same & (np.random.default_rng(0).random(subjects.max() + 1) < 0.5)[subjects[evaluation.pairs.enrol]]
    ways, shares = ways_of(impostors, [one[half] for one in scores]), np.linspace(0, 1, STEPS + 1)[1:-1]
    resampled = Way(Resampled(measure), old, new, ends, tuple(ways["exponential"]))     # type: ignore[arg-type]
    cells = [resampled.cell(orders[0], share) for share in shares]
    curves = {}
    for way, maps in ways.items():
        curve = Way(measure, old, new, ends, None if maps is None else tuple(maps))       # type: ignore[arg-type]
        curves[way] = [[curve.cell(order, share).values for share in shares] for order in orders]
    for metric in evaluation.headline():
        noise = np.array([1.96 * np.nanstd(cell.draws[metric] - ends[0].draws[metric]) for cell in cells])
        print(f"{name}, {metric}; noise {' '.join(f'{100 * x:.1f}' for x in noise)}")
        for way, points in curves.items():
            inner = np.mean([[values[metric] for values in along] for along in points], axis=0)
            y = 100 * np.r_[ends[0].values[metric], inner, ends[1].values[metric]]
            below = "below" if (y[1:-1] - y[0] < -100 * noise - 1e-6).any() else ""
            print(f"  {way:22s}", " ".join(f"{value:6.2f}" for value in y), f" area {(y[1:] + y[:-1]).mean() / 2:6.2f}"
                  f"  lowest {(y - y[0]).min():+6.2f} {below}", flush=True)
    for way in ("exponential", "exponential, 5,000, 0", "Pareto", "Pareto, 5,000, 0"):
        rates = [[(one(two[~same]) >= -np.log10(far)).mean() for far in (1e-2, 1e-3)]
                 for one, two in zip(ways[way] or [], scores, strict=True)]
        print(f"  {way:22s} claims 1e-2 and 1e-3; old entries {rates[0][0]:.2e} {rates[0][1]:.2e}, re-embedded "
              f"{rates[1][0]:.2e} {rates[1][1]:.2e}", flush=True)


def main() -> None:
    args = parse_arguments()
    evaluation = read_evaluation(args.data, args.subset)
    versions, measure = Versions(args, evaluation), Measure(evaluation, args.draws, args.seed, str(args.devices[0]))
    old = versions.features[versions.old]
    for name in versions.candidates:
        if versions.fits(name, versions.old):
            table(name, measure, old, versions.features[name], orders_of(evaluation, old, args.orders)["random"])


if __name__ == "__main__":
    run(main)
