"""The form of a map, and the maps that have a closed form or a convex-like fit from sums over the rows.

A map is g(u) = u W + b, or with a hidden layer g(u) = u W + b + gelu(u W1 + b1) W2, of rows u of norm 1. A feature x of any norm
becomes |x| g(x / |x|): the norm, which weights images in a template, is kept, and without b it is x W.

X, Y: rows of norm 1; n rows; C = X'X and D = X'Y of the rows minus their means.
    Procrustes         the W with W'W = I (W W' = I if d_in < d_out) that minimises |X W - Y|: X'Y = U S V', W = U V'
                       (Schoenemann, Psychometrika 1966)
    ridge              W = (X'X + l n/d I)^-1 X'Y; l is chosen
    low-rank           B = (C + l n/d I)^-1 D and W = B V V', V the r first eigenvectors of B'(C + l n/d I) B: the minimum of
                       |X W + b - Y|^2 + l n/d |W|^2 among the W of rank r (Mukherjee and Zhu, Statistical Analysis and Data
                       Mining 2011); l and r are chosen
    lambda-orthogonal  the minimum of |X W + b - Y|^2 / n + 10 max(0, |W'W - I| - lambda)^2 (W W' if d_in < d_out; Frobenius
                       norms); lambda is chosen as a share of |I| = sqrt(d), d the
                       smaller dimension
    residual-MLP       map_training.py
b is the best one for W, (mean of Y) - (mean of X) W; Procrustes and ridge have none.

Drift-Adapter (Vejendla, EMNLP 2025) proposes Procrustes, a low-rank affine map and a residual MLP, fitted on a sample of pairs of
features; "lambda-Orthogonality Regularization for Compatible Representation Learning" (Ricci et al., NeurIPS 2025) an affine map
with a relaxed constraint of orthogonality. We could read the abstracts of both, but not ranks, widths, lambda, losses or
training: the formulas and sizes here are this project's, and the strengths are chosen on held-out rows. Where the paper trains
the low-rank map by gradient steps, this is the optimum in closed form.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from evaluation.map_pairs import Moments

Hidden = tuple[np.ndarray, np.ndarray, np.ndarray]
RIDGES = tuple(float(x) for x in 10.0 ** np.arange(-6, 3))      # candidates for l, relative to the mean square of a row
LAMBDAS = (0.25, 0.5, 0.75)                                     # candidates for lambda / |I|
PENALTY = 10.0              # of lambda-orthogonal: lambda is then exceeded by about 1 %
MAX_ITERATIONS = 100        # of L-BFGS, for each lambda
ROWS_PER_BLOCK = 65_536     # rows mapped at a time


@dataclass(frozen=True)
class Map:
    """From rows [n, d_in] to rows [n, d_out]."""

    weight: np.ndarray              # W, float32 [d_in, d_out]
    bias: np.ndarray                # b, float32 [d_out]
    hidden: Hidden | None = None    # W1 [d_in, h], b1 [h], W2 [h, d_out], float32

    @property
    def dims(self) -> tuple[int, int]:
        """d_in, d_out."""
        return self.weight.shape        # type: ignore[return-value]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """|x| g(x / |x|), float32 [n, d_out], of rows [n, d_in]; a row of zeros stays zero."""
        out = np.empty((len(x), self.dims[1]), np.float32)
        for start in range(0, len(x), ROWS_PER_BLOCK):
            rows = np.asarray(x[start:start + ROWS_PER_BLOCK], np.float32)
            norm = np.linalg.norm(rows, axis=1, keepdims=True)
            y = rows @ self.weight + norm * self.bias
            if self.hidden is not None:
                w1, b1, w2 = self.hidden
                y += norm * (gelu(rows / np.maximum(norm, 1e-12) @ w1 + b1) @ w2)
            out[start:start + ROWS_PER_BLOCK] = y
        return out


def gelu(x: np.ndarray) -> np.ndarray:
    """x Phi(x), float32; Phi: distribution function of the normal distribution."""
    return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()


def affine(w: np.ndarray, b: np.ndarray | None = None) -> Map:
    """The map of float64 W and b (default: 0)."""
    return Map(w.astype(np.float32), np.zeros(w.shape[1], np.float32) if b is None else b.astype(np.float32))


def procrustes(sums: Moments) -> np.ndarray:
    """W, float64 [d_in, d_out]."""
    u, _, v = np.linalg.svd(sums.xy, full_matrices=False)
    return u @ v


def ridge(sums: Moments, strength: float) -> np.ndarray:
    """W, float64 [d_in, d_out]; strength: l."""
    return np.linalg.solve(sums.xx + penalty(sums, strength), sums.xy)


def penalty(sums: Moments, strength: float) -> np.ndarray:
    """l n/d I."""
    return strength * sums.n / len(sums.xx) * np.eye(len(sums.xx))


def ranks(dims: tuple[int, int]) -> list[int]:
    """Candidates for the rank r: powers of two below both dimensions."""
    return [2 ** k for k in range(min(dims).bit_length()) if 2 ** k < min(dims)] or [1]


def low_rank(sums: Moments, strength: float, candidates: list[int]) -> list[np.ndarray]:
    """W of each rank in ``candidates``, float64 [d_in, d_out]; strength: l."""
    c, d = sums.centred()
    c = c + penalty(sums, strength)
    full = np.linalg.solve(c, d)
    vectors = np.linalg.eigh(full.T @ c @ full)[1][:, ::-1]
    return [full @ vectors[:, :rank] @ vectors[:, :rank].T for rank in candidates]


def lambda_orthogonal(sums: Moments, shares: tuple[float, ...]) -> list[np.ndarray]:
    """W for each lambda / |I| in ``shares``, ascending, float64 [d_in, d_out]; each fit starts from the one before it.

    W is fitted as U' W, U the eigenvectors of C: nothing in the loss but C depends on the basis, and there C is diagonal.
    """
    c, d = (array / sums.n for array in sums.centred())
    values, vectors = np.linalg.eigh(c)
    w, out = vectors.T @ procrustes(sums), []
    for share in shares:
        arguments = values, vectors.T @ d, share * np.sqrt(min(d.shape))
        found = minimize(relaxed_loss, w.ravel(), arguments, "L-BFGS-B", jac=True,
                         options={"maxiter": MAX_ITERATIONS, "maxcor": 20})
        w = found.x.reshape(w.shape)
        out.append(vectors @ w)
    return out


def relaxed_loss(flat: np.ndarray, c: np.ndarray, d: np.ndarray, threshold: float) -> tuple[float, np.ndarray]:
    """(loss of lambda-orthogonal without its constant, its gradient).

    flat: W; c: diagonal of C / n; d: D / n; threshold: lambda.
    """
    w = flat.reshape(d.shape)
    cw, tall = c[:, None] * w, w.shape[0] >= w.shape[1]
    gram = (w.T @ w if tall else w @ w.T) - np.eye(min(w.shape))
    size = np.linalg.norm(gram)
    excess = max(0.0, size - threshold)
    loss, gradient = np.sum(w * (cw - 2 * d)) + PENALTY * excess ** 2, 2 * (cw - d)
    if excess:
        gradient += 4 * PENALTY * excess / size * (w @ gram if tall else gram @ w)
    return float(loss), gradient.ravel()
