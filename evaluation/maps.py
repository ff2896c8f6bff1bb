"""Maps between the features of two models, fitted on features of the same images by both, without labels and without images.

    new to old   new queries are mapped into the space of the stored vectors, which stay as they are
    old to new   the stored vectors are mapped once into the new space, and queries stay new

The rows (images) are in three parts. Strengths are chosen on every tenth row; the error that is reported is that on every other
tenth row, of the map fitted on the remaining nine; the map itself is then fitted on all rows. Rows of one person are usually in
all parts, so for people that no row shows the error is somewhat larger.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import map_training
from evaluation.map_forms import LAMBDAS, RIDGES, Map, affine, lambda_orthogonal, low_rank, procrustes, ranks, ridge
from evaluation.map_pairs import Pairs, read_pairs
from utils.errors import UserError

KINDS = ("Procrustes", "ridge", "low-rank", "lambda-orthogonal", "residual-MLP")
BACKWARD, FORWARD = "new to old", "old to new"
UNRELATED = 0.99        # held-out error relative to that of a constant vector, from which the rows do not belong together
CURVE = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)


@dataclass(frozen=True)
class Fitted:
    """A map and how good it is."""

    kind: str
    map: Map
    strength: str       # the strength that was chosen, as text
    error: float        # |g(u) - y|^2 per held-out row, y of norm 1: 0 is perfect, 2 is chance
    cosine: float       # mean cosine of g(u) and y over the held-out rows
    images: int         # rows that the map is fitted on
    seconds: float      # of choosing and fitting


def choose(kind: str, fit: Pairs, held: Pairs, seed: int = 0) -> Any:
    """The strength, as :func:`solve` takes it, with the smallest error on ``held`` of the maps fitted on ``fit``."""
    sums = fit.moments
    errors: dict[Any, float] = {}
    if kind == "residual-MLP":
        strength = choose("ridge", fit, held)
        epochs = map_training.epochs_for(len(fit))
        return strength, map_training.train(fit, ridge(sums, strength), epochs, seed, held)[1]
    if kind == "ridge":
        errors = {strength: held.moments.error(ridge(sums, strength), np.zeros(fit.dims[1])) for strength in RIDGES}
    elif kind == "low-rank":
        for strength in RIDGES:
            for rank, w in zip(ranks(fit.dims), low_rank(sums, strength, ranks(fit.dims)), strict=True):
                errors[strength, rank] = held.moments.error(w, sums.bias(w))
    elif kind == "lambda-orthogonal":
        errors = {share: held.moments.error(w, sums.bias(w))
                  for share, w in zip(LAMBDAS, lambda_orthogonal(sums, LAMBDAS), strict=True)}
    return min(errors, key=lambda strength: errors[strength]) if errors else None


def solve(kind: str, pairs: Pairs, strength: Any, seed: int = 0) -> Map:
    """The map of a kind, fitted on ``pairs``.  strength: of :func:`choose`."""
    sums = pairs.moments
    if kind == "Procrustes":
        return affine(procrustes(sums))
    if kind == "ridge":
        return affine(ridge(sums, strength))
    if kind == "residual-MLP":
        w = ridge(sums, strength[0])
        return replace(affine(w), hidden=map_training.train(pairs, w, strength[1], seed)[0])
    if kind == "low-rank":
        w = low_rank(sums, strength[0], [strength[1]])[0]
    else:
        w = lambda_orthogonal(sums, tuple(share for share in LAMBDAS if share <= strength))[-1]
    return affine(w, sums.bias(w))


def words(kind: str, strength: Any) -> str:
    """A strength as text."""
    if kind == "Procrustes":
        return "none"
    if kind == "ridge":
        return f"l = {strength:g}"
    if kind == "low-rank":
        return f"l = {strength[0]:g}, rank {strength[1]}"
    if kind == "lambda-orthogonal":
        return f"lambda = {strength:g} sqrt(d)"
    return f"l = {strength[0]:g}, {strength[1]} epochs"


def measure(mapping: Map, pairs: Pairs) -> tuple[float, float]:
    """(|g(u) - y|^2 per row, mean cosine of g(u) and y)."""
    error = cosine = 0.0
    for x, y in pairs.blocks():
        mapped = mapping(x)
        error += float(np.square(mapped - y, dtype=np.float64).sum())
        cosine += float(((mapped * y).sum(1) / np.maximum(np.linalg.norm(mapped, axis=1), 1e-12)).sum())
    return error / len(pairs), cosine / len(pairs)


def fit_one(kind: str, pairs: Pairs, seed: int = 0) -> Fitted:
    """The map of a kind, fitted on all ``pairs``, with its error on rows that neither the fit nor the choice has seen."""
    start = time.perf_counter()
    fit, held, report = pairs.folds
    strength, rest = choose(kind, fit, held, seed), fit.joined(held)
    error, cosine = measure(solve(kind, rest, strength, seed), report)
    mapping = solve(kind, rest.joined(report), strength, seed)
    return Fitted(kind, mapping, words(kind, strength), error, cosine, len(pairs), time.perf_counter() - start)


def fit_maps(new: Path, old: Path, kinds: tuple[str, ...] = KINDS[:2], direction: str = BACKWARD) -> dict[str, Fitted]:
    """{kind: map} from two .npy files whose rows i belong to image i.

    UserError if they are not features of the same images, or hold NaN, infinity or zeros.
    """
    pairs = read_pairs(new, old)
    pairs = pairs if direction == BACKWARD else pairs.reversed()
    check_related(pairs, f"{new} and {old}")
    return {kind: fit_one(kind, pairs) for kind in kinds}


def check_related(pairs: Pairs, files: str) -> None:
    """UserError if rows i of both sides do not show the same image, as far as ridge can see it.

    If it is no better on held-out rows than one constant vector, the rows are in different orders, unless both files are of one
    record file: then a model tells nothing about its images, which is no reason to end a comparison. If it meets row i + 1,
    say, better than row i, one file has a row more at its beginning. An order that differs only among pictures of one person is
    not seen.
    """
    fit, held, report = pairs.folds
    rest = fit.joined(held)
    mapping = solve("ridge", rest, choose("ridge", fit, held))
    error, constant = measure(mapping, report)[0], report.moments.error(np.zeros(pairs.dims), rest.moments.y / len(rest))
    if not error < UNRELATED * constant and not pairs.same_records:
        raise UserError(f"the rows of {files} do not belong together: ridge leaves a squared error of {error:.3f} on held-out "
                        f"rows, a constant vector {constant:.3f}; expected row i of both files to be image i: bring them into "
                        f"the same order")
    for shift in (-2, -1, 1, 2):
        difference = shifted_difference(mapping, pairs, report.rows, shift)
        if len(difference) > 9 and difference.mean() > 3 * difference.std() / np.sqrt(len(difference)):
            raise UserError(f"the rows of {files} are shifted: row i of one fits row i{shift:+d} of the other better than row i; "
                            f"expected row i of both files to be image i: bring them into the same order")


def shifted_difference(mapping: Map, pairs: Pairs, rows: np.ndarray, shift: int) -> np.ndarray:
    """By how much |g(u) - y|^2 is larger for y of the same row than for y ``shift`` rows later, one number per row."""
    rows = rows[(rows + shift >= 0) & (rows + shift < len(pairs.x))][:20_000]
    (x, y), (_, later) = pairs.unit(rows), pairs.unit(rows + shift)
    there = later.any(axis=1)               # a row of zeros is an image without a vector
    mapped = mapping(x[there])
    return np.square(mapped - y[there]).sum(1) - np.square(mapped - later[there]).sum(1)


def curve(kinds: tuple[str, ...], pairs: Pairs, seeds: int) -> dict[int, dict[str, list[float]]]:
    """{number of images: {kind: error for each seed}}: maps fitted on random samples, measured on rows of no sample.

    The largest number is all rows but those held out, with one seed.
    """
    fit, held, report = pairs.folds
    rest, out = fit.joined(held), {}
    for count in [*(count for count in CURVE if count < len(rest)), len(rest)]:
        out[count] = {kind: [error_on(kind, rest.sample(count, seed), report, seed)
                             for seed in range(seeds if count < len(rest) else 1)] for kind in kinds}
    return out


def error_on(kind: str, sample: Pairs, report: Pairs, seed: int) -> float:
    """|g(u) - y|^2 per row of ``report`` of a map fitted on ``sample``, a tenth of which chooses the strength."""
    fit, held, third = sample.folds
    return measure(solve(kind, sample, choose(kind, fit.joined(third), held, seed), seed), report)[0]
