"""Free baselines: linear maps from new to old features, fitted on the features of the same images by both models.

Nothing is trained: the old features of the training images exist anyway (tools/get_feature), and the new model's are
one pass over the images.  Rows are taken with norm 1.
    Procrustes   the rotation R that minimises |X R - Y|: X'Y = U S V',  R = U V'   (Schoenemann, Psychometrika 1966)
    ridge        W = (X'X + l n/d I)^-1 X'Y, l by the error on a tenth of the images that the fit has not seen
With different numbers of dimensions R has orthonormal rows or columns.
"""

from pathlib import Path

import numpy as np

from evaluation.verification import unit_rows
from utils.errors import UserError
from utils.origin import load_array, load_origin

ROWS = 65_536
STRENGTHS = 10.0 ** np.arange(-6, 1)        # l of ridge, relative to the mean square of a row
HELD_OUT = 10                               # every tenth image


class Moments:
    """X'X, X'Y and |Y|^2 of two feature files, block by block."""

    def __init__(self, dims: tuple[int, int]):
        self.xx, self.xy, self.yy, self.rows = np.zeros((dims[0],) * 2), np.zeros(dims), 0.0, 0

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        x, y = x.astype(np.float64), y.astype(np.float64)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += np.square(y).sum()
        self.rows += len(x)

    def error(self, w: np.ndarray) -> float:
        """|X w - Y|^2 per row."""
        return float((np.sum(w * (self.xx @ w)) - 2 * np.sum(w * self.xy) + self.yy) / max(self.rows, 1))


def fit_maps(new: Path, old: Path) -> dict[str, tuple[np.ndarray, float]]:
    """{"Procrustes", "ridge": (map float32 [d_new, d_old], squared error per held-out row)} from two .npy files.

    Row i of both is image i.  Held-out images take part in the map that is returned, not in the choice of l.
    """
    x, y = (load_array(file, "python tools/get_feature/get_feature.py", whole=True) for file in (new, old))
    records = {load_origin(file).get("records") for file in (new, old)} - {None}
    if len(records) == 2:
        raise UserError(f"{new} and {old} are features of the images of different record files; run "
                        f"tools/get_feature/get_feature.py with both models on one")
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2 * HELD_OUT:
        raise UserError(f"{new} holds {list(x.shape)}, {old} holds {list(y.shape)}; expected features of the same images by "
                        f"both models, at least {2 * HELD_OUT} of them: run tools/get_feature/get_feature.py with both")
    seen, held = (Moments((x.shape[1], y.shape[1])) for _ in range(2))
    for start in range(0, len(x), ROWS):
        rows = np.arange(start, min(start + ROWS, len(x)))
        for part, chosen in ((held, rows % HELD_OUT == 0), (seen, rows % HELD_OUT != 0)):
            left, right = unit_rows(x, rows[chosen]), unit_rows(y, rows[chosen])
            if not (np.isfinite(left).all() and np.isfinite(right).all()):
                raise UserError(f"{new} or {old} holds NaN or infinity between the rows {start} and {start + ROWS}; "
                                f"extract the features again")
            part.add(left, right)
    strength = min(STRENGTHS, key=lambda candidate: held.error(ridge(seen, candidate)))
    errors = {"Procrustes": held.error(procrustes(seen)), "ridge": held.error(ridge(seen, strength))}
    for name in ("xx", "xy", "yy", "rows"):
        setattr(seen, name, getattr(seen, name) + getattr(held, name))
    maps = {"Procrustes": procrustes(seen), "ridge": ridge(seen, strength)}
    return {name: (w.astype(np.float32), errors[name]) for name, w in maps.items()}


def procrustes(moments: Moments) -> np.ndarray:
    u, _, v = np.linalg.svd(moments.xy, full_matrices=False)
    return u @ v


def ridge(moments: Moments, strength: float) -> np.ndarray:
    return np.linalg.solve(moments.xx + strength * moments.rows / len(moments.xx) * np.eye(len(moments.xx)), moments.xy)
