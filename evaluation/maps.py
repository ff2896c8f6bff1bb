"""Free baselines: linear maps from new to old features, fitted on the features of the same images by both models.

Nothing is trained. The old features of the training images exist already (tools/get_feature); the new ones take one pass over
the images. X [n, d] are the new features and Y the old ones, both scaled to rows of norm 1.
    Procrustes   the rotation R that minimises |X R - Y|: X'Y = U S V',  R = U V'   (Schoenemann, Psychometrika 1966)
    ridge        W = (X'X + l n/d I)^-1 X'Y
If the dimensions differ, R has orthonormal rows or columns. A tenth of the images is held out: l is the strength with the
smallest error on them, and the errors that are reported are those on them. The maps themselves are then fitted on all images.
"""

from pathlib import Path

import numpy as np

from evaluation.verification import unit_rows
from utils.errors import UserError
from utils.origin import load_array, load_origin

ROWS_PER_BLOCK = 65_536                     # feature rows in memory at a time
STRENGTHS = 10.0 ** np.arange(-6, 1)        # candidates for ridge's l, relative to the mean square of a row
HELD_OUT_EVERY = 10                         # every tenth image is held out


class Moments:
    """X'X, X'Y and |Y|^2 in float64, added up block by block."""

    def __init__(self, dims: tuple[int, int]):
        """dims: dimensions of X and of Y."""
        self.xx, self.xy, self.yy, self.rows = np.zeros((dims[0],) * 2), np.zeros(dims), 0.0, 0

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add rows [n, d_new] and [n, d_old] of the same images."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += np.square(y).sum()
        self.rows += len(x)

    def error(self, w: np.ndarray) -> float:
        """|X w - Y|^2 per row, of a map w [d_new, d_old]."""
        return float((np.sum(w * (self.xx @ w)) - 2 * np.sum(w * self.xy) + self.yy) / max(self.rows, 1))


def fit_maps(new: Path, old: Path) -> dict[str, tuple[np.ndarray, float]]:
    """{"Procrustes" and "ridge": (map float32 [d_new, d_old], squared error per held-out row)} from two .npy files.

    Row i of both belongs to image i.  UserError if the files are not features of the same images or hold NaN or infinity.
    """
    x, y = (load_array(file, "python tools/get_feature/get_feature.py", whole=True) for file in (new, old))
    records = {load_origin(file).get("records") for file in (new, old)} - {None}
    if len(records) == 2:
        raise UserError(f"{new} and {old} are features of the images of two different record files; expected one: run "
                        f"tools/get_feature/get_feature.py with both models on the same records")
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2 * HELD_OUT_EVERY:
        raise UserError(f"{new} holds {list(x.shape)}, {old} holds {list(y.shape)}; expected features of the same images by "
                        f"both models, at least {2 * HELD_OUT_EVERY} of them: run tools/get_feature/get_feature.py with both")
    seen, held = (Moments((x.shape[1], y.shape[1])) for _ in range(2))
    for start in range(0, len(x), ROWS_PER_BLOCK):
        rows = np.arange(start, min(start + ROWS_PER_BLOCK, len(x)))
        for part, chosen in ((held, rows % HELD_OUT_EVERY == 0), (seen, rows % HELD_OUT_EVERY != 0)):
            new_rows, old_rows = unit_rows(x, rows[chosen]), unit_rows(y, rows[chosen])
            if not (np.isfinite(new_rows).all() and np.isfinite(old_rows).all()):
                raise UserError(f"{new} or {old} holds NaN or infinity between rows {start} and {start + ROWS_PER_BLOCK}; "
                                f"extract the features again")
            part.add(new_rows, old_rows)
    strength = min(STRENGTHS, key=lambda candidate: held.error(ridge(seen, candidate)))
    errors = {"Procrustes": held.error(procrustes(seen)), "ridge": held.error(ridge(seen, strength))}
    for name in ("xx", "xy", "yy", "rows"):
        setattr(seen, name, getattr(seen, name) + getattr(held, name))
    maps = {"Procrustes": procrustes(seen), "ridge": ridge(seen, strength)}
    return {name: (w.astype(np.float32), errors[name]) for name, w in maps.items()}


def procrustes(moments: Moments) -> np.ndarray:
    """R, float64 [d_new, d_old]."""
    u, _, v = np.linalg.svd(moments.xy, full_matrices=False)
    return u @ v


def ridge(moments: Moments, strength: float) -> np.ndarray:
    """W, float64 [d_new, d_old]; strength: l."""
    return np.linalg.solve(moments.xx + strength * moments.rows / len(moments.xx) * np.eye(len(moments.xx)), moments.xy)
