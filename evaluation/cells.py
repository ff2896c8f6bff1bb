"""One cell M(q, g) of the compatibility matrix: queries embedded by model q, the gallery by model g.

Figures are shares in [0, 1].
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from evaluation.bootstrap import PairDraws, SearchDraws, draw_weights, interval
from evaluation.evaluation_set import Evaluation
from evaluation.formats import rate
from evaluation.identification import FPIRS, Hits, Scale, search_each, search_figures
from evaluation.verification import FARS, Roc, Rows, pair_scores

BAND_FARS = np.logspace(-6, 0, 61)         # FARs of a cell's ROC curve and of its confidence band


@dataclass
class Cell:
    """The figures of one query model on the gallery of one model."""

    values: dict[str, float]        # metric -> figure
    draws: dict[str, np.ndarray]    # metric -> its values in the bootstrap samples, float64 [B]
    scores: np.ndarray | None       # cosines of the pairs, float32 [P]; None: no 1:1 protocol, or no longer needed
    hits: dict[str, Hits]           # gallery -> hits of all probes in it
    curve: dict[str, np.ndarray]    # "far", "tar" and the confidence band "low", "high"; empty unless resampled
    limits: dict[str, np.ndarray] = field(default_factory=dict)     # TAR and TPIR -> thresholds in the bootstrap samples [B]

    def interval(self, metric: str) -> tuple[float, float] | None:
        """The confidence interval of a figure; None if the cell has no bootstrap samples of it."""
        return interval(self.draws[metric]) if metric in self.draws else None


class Measure:
    """Computes cells on one evaluation set, all with the same bootstrap samples."""

    def __init__(self, evaluation: Evaluation, draws: int, seed: int, device: str):
        """draws: number of bootstrap samples; device: of the 1:N search, as torch names it."""
        self.evaluation, self.device, self.metrics = evaluation, device, evaluation.metrics()
        names, self.subjects = evaluation.compared_subjects()
        self.weights = draw_weights(len(names), draws, seed)

    @cached_property
    def pair_draws(self) -> PairDraws:
        assert self.evaluation.pairs is not None, "bootstrap samples of TAR without a 1:1 protocol"
        return PairDraws(self.evaluation.pairs, self.subjects, self.weights)

    @cached_property
    def search_draws(self) -> SearchDraws:
        return SearchDraws(self.subjects[1][self.evaluation.search.probes.templates], self.weights)

    def __call__(self, gallery: Rows, query: Rows, resample: bool = False, scores: np.ndarray | None = None,
                 scale: Scale | None = None) -> Cell:
        """The cell of these features, rows [G, d] and [Q, d].

        resample: add bootstrap samples and the ROC curve.  scores: those of the pairs [P], if they are known already; scale:
        makes a score of each cosine in 1:N.
        """
        cell = Cell({}, {}, None, {}, {})
        if self.evaluation.pairs is not None:
            cell.scores = pair_scores(gallery, query, self.evaluation.pairs) if scores is None else scores
            roc = Roc.of(cell.scores, self.evaluation.pairs.same)
            cell.values |= named("TAR", FARS, roc.at(FARS)[0])
            if resample:
                self.add_curve(cell, roc, cell.scores)
        search = self.evaluation.search
        cell.hits = search_each(gallery, query, search.galleries, search.probes, self.device, scale)
        cell.hits.pop("mixed", None)
        figures, _ = search_figures(cell.hits)
        cell.values |= {f"top-{k}": value for k, value in figures["top"].items()} | named("TPIR", FPIRS, figures["TPIR"])
        if resample and len(self.weights):
            samples = self.search_draws.figures(cell.hits)
            cell.draws |= samples | named("TPIR", FPIRS, samples["TPIR"].T)
            cell.limits |= named("TPIR", FPIRS, samples["threshold"].T)
        cell.values = {name: cell.values[name] for name in self.metrics}
        cell.draws = {name: cell.draws[name] for name in self.metrics if name in cell.draws}
        return cell

    def add_curve(self, cell: Cell, roc: Roc, scores: np.ndarray) -> None:
        """Add the ROC curve at the FARs that the data supports, its band, and the bootstrap samples of TAR."""
        fars = BAND_FARS[BAND_FARS * len(roc.different) >= 1]
        cell.curve = {"far": fars, "tar": roc.at(fars)[0]}
        if len(self.weights):
            samples, limits = self.pair_draws.at(scores, np.concatenate([FARS, fars[fars <= FARS[-1]]]))
            cell.limits |= named("TAR", FARS, limits.T[:len(FARS)])
            cell.draws |= named("TAR", FARS, samples.T[:len(FARS)])
            band = np.array([interval(column) or (np.nan, np.nan) for column in samples.T[len(FARS):]]).reshape(-1, 2)
            cell.curve |= {"low": band[:, 0], "high": band[:, 1]}


def named(kind: str, rates: np.ndarray, values: np.ndarray) -> dict:
    """{"TAR@1e-4": value, ...} of a kind of metric and its rates."""
    return {f"{kind}@{rate(x)}": value for x, value in zip(rates, values, strict=True)}
