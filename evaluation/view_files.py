"""The compatible view of a model as a file next to it: view_<d_o>.npz, a map (map_files.py) from d_n to d_o dimensions.

A training writes it whenever the old features have other dimensions than the new ones, also if the view is only a cut. Whoever
compares the model with features of d_o dimensions finds it there, and says so.
"""

from pathlib import Path

import numpy as np

from evaluation.map_files import load_map
from evaluation.map_forms import Map
from evaluation.maps import BACKWARD
from utils.arrays import read_npz
from utils.errors import UserError
from utils.files import whole_file
from utils.origin import short


def view_file(folder: Path, dim: int) -> Path:
    return folder / f"view_{dim}.npz"


def folder_of(file: str | Path) -> Path:
    """The folder in which the views of a version are: that of its model.pt, or the folder of its features itself."""
    return Path(file) if Path(file).is_dir() else Path(file).parent


def save_view(folder: Path, matrix: np.ndarray, fingerprint: str) -> None:
    """Write a view: v(f) = f @ matrix, float32 [d_n, d_o].  fingerprint: of its model.  OSError if it fails.

    A view is trained, not fitted, so no error was measured: the file has 0.
    """
    with whole_file(view_file(folder, matrix.shape[1])) as part, open(part, "wb") as file:
        np.savez(file, weight=matrix, bias=np.zeros(matrix.shape[1], np.float32), direction=np.array(BACKWARD),
                 kind=np.array("view"), strength=np.array("none"), error=np.array(0.0), images=np.array(0),
                 model=np.array(fingerprint))


def find_view(file: str | Path, dims: tuple[int, int], fingerprint: str | None) -> Map | None:
    """The view next to a model.pt, or in a folder of features, from d_n to d_o dimensions; None if there is no such file.

    fingerprint: of the model, None: not compared.  UserError if the file is not a view, or that of another model.
    """
    path = Path(file)
    if not path.is_dir() and path.suffix.lower() not in (".pt", ".pth"):
        return None
    path = view_file(folder_of(path), dims[1])
    if not path.is_file():
        return None
    mapping, direction, _ = load_map(path)
    if mapping.dims != dims or direction != BACKWARD:
        raise UserError(f"{path} goes from {mapping.dims[0]} to {mapping.dims[1]} dimensions ({direction}), expected "
                        f"{dims[0]} to {dims[1]}; copy the file that the training of {file} wrote next to it")
    belongs_to = str(read_npz(path, ("model",)).get("model", ""))
    if fingerprint is not None and belongs_to != fingerprint:
        raise UserError(f"{path} is the view of the model {short(belongs_to) or 'unknown'}, but {file} is {short(fingerprint)}; "
                        f"copy both from one training, or resume the training that was stopped between writing them")
    return mapping
