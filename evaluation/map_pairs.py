"""Features of the same images by two models: reading, checks, and sums over them.

X [n, d_in] are the features that are mapped and Y [n, d_out] what they are mapped to, both scaled to rows of norm 1.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from evaluation.verification import unit_rows
from old_model.present import load_present
from utils.errors import UserError
from utils.origin import describe, load_array, load_origin

ROWS_PER_BLOCK = 65_536     # feature rows in memory at a time
MIN_IMAGES = 20             # below it there is no row to hold out twice
MADE_BY = "python tools/get_feature/get_feature.py"
Folds = tuple["Pairs", "Pairs", "Pairs"]


class Moments:
    """Sums over n rows in float64: X'X, X'Y, |Y|^2, the sum of the rows of X and of Y."""

    def __init__(self, dims: tuple[int, int]):
        """dims: d_in, d_out."""
        self.xx, self.xy, self.yy, self.n = np.zeros((dims[0],) * 2), np.zeros(dims), 0.0, 0
        self.x, self.y = np.zeros(dims[0]), np.zeros(dims[1])

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add rows [n, d_in] and [n, d_out] of the same images."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += np.square(y).sum()
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.n += len(x)

    def __add__(self, other: "Moments") -> "Moments":
        out = Moments(self.xy.shape)        # type: ignore[arg-type]
        for name in vars(out):
            setattr(out, name, getattr(self, name) + getattr(other, name))
        return out

    def centred(self) -> tuple[np.ndarray, np.ndarray]:
        """X'X and X'Y of the rows minus their means."""
        return self.xx - np.outer(self.x, self.x) / self.n, self.xy - np.outer(self.x, self.y) / self.n

    def bias(self, w: np.ndarray) -> np.ndarray:
        """The b [d_out] with the smallest |X w + b - Y|."""
        return (self.y - self.x @ w) / self.n

    def error(self, w: np.ndarray, b: np.ndarray) -> float:
        """|X w + b - Y|^2 per row; w [d_in, d_out], b [d_out]."""
        squares = np.sum(w * (self.xx @ w)) + self.n * (b @ b) + self.yy
        return float((squares + 2 * (self.x @ w) @ b - 2 * np.sum(w * self.xy) - 2 * b @ self.y) / self.n)


class Pairs:
    """Some of the rows of two feature arrays, row i of both of image i."""

    same_records = False        # whether both files say that they are of one record file: row i of both is then image i

    def __init__(self, x: np.ndarray, y: np.ndarray, rows: np.ndarray, first: np.ndarray | None = None):
        """x [N, d_in], y [N, d_out]: may be mapped from files; rows: int [n], which of the N.

        first: int [N], the first row with the features of each row; None: all rows differ.
        """
        self.x, self.y, self.rows, self.first = x, y, rows, first

    @property
    def dims(self) -> tuple[int, int]:
        """d_in, d_out."""
        return self.x.shape[1], self.y.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def unit(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """X and Y of these rows of the arrays, float32."""
        return unit_rows(self.x, rows), unit_rows(self.y, rows)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """X and Y block by block."""
        for start in range(0, len(self.rows), ROWS_PER_BLOCK):
            yield self.unit(self.rows[start:start + ROWS_PER_BLOCK])

    @cached_property
    def moments(self) -> Moments:
        out = Moments(self.dims)
        for x, y in self.blocks():
            out.add(x, y)
        return out

    def joined(self, other: "Pairs") -> "Pairs":
        """The rows of both, which are parts of the same arrays."""
        out = Pairs(self.x, self.y, np.sort(np.concatenate([self.rows, other.rows])), self.first)
        out.moments = self.moments + other.moments      # no second pass over the rows
        return out

    def reversed(self) -> "Pairs":
        """The same images with the sides exchanged."""
        out = Pairs(self.y, self.x, self.rows, self.first)
        out.same_records = self.same_records
        return out

    @cached_property
    def folds(self) -> Folds:
        """(to fit: 8 of 10 images, to choose the strength: the second of 10, to report the error: the first of 10).

        Rows with the same features are one image: in two parts, the error would be one of an image that the fit has seen.
        """
        image = np.arange(len(self)) if self.first is None else np.unique(self.first[self.rows], return_inverse=True)[1]
        place = image % 10
        fit, choose, report = (Pairs(self.x, self.y, self.rows[chosen], self.first)
                               for chosen in (place > 1, place == 1, place == 0))
        return fit, choose, report

    def sample(self, count: int, seed: int) -> "Pairs":
        """``count`` of the rows, drawn without replacement."""
        rows = np.random.default_rng(seed).choice(self.rows, count, replace=False)
        return Pairs(self.x, self.y, np.sort(rows), self.first)


def read_pairs(new: Path, old: Path) -> Pairs:
    """The rows of two .npy files, new features as X and old ones as Y, of the images that have a vector in both.

    UserError if they are not float features of the same images, or if such a row has no direction.
    """
    x, y = (load_array(file, MADE_BY, whole=True) for file in (new, old))
    origins = [load_origin(file) for file in (new, old)]
    for what in ("records", "images"):
        if len({origin.get(what) for origin in origins} - {None}) == 2:
            raise UserError(f"{new} and {old} are features of the images of two different record files; expected one: run "
                            f"tools/get_feature/get_feature.py with both models on the same records")
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < MIN_IMAGES or {x.dtype.kind, y.dtype.kind} != {"f"}:
        raise UserError(f"{new} holds {describe(x)}, {old} holds {describe(y)}; expected float features of the same images by "
                        f"both models, at least {MIN_IMAGES} of them: run tools/get_feature/get_feature.py with both")
    pairs, same, keys = Pairs(x, y, rows_of_both(new, old, len(x))), x.shape == y.shape, []
    for start in range(0, len(pairs), ROWS_PER_BLOCK):
        rows = pairs.rows[start:start + ROWS_PER_BLOCK]
        check_directions(x[rows], new, rows)
        check_directions(y[rows], old, rows)
        same = same and np.array_equal(x[rows], y[rows])
        keys += [hash(one.tobytes() + two.tobytes()) for one, two in zip(x[rows], y[rows], strict=True)]
    if same:
        raise UserError(f"{new} and {old} hold the same features; expected those of two models")
    pairs.first = first_rows(pairs.rows, np.array(keys), len(x), f"{new} and {old}")
    pairs.same_records = origins[0].get("records") == origins[1].get("records") is not None
    return pairs


def rows_of_both(new: Path, old: Path, images: int) -> np.ndarray:
    """Numbers of the images that have a vector in both files, int [n]; the others are counted.  UserError if n is too small."""
    present = np.ones(images, bool)
    for file in (new, old):
        marks = load_present(file, images)
        if marks is not None:
            present &= marks
    rows = np.flatnonzero(present)
    if len(rows) < images:
        print(f"{images - len(rows)} of {images} images have no vector in {new} or {old}; maps are fitted without them")
    if len(rows) < MIN_IMAGES:
        raise UserError(f"{len(rows)} images have a vector in both {new} and {old}; expected at least {MIN_IMAGES}")
    return rows


def first_rows(rows: np.ndarray, keys: np.ndarray, images: int, files: str) -> np.ndarray | None:
    """The first row with the key of each row, int [images]; None if all keys differ.  rows: of the keys, int [n].

    UserError if too few of them differ.
    """
    distinct, place, inverse = np.unique(keys, return_index=True, return_inverse=True)
    if len(distinct) < MIN_IMAGES:
        raise UserError(f"{len(distinct)} of the {len(rows)} rows of {files} differ; expected at least {MIN_IMAGES} images")
    if len(distinct) == len(rows):
        return None
    print(f"{len(rows) - len(distinct):,} of {len(rows):,} rows of {files} repeat the features of another row; they count as one "
          f"image, so the error is that of images that the map was not fitted on")
    first = np.arange(images)
    first[rows] = rows[place[inverse]]
    return first


def check_directions(features: np.ndarray, file: Path, rows: np.ndarray) -> None:
    """UserError that names the first row without a direction: NaN, infinity or only zeros.  rows: their numbers, int [n]."""
    with np.errstate(over="ignore", invalid="ignore"):
        norm = np.linalg.norm(features.astype(np.float32, copy=False), axis=1)
    unusable = np.flatnonzero(~np.isfinite(norm) | (norm == 0))
    if len(unusable):
        raise UserError(f"{file} holds NaN, infinity or only zeros in row {rows[unusable[0]]}; extract the features again")
