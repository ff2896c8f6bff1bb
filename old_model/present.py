"""Which images have an old vector: bool [images] in <SD>_present.npy next to the features.  Without that file all have one.

An image without one takes part in the training without the old side's term.  Its row of the features is zeros.
"""

from pathlib import Path

import numpy as np

from old_model.names import sd_of
from utils.arrays import ChosenRows
from utils.errors import UserError
from utils.origin import describe, load_array, load_origin, save_array

Rows = np.ndarray | ChosenRows
MISSING = ("refuse", "leave-out")       # what a command can do about images without a vector


def present_file(features: Path) -> Path:
    return features.with_name(f"{sd_of(features)}_present.npy")


def save_present(features: Path, present: np.ndarray, origin: dict) -> None:
    """Write the marks that belong to the file ``features``, whose checksum they keep; remove older ones if all are True."""
    file = present_file(features)
    if present.all():
        file.unlink(missing_ok=True)
        file.with_suffix(".json").unlink(missing_ok=True)
    else:
        save_array(file, present, origin | {"features": load_origin(features).get("sha256")})


def load_present(features: Path, images: int) -> np.ndarray | None:
    """True = the image has an old vector, bool [images]; None if all have one.

    UserError if the marks are not such an array, belong to other features, or if no image has a vector.
    """
    file = present_file(features)
    if not file.is_file():
        return None
    command = f"python tools/import_features/import_features.py VECTORS --SD {sd_of(features)} --missing leave-out"
    present = np.array(load_array(file, command, whole=True))
    if present.dtype != bool or present.shape != (images,) or not present.any():
        raise UserError(f"{file} holds {describe(present)}, expected bool [{images}] (True: the image has an old vector) with "
                        f"a True in it; make it again with: {command}")
    if load_origin(file).get("features") not in (None, load_origin(features).get("sha256")):
        raise UserError(f"{file} belongs to other features than {features}; remove it if all images have an old vector, or "
                        f"make both again with: {command}")
    return None if present.all() else present


def with_vector(features: np.ndarray, labels: np.ndarray, file: Path) -> tuple[Rows, np.ndarray, np.ndarray]:
    """(features [n, d] and labels int [n] of the images that have an old vector, their image numbers int64 [n]).

    features [N, d], labels int [N]: of all images, from ``file``.
    """
    present = load_present(file, len(labels))
    if present is None:
        return features, labels, np.arange(len(labels))
    rows = np.flatnonzero(present)
    return ChosenRows(features, rows), labels[rows], rows
