"""Judgement of every candidate, and the report that tables, pictures and page show."""

import argparse
import shlex
import sys

import numpy as np
from tqdm import tqdm

from evaluation.backfill import Curve, backfill, orders_of, summary
from evaluation.cells import Measure
from evaluation.evaluation_set import Evaluation
from evaluation.formats import tidy
from evaluation.judgement import NO_VERDICT, average_compatibility, compare_cells, known_gains, overall, p_scores, update_gain
from evaluation.sanity import (
    Warning,
    at_chance,
    below_mixed,
    guessing,
    identical,
    is_weak,
    leave_out,
    same_rows,
    useless_maps,
)
from evaluation.score_maps import score_maps
from evaluation.thresholds import advice, fixed_threshold, flips, mean_thresholds, operating_points, thresholds_of
from evaluation.trainings import Trainings, pick
from evaluation.versions import Versions
from tools.compare.answer import first_answer

FEW_DRAWS = 200         # bootstrap samples below which intervals are called rough


class Comparison:
    """One comparison: the matrix of cells, what is said about each candidate, and the warnings.

    matrix: {(query, gallery): the cells of the trainings}; of cells on other galleries than the old one only figures are kept.
    """

    def __init__(self, args: argparse.Namespace, evaluation: Evaluation, versions: Versions):
        self.args, self.versions, self.evaluation = args, versions, evaluation
        self.olds = len(versions.trainings[versions.old])
        self.candidates = [name for name in versions.candidates if versions.fits(name, versions.old)]
        self.warnings = self.about_data()
        self.matrix: dict[tuple[str, str], Trainings] = {}
        self.entry_thresholds: dict[str, list[dict]] = {}
        self.points: dict[tuple[str, str], dict[str, list[dict]]] = {}      # (query, gallery) -> thresholds, first trainings
        self.alone: dict[str, tuple[np.ndarray, np.ndarray]] = {}      # version -> what sanity.identical finds
        self.measure = self.new_measure()
        self.orders = orders_of(evaluation, versions.features[versions.old], args.orders) if args.backfill else {}
        self.subjects = len(self.measure.weights[0]) if len(self.measure.weights) else 0

    def about_data(self) -> list[Warning]:
        """What was assumed about the inputs when they were read."""
        return [Warning(text) for text in (*self.evaluation.data_notes, *self.versions.warnings)]

    def new_measure(self) -> Measure:
        return Measure(self.evaluation, self.args.draws, self.args.seed, str(self.args.devices[0]))

    def fill(self, bar: tqdm) -> None:
        """Compute the matrix; if pictures are on both sides, a second time without them."""
        self.fill_matrix(bar)
        both = [np.all([found[k] for found in self.alone.values()], axis=0) for k in (0, 1)]
        if both[0].any() or both[1].any():
            smaller = leave_out(self.evaluation, *both)
            if smaller is not None:
                text = (f"{both[0].sum():,} probes and {both[1].sum():,} genuine pairs are left out, because their row equals a "
                        f"gallery row of the same person in every version: they are on both sides")
                self.warnings = [*self.about_data(), Warning(text)]
                self.evaluation = smaller
                self.measure = self.new_measure()
                self.subjects = self.measure.weights.shape[1]
                self.matrix, self.alone = {}, {}
                self.fill_matrix(bar)
        self.warnings += same_rows(self.evaluation, self.alone)

    def fill_matrix(self, bar: tqdm) -> None:
        """All cells of versions whose dimensions agree; with intervals if a verdict or a check rests on the cell."""
        versions = self.versions
        for gallery in versions.trainings:
            for query in versions.trainings:
                if versions.fits(query, gallery):
                    self.matrix[query, gallery] = self.cells(query, gallery)
                bar.update()

    def cells(self, query: str, gallery: str) -> Trainings:
        """The cells of each training of one version's queries on one version's gallery."""
        queries, galleries = self.versions.trainings[query], self.versions.trainings[gallery]
        count, old = max(len(queries), len(galleries)), self.versions.old
        cells = []
        for k in range(count):
            sides = self.versions.sides(query, gallery, k, count)
            assert sides is not None, "cells of versions that do not fit"
            cell = self.measure(*sides, query == gallery or gallery == old)
            if k == 0 and (query == gallery or gallery == old):
                self.points[query, gallery] = operating_points(self.evaluation, cell)
            if query == gallery:
                self.look_at(query, cell, first=k == 0)
            if gallery != old:
                cell.scores, cell.hits = None, {}       # 63 MB at IJB-C's size; only those on the old gallery are needed
            cells.append(cell)
        return Trainings(cells, self.olds if count > 1 else 1)

    def look_at(self, name: str, cell, first: bool) -> None:
        """Check a version alone, while its scores are here."""
        if (warning := at_chance(self.evaluation, name, cell)) and warning not in self.warnings:
            self.warnings.append(warning)
        found = identical(self.evaluation, cell)
        self.alone[name] = found if first else tuple(a & b for a, b in zip(found, self.alone[name], strict=True))   # type: ignore
        if name != self.versions.old and (name, self.versions.old) in self.matrix and first:
            cross = self.matrix[name, self.versions.old].cells[0]
            self.entry_thresholds[name] = thresholds_of(self.evaluation, cross, cell)

    # --- one candidate -----------------------------------------------------------------------------------------------------

    def judge(self, name: str, headline: list[str], counted: list[str]) -> tuple[dict, list]:
        """(the report on one candidate, the flips of its first training)."""
        versions, old = self.versions, self.matrix[self.versions.old, self.versions.old]
        cross, alone = self.matrix[name, versions.old], self.matrix[name, name]
        compared = compare_cells(cross, old, counted, self.args.margin / 100, self.subjects)
        answer, decided = overall(compared)
        if any({name, versions.old} & warning.forbids for warning in self.warnings):
            answer, decided = NO_VERDICT, None
        upgrade: dict = {"criterion": compared, "overall": answer, "decided by": decided, "free": name in versions.free,
                         "alone": self.judge_alone(alone, old, counted)}
        if versions.paragon:
            paragon = self.matrix[versions.paragon, versions.paragon]
            gain = known_gains(update_gain(cross, old, paragon), old, paragon, self.subjects)
            upgrade |= {"gain": gain} | p_scores(gain, alone, paragon)
        rates = [next((m.split("@")[1] for m in headline if m.startswith(kind)), None) for kind in ("TAR", "TPIR")]
        pairs = [(pick(old.cells, k, len(cross.cells)), one) for k, one in enumerate(cross.cells)]
        upgrade["threshold"] = mean_thresholds([fixed_threshold(self.evaluation, *pair) for pair in pairs])
        advised = [metric for metric in headline if metric in counted]
        upgrade["advice"] = advice(upgrade["threshold"], self.entry_thresholds.get(name, []), advised, self.args.margin / 100)
        upgrade["flips"], rows = flips(self.evaluation, *pairs[0], *rates)
        return upgrade, rows

    def judge_alone(self, alone: Trainings, old: Trainings, counted: list[str]) -> dict:
        """What re-embedding the whole gallery would bring: the answer for M(n, n) against M(o, o)."""
        compared = compare_cells(alone, old, counted, self.args.margin / 100, self.subjects)
        kept = ("difference", "interval", "verdict")
        return {"overall": overall(compared)[0], "criterion": {metric: {key: entry[key] for key in kept}
                                                               for metric, entry in compared.items()}}

    def plan_backfill(self, name: str, bar: tqdm) -> dict:
        """{order: points of its curves, and for each metric the area and the cost}, over all trainings.

        "mapped" has the same of mapped scores, if the gallery is large enough for score maps.
        """
        out, mapped = self.curves(name, False, bar), self.curves(name, True, bar)
        for order, entry in mapped.items():
            out[order]["mapped"] = {key: value for key, value in entry.items() if key not in ("share", "images")}
        return out

    def curves(self, name: str, with_maps: bool, bar: tqdm) -> dict:
        """{order: share, images, values of each curve, and for each metric its summary}, with raw or with mapped scores."""
        versions, old = self.versions, self.versions.old
        cross, alone, starts = self.matrix[name, old].cells, self.matrix[name, name].cells, []
        rows, subjects = self.evaluation.gallery_rows()["1:N"], self.evaluation.subjects[0]
        curves: dict[str, list[Curve]] = {}
        for k, cell in enumerate(cross):
            one, two = (pick(versions.trainings[version], k, len(cross)) for version in (old, name))
            maps = score_maps(one, two, rows, subjects) if with_maps else None
            if with_maps and maps is None:
                return {}
            ends = cell, pick(alone, k, len(cross))
            found = backfill(self.measure, one, two, ends, self.orders, self.args.backfill, bar, maps)
            for order, same in found.items():
                curves.setdefault(order, []).extend(same)
                if order == next(iter(found)):
                    starts.append(pick(self.matrix[old, old].cells, k, len(cross)).values)
        out = {}
        for order, same in curves.items():
            own = [values for values in starts for _ in range(len(same) // len(starts))]
            out[order] = {"share": same[0].share,
                          "images": {protocol: np.mean([curve.images[protocol] for curve in same], 0) for protocol in
                          same[0].images}, "values": {m: np.stack([curve.values[m] for curve in same]) for m in same[0].values},
                          **{m: summary(same, m, [values[m] for values in own], self.args.part) for m in same[0].values}}
        return out

    # --- the report --------------------------------------------------------------------------------------------------------

    def report(self) -> tuple[dict, dict]:
        """(the report; {candidate: the flips of its first training})."""
        args, upgrades, lists = self.args, {}, {}
        points = sum(len(self.versions.trainings[name]) for name in self.candidates) * sum(map(len, self.orders.values())) \
            * max(args.backfill - 1, 0) * 2         # raw and mapped
        with tqdm(total=len(self.versions.trainings) ** 2 + points, desc="comparing", unit=" cells") as bar:
            self.fill(bar)
            headline = [m for m in args.metrics or [] if m in self.measure.metrics] or self.evaluation.headline()
            counted = self.evaluation.reliable()
            self.warnings += useless_maps(self.versions.map_errors)
            for name in self.candidates:
                warning = below_mixed(name, self.matrix[name, name], self.matrix[name, self.versions.old], self.versions.old,
                                      counted, self.subjects)
                self.warnings += [warning] if warning else []
            for name in self.candidates:
                upgrades[name], lists[name] = self.judge(name, headline, counted)
                if self.orders:
                    upgrades[name]["backfill"] = self.plan_backfill(name, bar)
        report = tidy(self.facts(headline, counted) | {"upgrades": upgrades})
        return report | {"answer": first_answer(report)}, lists

    def facts(self, headline: list[str], counted: list[str]) -> dict:
        """Everything in the report that is not about one candidate."""
        args, evaluation, versions = self.args, self.evaluation, self.versions
        rows = evaluation.gallery_rows()
        facts = {
            "title": args.title, "command": shlex.join(["python", "tools/compare/compare.py", *sys.argv[1:]]),
            "evaluation": {"name": evaluation.name, "negatives": evaluation.negatives(),
                           "subjects": len(evaluation.compared_subjects()[0]),
                           "gallery rows": {protocol: len(own) for protocol, own in rows.items()},
                           "probes": len(evaluation.search.probes.subjects),
                           "gallery images": {protocol: int(evaluation.images[own].sum()) for protocol, own in rows.items()},
                           "genuine pairs": 0 if evaluation.pairs is None else int(evaluation.pairs.same.sum())},
            "draws": args.draws, "seed": args.seed, "part": args.part,
            "way": {"images": args.stored_images, "rate": args.rate}, "margin": args.margin / 100, "olds": self.olds,
            "warnings": [warning.text for warning in self.warnings], "notes": evaluation.notes() + versions.notes,
            "old": versions.old, "paragon": versions.paragon, "free": versions.free, "map errors": versions.map_errors,
            "versions": {name: about(name, versions) for name in versions.trainings},
            "guessing": guessing(evaluation), "weak": self.weak_versions(),
            "metrics": self.measure.metrics, "headline": headline, "reliable": counted, "matrix": self.figures(),
            "curves": {f"{query} / {gallery}": mean_curve(cells) for (query, gallery), cells in self.matrix.items()
                       if cells.cells[0].curve}}
        if args.sequence:
            names = [versions.old, *(text.partition("=")[0] for text in args.new)]
            facts["sequence"] = names
            facts["AC"] = {metric: average_compatibility(self.matrix, names, metric) for metric in self.measure.metrics}
            shares = ", ".join(f"{100 * facts['AC'][metric]:.0f} % in {metric}" for metric in headline)
            facts["notes"].append(f"AC, the share of the pairs (newer, older) of {', '.join(names)} that meet the criterion, is "
                                  f"{shares}")
        if 0 < args.draws < FEW_DRAWS:
            facts["notes"].append(f"The intervals are rough, because they are from {args.draws} bootstrap samples; the default "
                                  f"is 1000")
        return facts

    def weak_versions(self) -> list[str]:
        """The versions that are near guessing alone, in every figure that the data shows first."""
        guesses, metrics = guessing(self.evaluation), self.evaluation.headline()
        return [name for name in self.versions.trainings
                if is_weak({metric: self.matrix[name, name].values[metric] for metric in metrics}, guesses)]

    def figures(self) -> dict:
        """{query: {gallery: {metric: its mean, interval, and the value of each training}}}"""
        return {query: {gallery: {m: self.figure(cells, m) for m in cells.values}
                        for (q, gallery), cells in self.matrix.items() if q == query} for query in self.versions.trainings}

    def figure(self, cells: Trainings, metric: str) -> dict:
        """Mean, interval, and the value of each training."""
        found = cells.estimate(metric, self.subjects)
        span = found.interval()
        return {"value": found.value, "interval": None if span is None else [max(span[0], 0.0), min(span[1], 1.0)],
                "each": found.values}


def mean_curve(cells: Trainings) -> dict[str, np.ndarray]:
    """The mean ROC curve of the trainings, with the band of one training if there is only one."""
    first = cells.cells[0].curve
    if len(cells.cells) == 1:
        return first
    return {"far": first["far"], "tar": np.mean([cell.curve["tar"] for cell in cells.cells], 0)}


def about(name: str, versions: Versions) -> dict:
    """Dimensions, source and number of trainings of a version."""
    features = versions.trainings[name]
    files = versions.files.get(name, [])
    facts = {key: value for key, value in features[0].about.items() if key != "note"}
    return {"dim": features[0].dim, "file": ", ".join(file.file for file in files) or None,
            "network": files[0].network if files else None, "trainings": len(features)} | facts
